"""vLLM plugin: serves Hunyuan-Large and our own folders with one KV cache for each group of layers that share one."""

"""The model: config, RoPE, attention with cross-layer sharing, routing, experts, transformer, and what it all costs."""

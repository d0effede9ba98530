"""Run by the vLLM tests in a process of its own: answers prompts with vLLM, for one model after another.

python vllm_process.py JOBS    # a JSON list; each job's result is printed as one line of JSON
"""

from __future__ import annotations

import gc
import json
import os
import sys
from typing import Any

DEFAULTS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}
RESULT = "RESULT "


def answer(engine: Any, job: dict[str, Any]) -> list[dict[str, Any]]:
    """For each prompt: log-probabilities of its tokens but the first, the greedy answer and its log-probabilities."""
    from vllm import SamplingParams

    params = SamplingParams(
        temperature=0, max_tokens=job["max_tokens"], logprobs=5, prompt_logprobs=1, ignore_eos=True, detokenize=False
    )
    outputs = engine.generate([{"prompt_token_ids": ids} for ids in job["prompts"]], params, use_tqdm=False)
    found = []
    for ids, output in zip(job["prompts"], outputs, strict=True):
        made = output.outputs[0]
        found.append({
            "prompt_logprobs": [output.prompt_logprobs[i][ids[i]].logprob for i in range(1, len(ids))],
            "token_ids": list(made.token_ids),
            "logprobs": [place[token].logprob for token, place in zip(made.token_ids, made.logprobs, strict=True)],
        })  # fmt: skip
    return found


def run(job: dict[str, Any]) -> dict[str, Any]:
    """How many tokens the KV cache holds, what owns it, and the answers; or the error that stopped vLLM."""
    from vllm import LLM

    try:
        engine = LLM(
            job["folder"],
            dtype=job["dtype"],
            skip_tokenizer_init=True,
            max_model_len=256,
            max_num_seqs=8,
            kv_cache_memory_bytes=job["kv_bytes"],
            disable_log_stats=True,
            **{"enforce_eager": True, **job.get("options", {})},
        )
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    config = engine.llm_engine.vllm_config
    layers = {
        name: layer.kv_sharing_target_layer_name
        for name, layer in config.compilation_config.static_forward_context.items()
        if hasattr(layer, "kv_sharing_target_layer_name")
    }
    capacity = config.cache_config.num_gpu_blocks * config.cache_config.block_size
    return {"capacity": capacity, "layers": layers, "answers": answer(engine, job)}


def main(jobs: list[dict[str, Any]]) -> None:
    from kaiyuan.integrations.vllm.plugin import register

    register()
    for job in jobs:
        print(RESULT + json.dumps(run(job)), flush=True)
        gc.collect()


if __name__ == "__main__":
    os.environ.update({name: os.environ.get(name, value) for name, value in DEFAULTS.items()})
    main(json.loads(sys.argv[1]))

"""Tokens per second of generation: our engine against vLLM with our plugin, on the same weights folder.

    make .venv-vllm/ready
    python benchmarks/generation_vllm.py
    python benchmarks/generation_vllm.py --batches 1 8 --dtype float32 --eager

vLLM answers in a process of the environment ``--vllm``, ours in this one; both keep their model loaded and wait while
the other works. Rounds take turns and medians are compared, as in ``generation.py``. vLLM compiles the model unless
``--eager``, which is how it serves by default. Both use as many threads as ``OMP_NUM_THREADS`` says, else all cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from generation import DTYPES, Generate, measure, ours
from kaiyuan import ModelConfig, save_model
from kaiyuan.model.transformer import Transformer

THREADS = os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
READY = "READY"


def make_folder(options: argparse.Namespace, folder: Path) -> None:
    """A model of Hunyuan-Large's form: one shared and 16 specialised experts, keys and values shared by pairs."""
    config = ModelConfig(
        vocab_size=options.vocabulary, hidden_size=options.hidden, num_layers=options.layers, num_attention_heads=8,
        num_kv_heads=2, head_dim=options.hidden // 8, intermediate_size=options.width, num_experts=16,
        rope_alpha=1000.0, max_position_embeddings=4096,
    )  # fmt: skip
    model = Transformer(config)
    model.init_weights(0)
    save_model(model.to(DTYPES[options.dtype]), folder)


@contextmanager
def peer(folder: Path, options: argparse.Namespace) -> Iterator[Generate]:
    """vLLM in a process of its own, which gets one line of JSON for each call and answers with another."""
    how = {"dtype": options.dtype, "enforce_eager": options.eager}
    command = [options.vllm / "bin" / "python", __file__, "--serve", str(folder), json.dumps(how)]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env={**os.environ, **ENVIRONMENT}, **pipes) as child:
        assert child.stdin is not None and child.stdout is not None
        if not any(line.strip() == READY for line in child.stdout):
            raise SystemExit("vLLM did not start; its message is above")

        def generate(prompts: list[list[int]], count: int) -> list[list[int]]:
            child.stdin.write(json.dumps([prompts, count]) + "\n")
            child.stdin.flush()
            return json.loads(child.stdout.readline())

        yield generate
        child.stdin.close()


def answer_lines(folder: str, how: dict[str, Any]) -> None:
    """What the process of vLLM's environment does. Standard output carries answers only; vLLM's words go elsewhere."""
    answers, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
    os.dup2(2, 1)
    from vllm import LLM, SamplingParams

    engine = LLM(
        folder, skip_tokenizer_init=True, enable_prefix_caching=False, max_model_len=4096, max_num_seqs=64,
        max_num_batched_tokens=4096, kv_cache_memory_bytes=2**30, disable_log_stats=True, **how,
    )  # fmt: skip
    print(READY, file=answers, flush=True)
    for line in sys.stdin:
        prompts, count = json.loads(line)
        params = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, detokenize=False)
        outputs = engine.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
        print(json.dumps([list(output.outputs[0].token_ids) for output in outputs]), file=answers, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("hidden", 512), ("layers", 8), ("width", 1024), ("prompt", 256), ("answer", 48)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--vocabulary", type=int, default=16_384)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="bfloat16", choices=list(DTYPES))
    parser.add_argument("--eager", action="store_true", help="vLLM without torch.compile")
    parser.add_argument("--vllm", type=Path, default=Path(".venv-vllm"), help="vLLM's environment")
    options = parser.parse_args()
    options.device = "cpu"
    if not (options.vllm / "bin" / "python").exists():
        raise SystemExit(f"{options.vllm}: no environment with vLLM there; make .venv-vllm/ready")
    torch.set_num_threads(int(THREADS))
    with tempfile.TemporaryDirectory() as folder:
        make_folder(options, Path(folder))
        with peer(Path(folder), options) as vllm:
            contenders = {
                f"kaiyuan/{options.dtype}": ours(Path(folder), options.dtype, options),
                f"vllm/{'eager' if options.eager else 'compiled'}": vllm,
            }
            print(f"{options.dtype}, {THREADS} threads")
            for batch in options.batches:
                measure(contenders, options, batch)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        answer_lines(sys.argv[2], json.loads(sys.argv[3]))
    else:
        main()

"""Tokens per second of generation: our engine against transformers' ``generate``, on the same weights.

    python benchmarks/generation.py
    python benchmarks/generation.py --batches 1 8 32 --prompt 512 --answer 64

The peer is HunYuanMoEV1 with each of its expert implementations; our engine loads the folder that the peer saved.
``prefill`` is the time of a prompt and one token, ``decode`` that of all further tokens. Rounds take turns, so a slow
minute of the machine hits all, and medians are compared. How many greedy answers of the peers equal ours is shown: all
of them with ``--dtype float32``; in bfloat16 an untrained model has many near ties.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

Generate = Callable[[list[list[int]], int], list[list[int]]]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def make_folder(options: argparse.Namespace, folder: Path) -> None:
    from transformers import HunYuanMoEV1Config, HunYuanMoEV1ForCausalLM

    config = HunYuanMoEV1Config(
        vocab_size=options.vocabulary, hidden_size=options.hidden, num_hidden_layers=options.layers,
        num_attention_heads=8, num_key_value_heads=2, head_dim=options.hidden // 8, intermediate_size=options.width,
        num_experts=16, moe_topk=1, tie_word_embeddings=True, max_position_embeddings=4096,
        rope_parameters={"rope_type": "dynamic", "alpha": 1000.0, "factor": 1.0, "rope_theta": 10000.0},
    )  # fmt: skip
    torch.manual_seed(0)
    HunYuanMoEV1ForCausalLM(config).to(DTYPES[options.dtype]).save_pretrained(folder)


def ours(folder: Path, options: argparse.Namespace) -> Generate:
    from kaiyuan import Engine, SamplingParams

    engine = Engine(folder, dtype=DTYPES[options.dtype], device=options.device, prefix_cache=False)

    def generate(prompts: list[list[int]], count: int) -> list[list[int]]:
        params = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)
        return [completion.token_ids for completion in engine.generate(prompts, params)]

    return generate


def peer(folder: Path, experts: str, options: argparse.Namespace) -> Generate:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=DTYPES[options.dtype], experts_implementation=experts, local_files_only=True
    )
    model = model.to(options.device).eval()
    model.generation_config.eos_token_id = None

    def generate(prompts: list[list[int]], count: int) -> list[list[int]]:
        ids = torch.tensor(prompts, device=options.device)
        found = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, pad_token_id=0
        )
        return found[:, ids.shape[1] :].tolist()

    return generate


def prompts_of(options: argparse.Namespace, batch: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(batch)
    return torch.randint(options.vocabulary, (batch, options.prompt), generator=generator).tolist()


def seconds(generate: Generate, prompts: list[list[int]], count: int) -> float:
    start = time.perf_counter()
    generate(prompts, count)
    return time.perf_counter() - start


def measure(contenders: dict[str, Generate], options: argparse.Namespace, batch: int) -> None:
    prompts = prompts_of(options, batch)
    answers = {name: generate(prompts, 8) for name, generate in contenders.items()}
    same = sum(answers["kaiyuan"][row] == answer[row] for answer in answers.values() for row in range(batch))
    prefill: dict[str, list[float]] = {name: [] for name in contenders}
    decode: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, generate in contenders.items():
            first = seconds(generate, prompts, 1)
            whole = seconds(generate, prompts, 1 + options.answer)
            prefill[name].append(first)
            decode[name].append(whole - first)
    print(f"\nbatch {batch}: {same - batch} of {batch * (len(contenders) - 1)} greedy answers of the peers equal ours")
    for title, tokens, times in (("prefill", options.prompt, prefill), ("decode", options.answer, decode)):
        medians = {name: batch * tokens / statistics.median(values) for name, values in times.items()}
        best = max(value for name, value in medians.items() if name != "kaiyuan")
        print(f"  {title:8s} ratio to the best peer: {medians['kaiyuan'] / best:.2f}")
        for name, value in medians.items():
            print(f"    {name:24s} {value:10.1f} tokens/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("hidden", 512), ("layers", 8), ("width", 1024), ("prompt", 256), ("answer", 48)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--vocabulary", type=int, default=16_384)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=list(DTYPES))
    parser.add_argument("--peers", nargs="*", default=["eager", "grouped_mm"])
    options = parser.parse_args()
    from transformers.utils import logging

    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        make_folder(options, Path(folder))
        contenders = {"kaiyuan": ours(Path(folder), options)}
        contenders |= {f"transformers/{name}": peer(Path(folder), name, options) for name in options.peers}
        for batch in options.batches:
            measure(contenders, options, batch)


if __name__ == "__main__":
    main()

"""Tokens per second of generation: our engine against transformers' ``generate``, on the same weights.

    python benchmarks/generation.py
    python benchmarks/generation.py --batches 1 8 32 --prompt 512 --answer 64 --weights bfloat16 int8 int4

The peer is HunYuanMoEV1 with each of its expert implementations; our engine loads the folder that the peer saved, with
its weights as they are and coded (``--weights``).
``prefill`` is the time of a prompt and one token, ``decode`` that of all further tokens. Rounds take turns, so a slow
minute of the machine hits all, and medians are compared. How many greedy answers of the peers equal ours is shown: all
of them with ``--dtype float32``; in bfloat16 an untrained model has many near ties. Beside the decoding rate stands
what memory would allow: the bytes of the weights that one step needs, at the rate at which this machine reads them.
"""

from __future__ import annotations

import argparse
import functools
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
        num_attention_heads=options.heads, num_key_value_heads=options.kv_heads, intermediate_size=options.width,
        head_dim=options.hidden // options.heads, num_experts=16, moe_topk=1, tie_word_embeddings=True,
        max_position_embeddings=options.context,
        rope_parameters={"rope_type": "dynamic", "alpha": 1000.0, "factor": 1.0, "rope_theta": 10000.0},
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(options.device):
        model = HunYuanMoEV1ForCausalLM(config)
    model.to(DTYPES[options.dtype]).save_pretrained(folder)


def ours(folder: Path, weights: str, options: argparse.Namespace) -> Generate:
    from kaiyuan import Engine, SamplingParams

    scheme = None if weights in DTYPES else weights
    engine = Engine(
        folder, dtype=DTYPES[options.dtype], device=options.device, quantize=scheme, prefix_cache=False
    )  # fmt: skip

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
    mine = answers[f"kaiyuan/{options.dtype}"]
    peers = [name for name in contenders if not name.startswith("kaiyuan")]
    same = sum(mine[row] == answers[name][row] for name in peers for row in range(batch))
    prefill: dict[str, list[float]] = {name: [] for name in contenders}
    decode: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, generate in contenders.items():
            first = seconds(generate, prompts, 1)
            whole = seconds(generate, prompts, 1 + options.answer)
            prefill[name].append(first)
            decode[name].append(whole - first)
    print(f"\nbatch {batch}: {same} of {batch * len(peers)} greedy answers of the peers equal ours")
    for title, tokens, times in (("prefill", options.prompt, prefill), ("decode", options.answer, decode)):
        medians = {name: batch * tokens / statistics.median(values) for name, values in times.items()}
        best = max(medians[name] for name in peers)
        print(f"  {title}: tokens/s, and the ratio to the best peer")
        for name, value in medians.items():
            bound = f"   memory allows {memory_limit(name, options, batch):8.0f}" if title == "decode" else ""
            print(f"    {name:24s} {value:10.1f} {value / best:8.2f}{bound}")


BITS = {"float32": 32, "bfloat16": 16, "int8": 8, "int4": 4.5}


def memory_limit(name: str, options: argparse.Namespace, batch: int) -> float:
    """Tokens per second if a step did nothing but read, once, the weights that ``batch`` random tokens need."""
    kind = name.split("/")[1]
    bits = BITS.get(kind, BITS[options.dtype])
    experts = 16 * (1 - (1 - 1 / 16) ** batch)
    hidden, layer_bits = options.hidden, bits
    attention = hidden * 2 * (hidden + options.kv_heads * hidden // options.heads)
    weights = options.layers * (attention + 3 * hidden * options.width * (1 + experts)) * layer_bits
    weights += options.vocabulary * hidden * BITS[options.dtype]
    return batch / (weights / 8 / read_rate())


@functools.cache
def read_rate() -> float:
    """Bytes per second at which memory is read by all cores; a block larger than the caches."""
    block = torch.ones(2**27, dtype=torch.float32)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        block.sum()
        times.append(time.perf_counter() - start)
    return block.nbytes / min(times)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Options that say what ``make_folder`` makes."""
    sizes = {
        "hidden": 512,
        "layers": 8,
        "width": 1024,
        "heads": 8,
        "kv-heads": 2,
        "vocabulary": 16_384,
        "context": 4096,
    }
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=list(DTYPES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser)
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--answer", type=int, default=48)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--weights", nargs="*", default=["int8", "int4"], help="ours, beside those in --dtype")
    parser.add_argument("--peers", nargs="*", default=["eager", "grouped_mm"])
    options = parser.parse_args()
    from transformers.utils import logging

    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        make_folder(options, Path(folder))
        kinds = [options.dtype, *(kind for kind in options.weights if kind != options.dtype)]
        contenders = {f"kaiyuan/{kind}": ours(Path(folder), kind, options) for kind in kinds}
        contenders |= {f"transformers/{name}": peer(Path(folder), name, options) for name in options.peers}
        for batch in options.batches:
            measure(contenders, options, batch)


if __name__ == "__main__":
    main()

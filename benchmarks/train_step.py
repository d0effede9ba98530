"""Tokens per second of one training step: ours against transformers' HunYuanMoEV1, on the same shapes and the same
machine.

    python benchmarks/train_step.py                      # the sizes of docs/lab-notes.md
    python benchmarks/train_step.py --shape demo         # those of recipes/demo.toml
    python benchmarks/train_step.py --shape mid --peers grouped_mm

A step is forward pass, loss, backward pass, clipping and AdamW. Ours keeps float32 parameters and optimiser state and
computes in bfloat16 where that is quick, else in float32, with kernels and (``plain``) without. The peer runs with each
of its expert implementations, each with parameters, optimiser state and arithmetic in float32 and, where that is quick,
in bfloat16 (half of our bytes); with ``--dtypes autocast`` under autocast with float32 parameters, as ours. Every
contender has a process of its own; their steps take turns, so a slow minute of the machine hits all of them, and
medians are compared.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from kaiyuan.model.device import multiplies_bfloat16

Step = Callable[[], float]
SHAPES = {
    "small": {"batch": 4, "length": 512, "hidden": 256, "layers": 6, "width": 512, "heads": 8, "vocabulary": 8192},
    "demo": {"batch": 4, "length": 256, "hidden": 192, "layers": 2, "width": 256, "heads": 6, "vocabulary": 4096},
    "mid": {"batch": 4, "length": 512, "hidden": 512, "layers": 8, "width": 1024, "heads": 8, "vocabulary": 8192},
}


def our_step(options: argparse.Namespace, plain: bool) -> Step:
    from kaiyuan import ModelConfig
    from kaiyuan.model.fused import use_kernels
    from kaiyuan.model.loss import cross_entropy_sum
    from kaiyuan.model.routing import RoutingPolicy
    from kaiyuan.model.transformer import Transformer
    from kaiyuan.training.allocator import keep_freed_memory
    from kaiyuan.training.optimizer import adamw, clip, set_lr

    keep_freed_memory()
    use_kernels(not plain)
    config = ModelConfig(
        vocab_size=options.vocabulary, hidden_size=options.hidden, num_layers=options.layers,
        num_attention_heads=options.heads, num_kv_heads=2, head_dim=options.hidden // options.heads,
        intermediate_size=options.width, rope_alpha=1000.0,
        cla_share_factor=options.cla,
    )  # fmt: skip
    model = Transformer(config, torch.bfloat16 if options.short else torch.float32).to(options.device).train()
    model.init_weights()
    model.mode.routing = RoutingPolicy(mode=options.routing)
    optimizer = adamw(model, weight_decay=0.1, betas=(0.9, 0.95), eps=1e-8, expert_ratio=0.31)
    set_lr(optimizer, 1e-4)
    ids = tokens(options)

    def step() -> float:
        features = model.features(ids[:, :-1])
        loss = cross_entropy_sum(features.x_BTD, model.head_weight, ids[:, 1:]) / ids[:, 1:].numel()
        balance = torch.stack([stats.balance_loss for stats in features.router]).mean()
        (loss + 0.01 * balance).backward()
        clip(model, optimizer, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def peer_step(options: argparse.Namespace, experts: str, kind: str) -> Step:
    from transformers import HunYuanMoEV1Config, HunYuanMoEV1ForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    config = HunYuanMoEV1Config(
        vocab_size=options.vocabulary, hidden_size=options.hidden, num_hidden_layers=options.layers,
        num_attention_heads=options.heads, num_key_value_heads=2, head_dim=options.hidden // options.heads,
        intermediate_size=options.width,
        num_experts=16, moe_topk=1, tie_word_embeddings=True, max_position_embeddings=options.length,
        rope_parameters={"rope_type": "dynamic", "alpha": 1000.0, "factor": 1.0, "rope_theta": 10000.0},
    )  # fmt: skip
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    torch.manual_seed(0)
    model = (
        HunYuanMoEV1ForCausalLM._from_config(config, experts_implementation=experts).to(options.device, dtype).train()
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    ids = tokens(options)[:, :-1]

    def step() -> float:
        with torch.autocast(options.device, torch.bfloat16, enabled=kind == "autocast"):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def tokens(options: argparse.Namespace) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (options.batch, options.length + 1)
    return torch.randint(options.vocabulary, shape, generator=generator).to(options.device)


def contender(name: str, options: argparse.Namespace, pipe: Connection) -> None:
    """Serve one contender: every message from ``pipe`` asks for one timed step."""
    try:
        parts = name.split("/")
        step = our_step(options, name.endswith("plain")) if parts[0] == "kaiyuan" else peer_step(options, *parts[1:])
        step()
        pipe.send(None)
        while pipe.recv():
            start = time.perf_counter()
            step()
            pipe.send(time.perf_counter() - start)
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    for name in SHAPES["small"]:
        parser.add_argument(f"--{name}", type=int, help="in place of the shape's")
    parser.add_argument("--cla", type=int, default=1, help="layers that share keys and values; the peer has none")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--routing", default="dropless", choices=("dropless", "drop", "recycle"))
    parser.add_argument("--peers", nargs="*", default=["eager", "grouped_mm"], help="also: batched_mm")
    parser.add_argument("--dtypes", nargs="*", help="of the peers: bfloat16, float32, autocast")
    options = parser.parse_args()
    options.short = multiplies_bfloat16(torch.device(options.device))
    options.dtypes = options.dtypes or (["bfloat16", "float32"] if options.short else ["float32"])
    for name, value in SHAPES[options.shape].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def run(names: list[str], options: argparse.Namespace) -> dict[str, list[float] | str]:
    """Seconds of every timed step by contender, or why it failed."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    results: dict[str, Any] = {}
    for name in names:
        here, there = context.Pipe()
        context.Process(target=contender, args=(name, options, there), daemon=True).start()
        problem = here.recv()
        results[name] = problem or []
        if problem is None:
            pipes[name] = here
    for _ in range(options.rounds):
        for name, pipe in pipes.items():
            pipe.send(True)
            results[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(False)
    return results


def main() -> None:
    options = arguments()
    peers = [f"transformers/{peer}/{kind}" for peer in options.peers for kind in options.dtypes]
    names = ["kaiyuan", "kaiyuan/plain", *peers]
    results = run(names, options)
    count = options.batch * options.length
    ours, best = statistics.median(results["kaiyuan"]), float("inf")
    print(f"{count} tokens a step, hidden {options.hidden}, {options.layers} layers, 16+1 experts of {options.width}, "
          f"vocabulary {options.vocabulary}, {torch.get_num_threads()} threads, {options.device}, "
          f"ours in {'bfloat16' if options.short else 'float32'}")  # fmt: skip
    for name, seconds in results.items():
        if isinstance(seconds, str):
            print(f"{name:34} failed: {seconds[:120]}")
            continue
        median = statistics.median(seconds)
        if name in peers:
            best = min(best, median)
        print(f"{name:34} {count / median:9,.0f} tokens/s   ours is {median / ours:5.2f} times as fast")
    if best < float("inf"):
        print(f"ours against the peer's best: {best / ours:.2f}")


if __name__ == "__main__":
    main()

"""Tokens per second of one training step: ours against transformers' HunYuanMoEV1, on the same shapes and the same
machine.

    python benchmarks/train_step.py                      # the sizes of docs/lab-notes.md
    python benchmarks/train_step.py --batch 16 --peers grouped_mm

A step is forward pass, loss, backward pass, clipping and AdamW. Ours keeps float32 parameters and optimiser state and
computes in bfloat16. The peer runs with each of its expert implementations, all in bfloat16 (``pure``: parameters and
optimiser state too, which moves half of our bytes) and, with ``--autocast``, under autocast with float32 parameters,
as ours. Every contender has a process of its own; their steps take turns, so a slow minute of the machine hits all of
them, and medians are compared.
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

Step = Callable[[], float]


def our_step(options: argparse.Namespace) -> Step:
    from kaiyuan import ModelConfig
    from kaiyuan.model.loss import cross_entropy_sum
    from kaiyuan.model.routing import RoutingPolicy
    from kaiyuan.model.transformer import Transformer
    from kaiyuan.training.allocator import keep_freed_memory
    from kaiyuan.training.optimizer import adamw, set_lr

    keep_freed_memory()
    config = ModelConfig(
        vocab_size=options.vocabulary, hidden_size=options.hidden, num_layers=options.layers, num_attention_heads=8,
        num_kv_heads=2, head_dim=options.hidden // 8, intermediate_size=options.width, rope_alpha=1000.0,
        cla_share_factor=options.cla,
    )  # fmt: skip
    model = Transformer(config, torch.bfloat16).to(options.device).train()
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
        return finish(model, optimizer, loss)

    return step


def peer_step(options: argparse.Namespace, experts: str, autocast: bool) -> Step:
    from transformers import HunYuanMoEV1Config, HunYuanMoEV1ForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    config = HunYuanMoEV1Config(
        vocab_size=options.vocabulary, hidden_size=options.hidden, num_hidden_layers=options.layers,
        num_attention_heads=8, num_key_value_heads=2, head_dim=options.hidden // 8, intermediate_size=options.width,
        num_experts=16, moe_topk=1, tie_word_embeddings=True, max_position_embeddings=options.length,
        rope_parameters={"rope_type": "dynamic", "alpha": 1000.0, "factor": 1.0, "rope_theta": 10000.0},
    )  # fmt: skip
    dtype = torch.float32 if autocast else torch.bfloat16
    torch.manual_seed(0)
    model = (
        HunYuanMoEV1ForCausalLM._from_config(config, experts_implementation=experts).to(options.device, dtype).train()
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    ids = tokens(options)[:, :-1]

    def step() -> float:
        with torch.autocast(options.device, torch.bfloat16, enabled=autocast):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        return finish(model, optimizer, loss)

    return step


def tokens(options: argparse.Namespace) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (options.batch, options.length + 1)
    return torch.randint(options.vocabulary, shape, generator=generator).to(options.device)


def finish(model: torch.nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> float:
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def contender(name: str, options: argparse.Namespace, pipe: Connection) -> None:
    """Serve one contender: every message from ``pipe`` asks for one timed step."""
    try:
        parts = name.split("/")
        step = our_step(options) if parts[0] == "kaiyuan" else peer_step(options, parts[1], parts[2] == "autocast")
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
    for name, default in (("batch", 4), ("length", 512), ("hidden", 256), ("layers", 6), ("width", 512), ("cla", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--routing", default="dropless", choices=("dropless", "drop", "recycle"))
    parser.add_argument("--peers", nargs="*", default=["eager", "grouped_mm", "batched_mm"])
    parser.add_argument(
        "--autocast", action="store_true", help="also run the peers with float32 parameters and autocast"
    )
    return parser.parse_args()


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
    modes = ("pure", "autocast") if options.autocast else ("pure",)
    names = ["kaiyuan", *(f"transformers/{peer}/{mode}" for peer in options.peers for mode in modes)]
    results = run(names, options)
    count = options.batch * options.length
    ours = statistics.median(results["kaiyuan"])
    print(f"{count} tokens a step, hidden {options.hidden}, {options.layers} layers, 16+1 experts of {options.width}, "
          f"vocabulary {options.vocabulary}, {torch.get_num_threads()} threads, {options.device}")  # fmt: skip
    for name, seconds in results.items():
        if isinstance(seconds, str):
            print(f"{name:34} failed: {seconds[:120]}")
            continue
        median = statistics.median(seconds)
        print(f"{name:34} {count / median:9,.0f} tokens/s   ours is {median / ours:5.2f} times as fast")


if __name__ == "__main__":
    main()

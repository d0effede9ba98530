"""How long a person waits: time to first token, time between tokens and throughput, with 1 to 128 streams at once.

    python benchmarks/serving_latency.py                        # a small model on a CPU
    python benchmarks/serving_latency.py --device cuda --hidden 1536 --heads 24 --kv-heads 8 --width 4096 \\
        --vocabulary 32768 --context 16384 --streams 1 8 32 128 --peers grouped_mm
    python benchmarks/serving_latency.py --device cuda --long 262144 ...

Every stream asks as soon as its last answer is there, with a prompt of another length, so that prompts come in while
others are answered. Time between tokens counts a piece of several tokens as so many equal waits; the longest wait for
a piece stands beside it. ``--temperature`` samples instead of taking the most likely token. The peer is transformers'
``generate`` on the same weights with as many prompts at once, all of one length, which is the best it can be given.
``--long`` asks one prompt of so many tokens and compares the memory it takes with what the configuration says.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch

from generation import DTYPES, add_model, make_folder, peer


@dataclass
class Stream:
    """One client: when it asked, and when each piece came."""

    asked: float = 0.0
    last: float = 0.0
    first_waits: list[float] = field(default_factory=list)
    token_waits: list[float] = field(default_factory=list)
    piece_waits: list[float] = field(default_factory=list)

    def piece(self, now: float, tokens: int) -> None:
        if self.last < self.asked:
            self.first_waits.append(now - self.asked)
        elif tokens:
            self.piece_waits.append(now - self.last)
            self.token_waits += [(now - self.last) / tokens] * tokens
        self.last = now


def serve(engine: Any, streams: int, options: argparse.Namespace) -> dict[str, float]:
    """All numbers of one round; times in seconds."""
    from kaiyuan import SamplingParams

    rng = Random(streams)
    clients: dict[int, Stream] = {}
    idle = [Stream() for _ in range(streams)]
    left, tokens = max(options.requests, 3 * streams), 0
    everyone = list(idle)
    begun = time.perf_counter()
    while idle or clients:
        while idle and left:
            length = rng.randint(options.prompt // 4, options.prompt)
            prompt = [rng.randrange(options.vocabulary) for _ in range(length)]
            stream = idle.pop()
            stream.asked = time.perf_counter()
            params = SamplingParams(
                temperature=options.temperature, top_p=options.top_p, max_tokens=options.answer, ignore_eos=True,
                seed=left,
            )  # fmt: skip
            clients[engine.add(prompt, params)] = stream
            left -= 1
        if not clients:
            break
        for number, piece in engine.step():
            tokens += len(piece.tokens)
            clients[number].piece(time.perf_counter(), len(piece.tokens))
            if piece.finish_reason:
                idle.append(clients.pop(number))
        if not left:
            idle.clear()
    whole = time.perf_counter() - begun
    waits = {name: [wait for one in everyone for wait in getattr(one, name)] for name in ("first_waits", "token_waits")}
    return {
        "throughput": tokens / whole,
        "first": statistics.median(waits["first_waits"]),
        "first99": percentile(waits["first_waits"], 0.99),
        "token": statistics.median(waits["token_waits"]),
        "token99": percentile(waits["token_waits"], 0.99),
        "piece": max(wait for one in everyone for wait in one.piece_waits),
    }


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def peer_rate(generate: Any, batch: int, options: argparse.Namespace) -> float:
    prompts = torch.randint(options.vocabulary, (batch, options.prompt * 5 // 8)).tolist()
    generate(prompts, 2)
    start = time.perf_counter()
    generate(prompts, options.answer)
    return batch * options.answer / (time.perf_counter() - start)


def long_prompt(engine: Any, length: int, options: argparse.Namespace) -> None:
    from kaiyuan import SamplingParams

    config, cuda = engine.config, options.device == "cuda"
    itemsize, slots = engine.cache.dtype.itemsize, engine.pool.count * engine.pool.size
    print(f"\none prompt of {length:,} tokens")
    print(f"  cache, bytes a token: {config.kv_bytes_per_token(itemsize):,} by the configuration, "
          f"{engine.cache.nbytes / slots:,.0f} allocated")  # fmt: skip
    before = 0
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    prompt = torch.randint(config.vocab_size, (length,)).tolist()
    params = SamplingParams(temperature=0, max_tokens=65, ignore_eos=True)
    start = time.perf_counter()
    times = [time.perf_counter() - start for _ in engine.stream(prompt, params)]
    print(f"  first token after {times[0]:.2f} s, then {64 / (times[-1] - times[0]):,.0f} tokens/s")
    if cuda:
        beside = torch.cuda.max_memory_allocated() - before
        rows = min(length, engine.scheduler.max_num_batched_tokens)
        shared = 2 * config.layer(0).shared_size + 2 * config.layer(0).expert_size * config.layer(0).top_k
        wide = rows * (shared + 6 * config.hidden_size) * itemsize
        print(f"  beside weights and cache {beside / 2**20:,.0f} MiB; activations of a layer for {rows:,} tokens "
              f"take about {wide / 2**20:,.0f}")  # fmt: skip


def measure(folder: Path, options: argparse.Namespace) -> None:
    from kaiyuan import Engine

    engine = Engine(
        folder, dtype=DTYPES[options.dtype], device=options.device, quantize=options.quantize, prefix_cache=False,
        max_num_seqs=max(options.streams), max_num_batched_tokens=options.step_tokens,
        cache_tokens=options.long + 128 if options.long else None,
    )  # fmt: skip
    engine.warm_up()
    if options.long:
        return long_prompt(engine, options.long, options)
    generates = {name: peer(folder, name, options) for name in options.peers}
    print("streams  tokens/s   first token p50/p99 ms   token p50/p99 ms   longest ms   ratio to transformers")
    for streams in options.streams:
        serve(engine, streams, options)
        rounds, rates = [], []
        for _ in range(options.rounds):
            rounds.append(serve(engine, streams, options))
            if generates and streams <= options.most_peer_streams:
                rates.append(max(peer_rate(generate, streams, options) for generate in generates.values()))
        found = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
        ms = {name: value * 1e3 for name, value in found.items()}
        ratio = f"{found['throughput'] / statistics.median(rates):8.1f}" if rates else "       -"
        print(f"{streams:7d} {found['throughput']:9.0f}   {ms['first']:9.1f} / {ms['first99']:9.1f}   "
              f"{ms['token']:7.2f} / {ms['token99']:7.2f}   {ms['piece']:10.1f}   {ratio}", flush=True)  # fmt: skip
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser)
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=8, help="at least three for each stream")
    parser.add_argument("--prompt", type=int, default=256, help="the longest; the shortest is a quarter of it")
    parser.add_argument("--answer", type=int, default=48)
    parser.add_argument("--step-tokens", type=int, default=2048)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--quantize", default=None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", nargs="*", default=["eager", "grouped_mm"])
    parser.add_argument("--most-peer-streams", type=int, default=8)
    parser.add_argument("--long", type=int, default=0)
    parser.add_argument("--folder", default=None, help="a folder made before")
    options = parser.parse_args()
    from transformers.utils import logging

    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary)
        if not (folder / "config.json").exists():
            make_folder(options, folder)
        measure(folder, options)


if __name__ == "__main__":
    main()

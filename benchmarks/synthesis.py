"""Synthesis by models against Little's law: C requests under way that take L seconds each are C / L a second at best.

    python benchmarks/synthesis.py
    python benchmarks/synthesis.py --latency 0.5 --concurrency 16 64 256 --seeds 300

A scripted server (tests/synthesis/fake_models.py) in a process of its own waits L seconds before each answer, as a
model would. First the client alone: answers a second, each synced to the journal before it is used, over C / L. Then
the whole pipeline: the time that the busiest endpoint of each phase must take, plus the longest chain of calls that one
row needs, over the time taken; then the same run again from the journal, where nothing is asked.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "tests" / "synthesis"))

from fake_models import FakeModels, Rates, listening
from llm_config import config, write_seeds

from kaiyuan.synthesis.llm.client import Asker
from kaiyuan.synthesis.llm.journal import Journal
from kaiyuan.synthesis.llm.meter import Meter
from kaiyuan.synthesis.llm.run import synthesize

FIRST_CHAIN, SECOND_CHAIN = 2, 5
"""Calls that follow one on the other: instruction, label; clarity, difficulty, label, response, critique."""


def serve(latency: float) -> None:
    """Answer until standard input ends. Code is left out: its sandbox runs here, not at the server."""
    app = FakeModels(Rates(wrong=0.2), latency=latency, kinds=("math", "objective", "open"))
    with listening(app) as url:
        print(url, flush=True)
        sys.stdin.read()


@contextmanager
def server(latency: float) -> Iterator[str]:
    command = [sys.executable, __file__, "--serve", str(latency)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()


def client_alone(url: str, folder: Path, concurrency: int, latency: float, rounds: int) -> tuple[float, int]:
    """Answers a second of one endpoint, and how many syncs of the disk they took."""
    made = config(url, write_seeds(folder / "seeds.jsonl", 1), endpoint={"concurrency": concurrency, "timeout": 60.0})
    count = concurrency * rounds

    async def run() -> tuple[float, int]:
        with Journal(folder / "client.jsonl") as journal:
            async with Asker(made, journal, Meter()) as asker:
                start = time.perf_counter()
                question = [{"role": "user", "content": "Explain why goods lose value when they are stored."}]
                await asyncio.gather(*(asker.ask("responders.default", question, sample) for sample in range(count)))
                return count / (time.perf_counter() - start), journal.fsyncs

    return asyncio.run(run())


def pipeline(url: str, folder: Path, concurrency: int, latency: float, seeds: int) -> str:
    made = config(
        url, write_seeds(folder / "seeds.jsonl", seeds),
        endpoint={"concurrency": concurrency, "timeout": 60.0}, evolution={"expansion": 0.0},
        instructions={"domains": ["mathematics", "humanities", "society"]},
    )  # fmt: skip
    start = time.perf_counter()
    report = synthesize(made, folder / "run")
    seconds = time.perf_counter() - start
    calls = {role: usage["calls"] for role, usage in report["usage"].items()}
    labels = report["instructions"]
    first = max(calls["instructor"], labels) * latency / concurrency + FIRST_CHAIN * latency
    later = max(calls["evolver"], calls["judge"] - labels, calls["responders.default"], calls["critic"])
    ideal = first + later * latency / concurrency + SECOND_CHAIN * latency
    start = time.perf_counter()
    synthesize(made, folder / "run")
    again = time.perf_counter() - start
    rows = report["instructions"]
    asked = sum(calls.values())
    return (f"{concurrency:11d} {asked:7d} {rows / seconds:10.1f} {rows / ideal:10.1f} {ideal / seconds:7.0%} "
            f"{asked / again:19.0f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=0.5, help="seconds of each answer")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--rounds", type=int, default=12, help="requests of the client alone, in units of concurrency")
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve)
        return
    with tempfile.TemporaryDirectory() as name, server(options.latency) as url:
        print(
            f"latency {options.latency:g} s\n\nclient alone\nconcurrency answers/s  ideal/s  of ideal  answers a sync"
        )
        for number, concurrency in enumerate(options.concurrency):
            folder = Path(name, f"client{number}")
            folder.mkdir()
            rate, syncs = client_alone(url, folder, concurrency, options.latency, options.rounds)
            ideal = concurrency / options.latency
            answers = concurrency * options.rounds
            print(f"{concurrency:11d} {rate:9.1f} {ideal:8.1f} {rate / ideal:9.0%} {answers / syncs:15.1f}", flush=True)
        print("\npipeline\nconcurrency   calls instr.s/s    ideal/s of ideal  answers/s of journal")
        for number, concurrency in enumerate(options.concurrency):
            folder = Path(name, f"run{number}")
            folder.mkdir()
            print(pipeline(url, folder, concurrency, options.latency, options.seeds), flush=True)


if __name__ == "__main__":
    main()

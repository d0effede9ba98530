"""Mixed traffic against a real server, compressed: does anything leak, hang or get lost?

    python benchmarks/soak.py runs/demo --seconds 600
    python benchmarks/soak.py runs/demo --seconds 60 --kills 1

Visitors with several API keys ask for chats and completions of random lengths, stream or not, ask for several answers,
JSON, calls of functions and log-probabilities; they do what the chat page does; some lose patience or hang up in the
middle, some send nonsense or more at once than the queue holds. The server is killed with SIGKILL and started again
``--kills`` times, and told to stop by SIGTERM at the end.

Four times in each life of the server it is left alone: no request may run or wait then, no page of the KV cache may be
held. Memory must be flat: the slope of a line through it over the second half of the longest life. Every request must
have been answered as asked, refused with a reason, or cut off by a kill.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from soak_traffic import Tally, Visitor

PHASES = 4


class Server:
    """The server as a process of its own, started again after it was killed."""

    def __init__(self, folder: Path, port: int, keys: list[str], key_file: Path) -> None:
        self.url, self.keys = f"http://127.0.0.1:{port}", keys
        self.command = [
            sys.executable, "-m", "kaiyuan", "serve", str(folder), "--port", str(port), "--api-key-file", str(key_file),
            "--max-waiting", "16", "--max-num-seqs", "8", "--cache-tokens", "8192",
        ]  # fmt: skip
        self.kills, self.up = 0, False
        self.process: subprocess.Popen[bytes] | None = None

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {self.keys[0]}"}) as client:
            return await client.get(self.url + path)

    async def start(self) -> None:
        self.process = subprocess.Popen(self.command, stderr=subprocess.DEVNULL)
        for _ in range(900):
            try:
                if (await self.get("/ready")).status_code == 200:
                    self.up = True
                    return
            except httpx.TransportError:
                await asyncio.sleep(0.1)
            if self.process.poll() is not None:
                break
        raise SystemExit(f"the server did not start: {' '.join(self.command)}")

    async def kill(self) -> None:
        assert self.process is not None
        self.up, self.kills = False, self.kills + 1
        self.process.kill()
        await asyncio.to_thread(self.process.wait)

    async def stop(self) -> int:
        """The exit status after SIGTERM."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, 60)

    def memory(self) -> float:
        """Resident MiB."""
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]

    async def held(self) -> list[str]:
        """What is still held a moment after the last request."""
        found: list[str] = []
        for _ in range(100):
            text = (await self.get("/metrics")).text
            gauges = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
            values = {name: re.search(rf"^kaiyuan:{name}{{[^}}]*}} (\S+)$", text, re.MULTILINE) for name in gauges}
            found = [
                f"{name} is {value and value[1]}" for name, value in values.items() if not value or float(value[1])
            ]
            if not found:
                break
            await asyncio.sleep(0.1)
        return found


class Memory:
    """Samples of the server's memory, a list of (seconds, MiB) for each of its lives."""

    def __init__(self, server: Server) -> None:
        self.server, self.lives = server, list[list[tuple[float, float]]]()

    async def watch(self) -> None:
        kills = -1
        while True:
            if self.server.up:
                if kills != self.server.kills:
                    kills = self.server.kills
                    self.lives.append([])
                self.lives[-1].append((time.monotonic(), self.server.memory()))
            await asyncio.sleep(0.5)

    def slope(self) -> tuple[float, float]:
        """MiB a minute over the second half of the longest life, and its standard error."""
        life = max(self.lives, key=len)
        x, y = zip(*life[len(life) // 2 :], strict=True)
        slope, intercept = statistics.linear_regression(x, y)
        spread = sum((b - intercept - slope * a) ** 2 for a, b in zip(x, y, strict=True)) / max(1, len(x) - 2)
        return 60 * slope, 60 * (spread / sum((a - statistics.fmean(x)) ** 2 for a in x)) ** 0.5


async def visit(visitor: Visitor, server: Server, until: float) -> None:
    async with visitor.http:
        while time.monotonic() < until:
            up, kills = server.up, server.kills
            try:
                outcome = await visitor.act()
            except httpx.TimeoutException:
                outcome = "STUCK"
            except httpx.TransportError as error:
                expected = not up or server.kills != kills
                outcome = "cut off by a kill" if expected else f"LOST: {type(error).__name__}"
                await asyncio.sleep(0.3)
            visitor.tally.outcomes[outcome] += 1
            if outcome == "refused with a reason":
                await asyncio.sleep(0.2 * visitor.rng.random())


async def life(turn: int, server: Server, tally: Tally, options: argparse.Namespace) -> list[str]:
    """One life of the server, in phases; it ends by a kill if there are more to come. Returns what was held."""
    problems: list[str] = []
    seconds = options.seconds / (options.kills + 1) / PHASES
    for phase in range(PHASES):
        numbers = range(1000 * turn + 100 * phase, 1000 * turn + 100 * phase + options.clients)
        visitors = [Visitor(number, server.url, server.keys[number % len(server.keys)], tally) for number in numbers]
        until = time.monotonic() + seconds
        tasks = [asyncio.create_task(visit(visitor, server, until)) for visitor in visitors]
        if turn < options.kills and phase == PHASES - 1:
            await asyncio.sleep(seconds / 2)
            await server.kill()
            await server.start()
        await asyncio.gather(*tasks)
        problems += await server.held()
        done = f"{sum(tally.outcomes.values())} requests, {server.memory():.0f} MiB"
        print(f"life {turn + 1}, phase {phase + 1}: {done}", flush=True)
    return problems


async def soak(options: argparse.Namespace) -> int:
    tally, problems = Tally(), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        keys, key_file = [secrets.token_urlsafe(24) for _ in range(3)], Path(folder) / "keys"
        key_file.write_text("\n".join(keys))
        server = Server(options.model, options.port, keys, key_file)
        await server.start()
        memory = Memory(server)
        watching = asyncio.create_task(memory.watch())
        try:
            for turn in range(options.kills + 1):
                problems += await life(turn, server, tally, options)
            watching.cancel()
            status = await server.stop()
        finally:
            if server.process is not None:
                server.process.kill()
    return report(tally, problems, status, memory.slope(), options.growth)


def report(tally: Tally, problems: list[str], status: int, slope: tuple[float, float], most: float) -> int:
    for name, count in tally.outcomes.most_common():
        print(f"{name:34s} {count:7d}")
    times = {"time to the first token": tally.first, "time a token after it": tally.pace, "gap in a stream": tally.gaps}
    for name, values in times.items():
        if len(values) > 1:
            cuts = statistics.quantiles(values, n=100)
            print(f"{name}: p50 {1000 * cuts[49]:.1f} ms, p99 {1000 * cuts[98]:.1f} ms, of {len(values)}")
    print(f"greedy questions asked again: {tally.repeated[True]} same answers, {tally.repeated[False]} others")
    print(f"memory: {slope[0]:+.2f} MiB a minute (standard error {slope[1]:.2f}); exit status after SIGTERM: {status}")
    if slope[0] - 3 * slope[1] > most:
        problems.append("memory grows")
    if problems or tally.faults() or status:
        print("FAILED", problems, tally.faults())
        return 1
    print("nothing leaked, nothing stuck, nothing lost")
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--growth", type=float, default=8, help="most MiB a minute; a short run warms up all the time")
    parser.add_argument("--port", type=int, default=8199)
    raise SystemExit(asyncio.run(soak(parser.parse_args())))


if __name__ == "__main__":
    main()

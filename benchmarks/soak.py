"""Mixed traffic against a real server, compressed: does anything leak, hang or get lost?

    python benchmarks/soak.py runs/demo --seconds 600
    python benchmarks/soak.py runs/demo --seconds 60 --kills 1

Clients ask for chats and completions of random lengths, stream or not, ask for several answers, JSON and
log-probabilities; some hang up in the middle, some send nonsense. The server is killed and started again ``--kills``
times. At the end, and whenever it has been idle, no request may run or wait, no page of the KV cache may be held, and
memory must be flat; every request must have been answered, refused with a reason, or cut off by a kill.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import httpx

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
NONSENSE: list[bytes] = [
    b"", b"{", b"[]", b'{"messages": "hello"}', b'{"messages": [], "temperature": 0}', b'{"prompt": "x", "n": 10000}',
    b'{"prompt": "x", "temperature": 1e999}', b"[" * 5000, b'{"prompt": "x", "stop": ["' + b"s" * 999 + b'"]}',
    b'{"prompt": [1, -5]}', b'{"prompt": "x", "logit_bias": {"a": 1}}', b"\xff\xfe", b'{"prompt": ""}',
]  # fmt: skip


class Server:
    """The server as a process of its own, started again after it was killed."""

    def __init__(self, folder: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.command = [
            sys.executable,
            "-m",
            "kaiyuan",
            "serve",
            str(folder),
            "--port",
            str(port),
            "--max-waiting",
            "16",
        ]
        self.command += ["--max-num-seqs", "8"]
        self.kills = 0
        self.up = False
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self.process = subprocess.Popen(self.command, stderr=subprocess.DEVNULL)
        async with httpx.AsyncClient() as client:
            for _ in range(600):
                try:
                    if (await client.get(f"{self.url}/ready")).status_code == 200:
                        self.up = True
                        return
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
        raise SystemExit("the server did not start")

    async def kill(self) -> None:
        assert self.process is not None
        self.up, self.kills = False, self.kills + 1
        self.process.kill()
        await asyncio.to_thread(self.process.wait)

    def memory(self) -> int:
        """Resident bytes."""
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmRSS:\s+(\d+)", text)[1])  # type: ignore[index]

    async def gauge(self, name: str) -> float:
        async with httpx.AsyncClient() as client:
            text = (await client.get(f"{self.url}/metrics")).text
        return float(re.search(rf"^kaiyuan:{name}{{[^}}]*}} (\S+)$", text, re.MULTILINE)[1])  # type: ignore[index]


def request_of(rng: Random) -> dict[str, Any]:
    words = " ".join(
        rng.choice(("What", "is", "17", "+", "25", "首都", "的", "capital", "of", "France"))
        for _ in range(rng.choice((1, 5, 40, 300)))
    )
    body: dict[str, Any] = {"max_tokens": rng.choice((1, 8, 40, 200)), "temperature": rng.choice((0, 0.7, 1.5))}
    if rng.random() < 0.5:
        body |= {"messages": [{"role": "user", "content": words}]}
        if rng.random() < 0.15:
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    else:
        body |= {"prompt": words, "ignore_eos": rng.random() < 0.3}
        if rng.random() < 0.2:
            body["logprobs"] = 2
    if rng.random() < 0.2:
        body["n"] = rng.randrange(2, 4)
    if rng.random() < 0.2:
        body["stop"] = ["7", "。"]
    return body | {"stream": rng.random() < 0.5}


async def client(number: int, server: Server, until: float, outcomes: Counter[str]) -> None:
    rng = Random(number)
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        while time.monotonic() < until:
            up, kills = server.up, server.kills
            try:
                outcome = await one(http, rng)
                outcomes[outcome] += 1
                if outcome == "refused with a reason":
                    await asyncio.sleep(0.2 * rng.random())
            except httpx.TimeoutException:
                outcomes["STUCK"] += 1
            except httpx.TransportError:
                expected = not up or server.kills != kills
                outcomes["cut off by a kill" if expected else "LOST"] += 1
                await asyncio.sleep(0.3)


async def one(http: httpx.AsyncClient, rng: Random) -> str:
    if rng.random() < 0.1:
        route = rng.choice(("/v1/completions", "/v1/chat/completions", "/tokenize", "/v1/nothing"))
        reply = await http.post(route, content=rng.choice(NONSENSE))
        return judged(reply, "nonsense refused")
    body = request_of(rng)
    route = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    if not body["stream"]:
        return judged(await http.post(route, json=body), "refused with a reason")
    leave = rng.randrange(6) if rng.random() < 0.3 else None
    async with http.stream("POST", route, json=body) as reply:
        if reply.status_code != 200:
            await reply.aread()
            return judged(reply, "refused with a reason")
        place, last = 0, ""
        async for line in reply.aiter_lines():
            last = line or last
            place += 1
            if place == leave:
                return "hung up"
    return "answered" if last == "data: [DONE]" else "UNFINISHED STREAM"


def judged(reply: httpx.Response, refused: str) -> str:
    if reply.status_code == 200:
        return "answered" if reply.json() else "EMPTY"
    if reply.status_code >= 500 and reply.status_code != 503:
        return f"STATUS {reply.status_code}"
    return refused if json.loads(reply.text)["error"]["message"] else "REFUSED WITHOUT A REASON"


async def idle(server: Server) -> list[str]:
    """What is still held a moment after the last request."""
    for _ in range(100):
        names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
        held = [f"{name} is {value}" for name in names if (value := await server.gauge(name))]
        if not held:
            return []
        await asyncio.sleep(0.1)
    return held


async def soak(options: argparse.Namespace) -> int:
    server, outcomes = Server(options.model, options.port), Counter[str]()
    await server.start()
    problems, memories = [], []
    rounds = options.kills + 1
    for turn in range(rounds):
        phases = 4
        for phase in range(phases):
            until = time.monotonic() + options.seconds / rounds / phases
            clients = [client(1000 * turn + 100 * phase + i, server, until, outcomes) for i in range(options.clients)]
            last = turn < options.kills and phase == phases - 1
            tasks = [asyncio.create_task(one) for one in clients]
            if last:
                await asyncio.sleep(options.seconds / rounds / phases / 2)
                await server.kill()
                await server.start()
            await asyncio.gather(*tasks)
            problems += await idle(server)
            memories.append(server.memory())
            done = f"{sum(outcomes.values())} requests, {memories[-1] / 2**20:.0f} MiB"
            print(f"round {turn + 1}, phase {phase + 1}: {done}", flush=True)
        growth = memories[-1] - memories[-phases + 1] if turn == options.kills else 0
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGTERM)
    left = await asyncio.to_thread(server.process.wait, 40)
    bad = {name: count for name, count in outcomes.items() if name.isupper() or name.split()[0].isupper()}
    for name, count in outcomes.most_common():
        print(f"{name:28s} {count:7d}")
    print(f"memory over the last three phases: {growth / 2**20:+.1f} MiB; exit status after SIGTERM: {left}")
    if problems or bad or left or growth > 32 * 2**20:
        print("FAILED", problems, bad)
        return 1
    print("nothing leaked, nothing stuck, nothing lost")
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--port", type=int, default=8199)
    raise SystemExit(asyncio.run(soak(parser.parse_args())))


if __name__ == "__main__":
    main()

"""A scripted server of models: it plays every role, knows the truth, and is wrong, slow and broken at known rates.

Who speaks is told by the request's model name: ``instructor``, ``evolver``, ``judge``, ``critic``, anything else
answers. What it says follows from the request alone, so asking twice gives the same; faults follow from the request
and the number of the try.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import uvicorn

from kaiyuan.synthesis import facts

NAMES = ["Anna", "Bilal", "Chen", "Dora", "Emeka", "Fatima", "Goran", "Hana", "Ivo", "Jun", "Kofi", "Lena", "Mara"]
THINGS = ["apples", "bolts", "coins", "drums", "eggs", "flutes", "gloves", "hats", "jars", "kites", "lamps", "maps"]
PLACES = ["barn", "cellar", "depot", "garden", "harbour", "kitchen", "library", "market", "shed", "tower"]
DAYS = facts.WEEKDAYS["en"]
CAPITALS = {row[0]: row[1] for row in facts.CAPITALS}
SUM = re.compile(r"(\w+) counts (\d+) (\w+) .*? another (\d+)")
CODE = re.compile(r"function named (\w+).*? returns n times (\d+) plus (\d+)")
CAPITAL = re.compile(r"capital of ([A-Z][\w ]*?)[?,]")
CHINESE = re.compile(r"里有(\d+)个.*?运来(\d+)个")
CRITIQUED = re.compile(r"(?:INSTRUCTION|指令) ====\n(.*?)\n==== (?:RESPONSE|回答) ====\n(.*?)\n==== ", re.DOTALL)
BAD = ("leak", "copy", "missing", "switched")


@dataclass
class Rates:
    """How often (0 to 1) what happens."""

    wrong: float = 0.0
    """A response is wrong."""
    critic: float = 0.0
    """The critic says the opposite of what is true."""
    garbled: float = 0.0
    """The grader's answer is not what was asked for."""
    bad_instruction: float = 0.0
    """An instruction is one of ``BAD``."""
    faults: dict[str, float] = field(default_factory=dict)
    """429, 500, truncated, dropped, empty, slow, late; by name."""


@dataclass
class FakeModels:
    """The application and its diary."""

    rates: Rates = field(default_factory=Rates)
    latency: float = 0.0
    kinds: tuple[str, ...] = ("math", "code", "objective", "open")
    down: bool = False
    served: Counter[str] = field(default_factory=Counter)
    """Whole answers by request."""
    bodies: dict[str, dict[str, Any]] = field(default_factory=dict)
    tries: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)
    asked: list[int | None] = field(default_factory=list)
    """The seeds of the requests, as they came."""
    planted: dict[str, str] = field(default_factory=dict)
    """Bad instructions and what is bad about them."""
    served_as: dict[str, str] = field(default_factory=dict)
    """What a model is called in its answers, where that is another name."""
    headers: list[dict[str, str]] = field(default_factory=list)
    busy: int = 0
    busiest: int = 0

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await lifespan(receive, send)
            return
        body = json.loads(await content_of(receive))
        key = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        self.bodies[key] = body
        self.tries[key] += 1
        self.asked.append(body.get("seed"))
        self.times.append(time.monotonic())
        self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        try:
            await self.reply(key, body, send)
        finally:
            self.busy -= 1

    async def reply(self, key: str, body: dict[str, Any], send: Any) -> None:
        if self.latency:
            await asyncio.sleep(self.latency)
        fault = "500" if self.down else self.fault(f"{key} {self.tries[key]}")
        if fault == "429":
            await respond(send, 429, b'{"error": {"message": "slow down"}}', [(b"retry-after", b"0.05")])
        elif fault == "500":
            await respond(send, 500, b"oops")
        else:
            text = "" if fault == "empty" else self.answer(body)
            usage = {"prompt_tokens": len(str(body["messages"])) // 4, "completion_tokens": len(text) // 4 + 1}
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            served = self.served_as.get(body["model"], body["model"])
            whole = json.dumps({"model": served, "choices": [choice], "usage": usage}).encode()
            await self.deliver(send, whole, fault, key)

    async def deliver(self, send: Any, whole: bytes, fault: str, key: str) -> None:
        if fault == "truncated":
            await respond(send, 200, whole[: len(whole) // 2])
        elif fault == "dropped":
            await start(send, 200, len(whole))
            await send({"type": "http.response.body", "body": whole[:20], "more_body": False})
        elif fault == "slow":  # trickles on for ever: no single wait is long
            await start(send, 200, len(whole) + 10_000)
            for _ in range(10_000):
                await send({"type": "http.response.body", "body": b" ", "more_body": True})
                await asyncio.sleep(0.02)
        else:
            if fault != "empty":
                self.served[key] += 1
            await respond(send, 200, whole)

    def fault(self, draw: str) -> str:
        point = Random(f"fault {draw}").random()
        for name, rate in self.rates.faults.items():
            if point < rate:
                return name
            point -= rate
        return ""

    def answer(self, body: dict[str, Any]) -> str:
        prompt = body["messages"][-1]["content"]
        rng = Random(f"{body['model']} {prompt} {body.get('seed')}")
        speaker = getattr(self, f"as_{body['model']}", self.as_responder)
        return str(speaker(prompt, rng))

    def as_instructor(self, prompt: str, rng: Random) -> str:
        count = int(re.search(r"(?:Write|写出) (\d+)", prompt)[1])  # type: ignore[index]
        texts = [self.instruction(rng, between(prompt)) for _ in range(count)]
        if "开始" in prompt:
            texts = [make_chinese(rng) for _ in range(count)]
        return "Here you are:\n```json\n" + json.dumps({"instructions": texts}) + "\n```"

    def instruction(self, rng: Random, source: str) -> str:
        text = make_instruction(rng, rng.choice(self.kinds))
        if rng.random() >= self.rates.bad_instruction:
            return text
        what = rng.choice(BAD)
        text = spoil(text, what, source)
        self.planted[text] = what
        return text

    def as_evolver(self, prompt: str, rng: Random) -> str:
        if "These exist already" in prompt:  # expansion
            return json.dumps({"instructions": [make_instruction(rng, rng.choice(self.kinds)) for _ in range(2)]})
        if "已有下列指令" in prompt:
            return json.dumps({"instructions": [make_chinese(rng)]})
        old = between(prompt)
        if "开始" in prompt:
            return json.dumps({"instruction": f"请仔细读完再回答：{old}"})
        new = (
            old + " Keep it short and exact, please."
            if "clearer" in prompt
            else f"Careful now: {old} Say it once only."
        )
        return json.dumps({"instruction": new})

    def as_judge(self, prompt: str, rng: Random) -> str:
        task = between(prompt)
        if "assert" in prompt:
            name, times, plus = CODE.search(task).groups()  # type: ignore[union-attr]
            tests = [f"assert {name}({n}) == {n * int(times) + int(plus)}" for n in (0, 1, 7, -3)]
            return json.dumps({"tests": tests})
        kind, topic = kind_and_topic(task)
        return json.dumps({"topic": topic, "kind": kind, "difficulty": 2, "answerable": True, "reason": "clear"})

    def as_responder(self, prompt: str, rng: Random) -> str:
        return solve(prompt, rng, wrong=rng.random() < self.rates.wrong)

    def as_grader(self, prompt: str, rng: Random) -> str:
        """Tiers in place of a verdict: 4 or 3 for what it takes for right, 2 or 1 for what it takes for wrong."""
        task, response = CRITIQUED.search(prompt).groups()  # type: ignore[union-attr]
        if rng.random() < self.rates.garbled:
            return rng.choice(["It is fine.", '{"tier": 4}', '{"scores": {"accuracy": 9}, "tier": 1, "reason": "x"}'])
        good = is_right(task, response) != (rng.random() < self.rates.critic)
        tier = rng.choice((4, 3) if good else (2, 1))
        names = ("accuracy", "relevance", "completeness", "usefulness", "clarity")
        return json.dumps({"scores": dict.fromkeys(names, tier), "tier": tier, "reason": f"worth a {tier}"})

    as_examiner = as_grader

    def as_critic(self, prompt: str, rng: Random) -> str:
        task, response = CRITIQUED.search(prompt).groups()  # type: ignore[union-attr]
        good = is_right(task, response) != (rng.random() < self.rates.critic)
        names = ("accuracy", "relevance", "completeness", "usefulness", "clarity")
        scores = dict.fromkeys(names, 4 if good else 1)
        return json.dumps({"scores": scores, "verdict": "accept" if good else "refuse", "reason": "checked"})


def between(prompt: str) -> str:
    return re.split(r"==== (?:START|开始) ====\n", prompt)[-1].rpartition("\n==== ")[0]


def make_chinese(rng: Random) -> str:
    thing = rng.choice(["苹果", "螺丝", "书本", "灯泡", "茶杯", "雨伞"])
    place, day = rng.choice(["仓库", "学校", "商店", "码头", "果园"]), rng.choice("一二三四五六")
    a, b = rng.randrange(10, 9999), rng.randrange(10, 9999)
    return f"星期{day}{place}里有{a}个{thing}，傍晚又运来{b}个{thing}，问这时{place}里一共有多少个{thing}？"


def make_instruction(rng: Random, kind: str) -> str:
    name, other, thing, place = rng.choice(NAMES), rng.choice(NAMES), rng.choice(THINGS), rng.choice(PLACES)
    day, a, b = rng.choice(DAYS), rng.randrange(10, 9999), rng.randrange(10, 9999)
    if kind == "math":
        return (f"On {day} {name} counts {a} {thing} in the {place} and {other} brings another {b} from the "
                f"{rng.choice(PLACES)} before {rng.choice(DAYS)}. How many {thing} are there then?")  # fmt: skip
    if kind == "code":
        return (f"For the {place} stock of {thing}, write a Python function named {name.lower()}_{thing}_{a} with an "
                f"integer argument n that returns n times {a} plus {b}, used by {other} on {day}.")  # fmt: skip
    if kind == "objective":
        return (f"{name}, who sells {thing} in a {place}, asks {other} on {day} number {a}: what is the capital of "
                f"{rng.choice(list(CAPITALS))}, in one word?")  # fmt: skip
    return (f"Explain to {name} of the {place}, in {a % 90 + 10} words, why {thing} lose value by {day} when {other} "
            f"stores {b} of them.")  # fmt: skip


def spoil(text: str, what: str, source: str) -> str:
    if what == "leak":
        return f"{text}\nAnswer: 42"
    if what == "copy":
        return " ".join(source.split()[:30])
    if what == "missing":
        return f"Using the attached image, {text}"
    return "请问这里一共有多少个苹果、多少个梨子，其中哪一种更多一些，多出来多少个呢？" + str(len(text))


def kind_and_topic(task: str) -> tuple[str, str]:
    if SUM.search(task):
        return "math", "mathematics/arithmetic"
    if CODE.search(task):
        return "code", "programming/functions"
    if CHINESE.search(task):
        return "math", "mathematics/arithmetic"
    if CAPITAL.search(task):
        return "objective", "humanities/geography"
    return "open", "society/economics"


def solve(task: str, rng: Random, wrong: bool) -> str:
    if found := SUM.search(task):
        total = int(found[2]) + int(found[4]) + (rng.choice([-1, 1]) * rng.randrange(1, 100) if wrong else 0)
        return f"We add {found[2]} and {found[4]}.\nAnswer: {total:,} {found[3]}"
    if found := CHINESE.search(task):
        return f"先把两数相加。\n答案：{int(found[1]) + int(found[2]) + wrong * rng.randrange(1, 100)}个"
    if found := CODE.search(task):
        name, times, plus = found.groups()
        body = f"n * {times} - {plus}" if wrong else f"n * {times} + {plus}"
        return f"```python\ndef {name}(n):\n    return {body}\n```\nIt multiplies, then adds."
    if found := CAPITAL.search(task):
        city = CAPITALS[found[1]]
        if wrong:
            city = rng.choice([other for other in CAPITALS.values() if other != city])
        return f"This is well known.\nAnswer: {city}."
    return "It was never so." if wrong else "Goods that wait grow old, and others make new ones."


def is_right(task: str, response: str) -> bool:
    """What the server knows about a response of its own making."""
    if found := SUM.search(task):
        said = re.search(r"Answer: (-?[\d,]+)", response)
        return said is not None and int(said[1].replace(",", "")) == int(found[2]) + int(found[4])
    if found := CHINESE.search(task):
        return f"答案：{int(found[1]) + int(found[2])}个" in response
    if found := CODE.search(task):
        return f"n * {found[2]} + {found[3]}" in response
    if found := CAPITAL.search(task):
        return response.rstrip().endswith(f"Answer: {CAPITALS[found[1]]}.")
    return "never" not in response


async def content_of(receive: Any) -> bytes:
    content = b""
    while True:
        message = await receive()
        content += message.get("body", b"")
        if not message.get("more_body"):
            return content


async def start(send: Any, status: int, length: int, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    known = [(b"content-type", b"application/json"), (b"content-length", str(length).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*known, *(headers or [])]})


async def respond(send: Any, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    await start(send, status, len(body), headers)
    await send({"type": "http.response.body", "body": body})


async def lifespan(receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """Yield the base URL of a server for ``app``."""
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="critical", http="h11", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            server.should_exit = True
            thread.join(10)

"""The visitors of ``soak.py``: what they ask for, when they lose patience, and whether what they get is right."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx

SCHEMA = {
    "type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}}, "required": ["a", "b"],
    "additionalProperties": False,
}  # fmt: skip
TOOL = {"type": "function", "function": {"name": "add", "parameters": SCHEMA}}
STOPS = ["7", "。", "e", "the"]
NONSENSE: list[bytes] = [
    b"", b"{", b"[]", b'{"messages": "hello"}', b'{"messages": [], "temperature": 0}', b'{"prompt": "x", "n": 10000}',
    b'{"prompt": "x", "temperature": 1e999}', b"[" * 5000, b'{"prompt": "x", "stop": ["' + b"s" * 999 + b'"]}',
    b'{"prompt": [1, -5]}', b'{"prompt": "x", "logit_bias": {"a": 1}}', b"\xff\xfe", b'{"prompt": ""}',
    b'{"prompt": "x", "structured_outputs": {"regex": "(["}}', b'{"prompt": "x", "max_tokens": 99999999}',
    b'{"prompt": "\\ud800"}', b'{"prompt": "' + b"word " * 50_000 + b'"}', b'{"tokens": [-1]}',
]  # fmt: skip
POSTS = ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", "/v1/nothing")
PAGE = ("/", "/app.js", "/page.css", "/icon.svg", "/v1/models", "/ready", "/health", "/metrics", "/version")
WORDS = ("What", "is", "17", "+", "25", "首都", "的", "capital", "of", "France", "?")


@dataclass
class Tally:
    """What came of all requests. Outcomes in capitals are faults."""

    outcomes: Counter[str] = field(default_factory=Counter)
    first: list[float] = field(default_factory=list)
    """Seconds to the first token of each stream."""
    gaps: list[float] = field(default_factory=list)
    """Seconds between events that bring text, 0 where several came together."""
    pace: list[float] = field(default_factory=list)
    """Seconds a token of each stream, after the first."""
    greedy: dict[str, str] = field(default_factory=dict)
    repeated: Counter[bool] = field(default_factory=Counter)
    """Greedy questions asked again: whether the answer was the same."""

    def faults(self) -> dict[str, int]:
        return {name: count for name, count in self.outcomes.items() if name.split()[0].isupper()}

    def compare(self, body: dict[str, Any], text: str) -> None:
        if body["temperature"] == 0 and body.get("n", 1) == 1:
            question = json.dumps({**body, "stream": None}, sort_keys=True)
            self.repeated[self.greedy.setdefault(question, text) == text] += question in self.greedy


def request_of(rng: Random) -> tuple[str, dict[str, Any]]:
    """A route and a body that the server should take; a few prompts are longer than a small model's context."""
    words = " ".join(rng.choice(WORDS) for _ in range(rng.choice((1, 5, 40, 150, 600))))
    body: dict[str, Any] = {"max_tokens": rng.choice((1, 8, 40, 200)), "temperature": rng.choice((0, 0.7, 1.5))}
    if body["temperature"] == 0 and rng.random() < 0.5:
        words, body["max_tokens"] = "What is 17 + 25?", 24  # asked again and again
    if rng.random() < 0.2:
        body["n"] = rng.randrange(2, 5)
    if rng.random() < 0.2:
        body["stop"] = rng.sample(STOPS, 2)
    if rng.random() < 0.1:
        body |= {
            "seed": rng.randrange(9),
            "top_k": 20,
            "presence_penalty": 0.5,
            "cache_salt": f"salt {rng.randrange(3)}",
        }
    if rng.random() < 0.5:
        return "/v1/completions", body | {"prompt": words, "ignore_eos": rng.random() < 0.3} | _completion_extras(rng)
    return "/v1/chat/completions", body | {"messages": [{"role": "user", "content": words}]} | _chat_extras(rng)


def _completion_extras(rng: Random) -> dict[str, Any]:
    return rng.choice(({}, {}, {}, {"logprobs": 2}, {"logprobs": 1, "echo": True}))


def _chat_extras(rng: Random) -> dict[str, Any]:
    fixed = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    return rng.choice((
        {}, {}, {}, {}, {"response_format": fixed, "max_tokens": 60}, {"structured_outputs": {"regex": "(yes|no)!"}},
        {"tools": [TOOL], "tool_choice": "required", "max_tokens": 60}, {"logprobs": True, "top_logprobs": 3},
    ))  # fmt: skip


class Visitor:
    """One client with its key; asks one thing after another."""

    def __init__(self, number: int, url: str, key: str, tally: Tally) -> None:
        self.rng, self.tally = Random(number), tally
        self.http = httpx.AsyncClient(base_url=url, timeout=60, headers={"authorization": f"Bearer {key}"})

    async def act(self) -> str:
        """Do one of the things that clients do; returns what came of it."""
        chance = self.rng.random()
        if chance < 0.10:
            return await self.nonsense()
        if chance < 0.25:
            return await self.look()
        if chance < 0.27:
            return await self.burst()
        route, body = request_of(self.rng)
        if chance < 0.60:
            return await self.whole(route, body)
        return await self.stream(route, body)

    async def nonsense(self) -> str:
        """Bodies that are no requests, and a wrong key."""
        if self.rng.random() < 0.2:
            reply = await self.http.get("/v1/models", headers={"authorization": "Bearer of bad news, sixteen"})
            return "nonsense refused" if reply.status_code == 401 else f"LET IN BY A WRONG KEY {reply.status_code}"
        headers = {"content-type": self.rng.choice(("application/json", "application/json", "text/plain"))}
        reply = await self.http.post(self.rng.choice(POSTS), content=self.rng.choice(NONSENSE), headers=headers)
        return judged(reply, "nonsense refused")

    async def look(self) -> str:
        """What the chat page does: its files, the model's name, and counting what is being typed."""
        if self.rng.random() < 0.5:
            reply = await self.http.get(self.rng.choice(PAGE))
            return (
                "page and status served"
                if reply.status_code == 200 and reply.content
                else f"STATUS {reply.status_code}"
            )
        text = "counted 数数 " * self.rng.randrange(40)
        counted = await self.http.post("/tokenize", json={"prompt": text})
        back = await self.http.post("/detokenize", json={"tokens": counted.json()["tokens"]})
        return "tokens counted" if back.json()["prompt"] == text else "WRONG TOKENS"

    async def burst(self) -> str:
        """Many at once, more than may wait. Each must be answered or told that the queue is full."""
        body = {"prompt": "burst", "max_tokens": 4, "temperature": 1}
        replies = await asyncio.gather(*[self.http.post("/v1/completions", json=body) for _ in range(40)])
        for reply in replies:
            self.tally.outcomes["in a burst: " + judged(reply, f"refused with {reply.status_code}")] += 1
        return "bursts"

    async def whole(self, route: str, body: dict[str, Any]) -> str:
        patience = self.rng.uniform(0.01, 0.5) if self.rng.random() < 0.1 else None
        try:
            async with asyncio.timeout(patience):
                reply = await self.http.post(route, json=body)
        except TimeoutError:
            return "given up"
        if reply.status_code != 200:
            return judged(reply, "refused with a reason")
        choices = reply.json()["choices"]
        texts = [choice["text"] if "text" in choice else _said(choice["message"]) for choice in choices]
        self.tally.compare({"route": route, **body}, texts[0])
        return checked(body, texts, [choice["finish_reason"] for choice in choices])

    async def stream(self, route: str, body: dict[str, Any]) -> str:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        leave = self.rng.randrange(6) if self.rng.random() < 0.3 else None
        texts, ends = [""] * body.get("n", 1), [""] * body.get("n", 1)
        start, times, last, usage = time.monotonic(), list[float](), "", None
        async with self.http.stream("POST", route, json=body) as reply:
            if reply.status_code != 200:
                await reply.aread()
                return judged(reply, "refused with a reason")
            async for line in reply.aiter_lines():
                if not line:
                    continue
                last, now = line, time.monotonic()
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    return f"ERROR EVENT {event['error']['code']}"
                usage = event["usage"] or usage
                for choice in event["choices"]:
                    new = choice["text"] if "text" in choice else _said(choice["delta"])
                    texts[choice["index"]] += new
                    ends[choice["index"]] = choice["finish_reason"] or ends[choice["index"]]
                    times += [now] if new and choice["index"] == 0 else []
                if leave is not None and len(times) > leave:
                    return "hung up"
        if last != "data: [DONE]" or usage is None:
            return "UNFINISHED STREAM"
        self.tally.first += [times[0] - start] if times else []
        self.tally.gaps += [after - before for before, after in itertools.pairwise(times)]
        self.tally.pace += [(times[-1] - times[0]) / (len(times) - 1)] if len(times) > 4 else []
        self.tally.compare({"route": route, **body, "stream_options": None}, texts[0])
        return checked(body, texts, ends)


def _said(message: dict[str, Any]) -> str:
    calls = message.get("tool_calls") or ()
    return (message.get("content") or "") + "".join(call["function"]["arguments"] for call in calls)


def checked(body: dict[str, Any], texts: list[str], ends: list[str]) -> str:
    """Whether all completions have ended, and are what was asked for."""
    if len(texts) != body.get("n", 1) or not all(ends):
        return "UNFINISHED ANSWER"
    if not body.get("echo") and any(stop in text for stop in body.get("stop", ()) for text in texts):
        return "STOP TEXT LEAKED"
    if ("response_format" in body or "tools" in body) and "stop" not in body:
        for text, end in zip(texts, ends, strict=True):
            if end != "length" and json.loads(text).keys() != {"a", "b"}:
                return "WRONG JSON"
    return "answered"


def judged(reply: httpx.Response, refused: str) -> str:
    if reply.status_code == 200:
        return "answered" if reply.json() else "EMPTY ANSWER"
    if reply.status_code >= 500 and reply.status_code != 503:
        return f"STATUS {reply.status_code}"
    return refused if json.loads(reply.text)["error"]["message"] else "REFUSED WITHOUT A REASON"

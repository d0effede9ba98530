"""An engine that says what it is told to, with the interface of ``AsyncEngine``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from types import SimpleNamespace

from kaiyuan.inference.async_engine import Draining, EngineStats, QueueFull
from kaiyuan.inference.outputs import Piece, TokenLogprob
from kaiyuan.inference.params import SamplingParams
from kaiyuan.inference.text import TextStream
from kaiyuan.tokenizer import Tokenizer

Answer = Callable[[list[int], SamplingParams, int], str]


def logprob_of(id: int) -> float:
    return -0.1 - (id % 7) / 4


class FakeEngine:
    """``answer`` is a text, or a function of prompt ids, parameters and index. ``delay`` is the seconds of a token."""

    def __init__(self, tokenizer: Tokenizer | None, answer: str | Answer = "Hello, world!", delay: float = 0) -> None:
        self.answer, self.delay = answer, delay
        config = SimpleNamespace(vocab_size=1000)
        self.engine = SimpleNamespace(tokenizer=tokenizer, model=SimpleNamespace(config=config), context=1024)
        self.draining, self.healthy, self.full = False, False, False
        self.fail_after: int | None = None
        self.cached = 0
        self.requests: list[tuple[list[int], SamplingParams, str]] = []
        self.open: set[FakePieces] = set()
        self.aborted = 0
        self.counts = EngineStats(kv_blocks_total=10, kv_blocks_used=5, requests_finished={"stop": 3, "length": 1})

    def start(self) -> None:
        self.healthy = True

    async def stop(self, drain_seconds: float = 30) -> None:
        self.draining = True
        end = asyncio.get_running_loop().time() + drain_seconds
        while self.open and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.01)
        for pieces in list(self.open):
            pieces.stopped = True
        self.healthy = False

    async def submit(self, prompt_ids: list[int], params: SamplingParams, *, salt: str = "") -> FakePieces:
        if self.draining:
            raise Draining("the server is stopping")
        if self.full:
            raise QueueFull("too many")
        assert prompt_ids
        assert max(prompt_ids) < 1000
        self.requests.append((list(prompt_ids), params, salt))
        pieces = FakePieces(self, list(prompt_ids), params)
        self.open.add(pieces)
        return pieces

    def stats(self) -> EngineStats:
        return self.counts

    def text(self, prompt: list[int], params: SamplingParams, index: int) -> str:
        return self.answer if isinstance(self.answer, str) else self.answer(prompt, params, index)


class FakePieces:
    """All completions of a request, a token of each in turn."""

    def __init__(self, owner: FakeEngine, prompt: list[int], params: SamplingParams) -> None:
        self.owner, self.prompt, self.params = owner, prompt, params
        self.stopped = False
        self._made = 0
        self._pieces = self._all()

    def __aiter__(self) -> FakePieces:
        return self

    async def __anext__(self) -> Piece:
        if self.owner.delay:
            await asyncio.sleep(self.owner.delay)
        if self.stopped:
            raise Draining("the server has stopped")
        if self.owner.fail_after is not None and self._made >= self.owner.fail_after:
            raise RuntimeError("the device is on fire")
        self._made += 1
        piece = next(self._pieces, None)
        if piece is None:
            self.owner.open.discard(self)
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        if self in self.owner.open:
            self.owner.open.discard(self)
            self.owner.aborted += 1

    def _all(self) -> Iterator[Piece]:
        streams = [self._one(index) for index in range(self.params.n)]
        while streams:
            for stream in list(streams):
                piece = next(stream, None)
                if piece is None:
                    streams.remove(stream)
                else:
                    yield piece

    def _one(self, index: int) -> Iterator[Piece]:
        tokenizer, params = self.owner.engine.tokenizer, self.params
        text = self.owner.text(self.prompt, params, index)
        ids = [5, 6, 7] if tokenizer is None else tokenizer.encode(text)
        limit = min(params.max_tokens, self.owner.engine.context - len(self.prompt))
        stream = None if tokenizer is None else TextStream(tokenizer, params.stop)
        before = tuple(self._scored(id) for id in self.prompt[1:]) if params.prompt_logprobs else ()
        for count, id in enumerate(ids[:limit], 1):
            out = stream.feed(id) if stream else ""
            reason = "stop" if stream and stream.stopped else "length" if count == limit else None
            if reason == "length" and stream:
                out += stream.flush()
            yield Piece(index, out, (self._scored(id),), reason, before, self.owner.cached)
            before = ()
            if reason:
                return
        yield Piece(index, stream.flush() if stream else "", (), "stop", before, self.owner.cached)

    def _scored(self, id: int) -> TokenLogprob:
        tops = [(id, logprob_of(id)), *((other, -5.0 - other) for other in range(300, 320))]
        return TokenLogprob(id, logprob_of(id), tuple(tops[: self.params.logprobs]))

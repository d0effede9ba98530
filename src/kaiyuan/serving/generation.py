"""Answers under way: one engine request for each prompt, merged, with a deadline, and aborted when nobody listens."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeVar

from kaiyuan.errors import KaiyuanError
from kaiyuan.inference.async_engine import Draining
from kaiyuan.inference.outputs import Piece
from kaiyuan.inference.params import SamplingParams
from kaiyuan.serving.errors import ApiError, draining, engine_failed, from_engine, timed_out
from kaiyuan.serving.interface import Pieces, ServedEngine
from kaiyuan.serving.metrics import Metrics
from kaiyuan.serving.protocol import StreamOptions

if TYPE_CHECKING:
    from starlette.requests import Request

T = TypeVar("T")
log = logging.getLogger("kaiyuan.serving")


@dataclass(frozen=True)
class Job:
    """One prompt and what to make of it."""

    prompt: list[int]
    params: SamplingParams
    salt: str = ""


@dataclass
class Usage:
    """Tokens of all jobs of a request."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached: dict[int, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": sum(self.cached.values())},
        }


def usage_of_chunk(options: StreamOptions | None, usage: Usage) -> dict[str, Any]:
    """What a chunk that is not the last says of usage: nothing, null, or the count so far, by ``stream_options``."""
    if options is None or not options.include_usage:
        return {}
    return {"usage": usage.as_json() if options.continuous_usage_stats else None}


class Generation:
    """The jobs of one HTTP request. ``begin`` submits them all or none; ``pieces`` may be iterated once."""

    def __init__(self, jobs: Sequence[Job], metrics: Metrics, seconds: float) -> None:
        self.jobs, self.seconds = jobs, seconds
        self.usage = Usage(prompt_tokens=sum(len(job.prompt) for job in jobs))
        self._metrics = metrics
        self._start = time.monotonic()
        self._streams: list[Pieces] = []

    @classmethod
    async def begin(cls, engine: ServedEngine, jobs: Sequence[Job], metrics: Metrics, seconds: float) -> Self:
        """Submit ``jobs``. Raises ``ApiError`` if the engine refuses one of them; none runs then."""
        made = cls(jobs, metrics, seconds)
        if not engine.healthy and not engine.draining:
            raise engine_failed()
        try:
            for job in jobs:
                made._streams.append(await engine.submit(job.prompt, job.params, salt=job.salt))
        except KaiyuanError as error:
            await made.close()
            raise from_engine(error) from None
        except BaseException:
            await made.close()
            raise
        return made

    async def close(self) -> None:
        """Abort what is not finished."""
        for stream in self._streams:
            await stream.aclose()

    async def pieces(self) -> AsyncGenerator[tuple[int, Piece], None]:
        """Each piece with the number of its job. Raises ``ApiError`` at the deadline, or if the engine gives up."""
        queue: asyncio.Queue[tuple[int, Piece | Exception | None]] = asyncio.Queue()
        tasks = [asyncio.create_task(_pump(number, stream, queue)) for number, stream in enumerate(self._streams)]
        watches = [self._metrics.watch(len(job.prompt), self._start) for job in self.jobs]
        running = len(tasks)
        try:
            while running:
                number, item = await self._next(queue)
                if item is None:
                    running -= 1
                    continue
                piece = self._checked(item)
                watches[number].see(piece)
                self._count(number, piece)
                yield number, piece
            self._metrics.finished(time.monotonic() - self._start)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.close()

    async def _next(self, queue: asyncio.Queue[T]) -> T:
        try:
            async with asyncio.timeout(max(0.0, self._start + self.seconds - time.monotonic())):
                return await queue.get()
        except TimeoutError:
            raise timed_out(self.seconds) from None

    def _checked(self, item: Piece | Exception) -> Piece:
        if isinstance(item, Draining):
            raise draining()
        if isinstance(item, Exception):
            log.error("the engine failed", exc_info=item)
            raise engine_failed()
        if item.finish_reason == "abort":
            raise draining()
        return item

    def _count(self, number: int, piece: Piece) -> None:
        self.usage.completion_tokens += len(piece.tokens)
        self.usage.cached[number] = max(self.usage.cached.get(number, 0), piece.cached_tokens)


async def _pump(number: int, stream: Pieces, queue: asyncio.Queue[tuple[int, Piece | Exception | None]]) -> None:
    try:
        async with contextlib.aclosing(stream):
            async for piece in stream:
                queue.put_nowait((number, piece))
        queue.put_nowait((number, None))
    except Exception as error:
        queue.put_nowait((number, error))


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled if the client disconnects: an ``ApiError`` then that nobody reads."""
    task, gone = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ApiError("the client has gone", 499)
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

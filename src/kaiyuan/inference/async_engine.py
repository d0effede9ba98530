"""The engine behind a server: a thread takes the steps, coroutines ask and listen.

Everything that changes the engine happens in the thread; coroutines leave it orders and get their pieces through the
event loop they asked from.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from kaiyuan.errors import KaiyuanError
from kaiyuan.inference.engine import Engine
from kaiyuan.inference.outputs import Piece
from kaiyuan.inference.params import SamplingParams
from kaiyuan.progress import say


class QueueFull(KaiyuanError):
    """So many requests wait already that another would only wait."""


class Draining(KaiyuanError):
    """The server is about to stop and takes no new request."""


class EngineFailure(KaiyuanError):
    """A step failed; the requests under way are lost, new ones may be made."""


@dataclass(frozen=True)
class EngineStats:
    """What the engine is doing and has done since it started."""

    running: int = 0
    waiting: int = 0
    kv_blocks_total: int = 0
    kv_blocks_used: int = 0
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
    preemptions: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    requests_finished: dict[str, int] = field(default_factory=dict)
    """Completions by finish reason."""


@dataclass(eq=False)
class _Listener:
    """Who waits for a request's pieces."""

    loop: asyncio.AbstractEventLoop
    queue: asyncio.Queue[list[Piece] | KaiyuanError]
    open: int
    """Completions that have not ended."""

    def tell(self, news: list[Piece] | KaiyuanError) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self.loop.call_soon_threadsafe(self.queue.put_nowait, news)


class _Pieces(AsyncIterator[Piece]):
    """A request's pieces. Not an async generator: closing one of those that never began would abort nothing."""

    def __init__(self, listener: _Listener, closed: Callable[[bool], None]) -> None:
        self._listener, self._closed = listener, closed
        self._left = listener.open
        self._news: deque[Piece] = deque()
        self._over = False

    async def __anext__(self) -> Piece:
        if self._over:
            raise StopAsyncIteration
        try:
            while not self._news:
                if not self._left:
                    raise StopAsyncIteration
                news = await self._listener.queue.get()
                if isinstance(news, KaiyuanError):
                    self._left = 0
                    raise news
                self._news.extend(news)
                self._left -= sum(piece.finish_reason is not None for piece in news)
        except BaseException:
            await self.aclose()
            raise
        return self._news.popleft()

    async def aclose(self) -> None:
        """Listen no more; aborts the request if it is not finished."""
        self._close()

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        if not self._over:
            self._over = True
            self._closed(self._left > 0)


class AsyncEngine:
    """Serves many requests at once. At most ``max_waiting`` of them wait to be begun; more raise ``QueueFull``."""

    def __init__(self, engine: Engine, *, max_waiting: int = 256) -> None:
        self.engine, self.max_waiting = engine, max_waiting
        self.draining = False
        self._orders: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._listeners: dict[int, _Listener] = {}
        self._asked = 0
        """Requests that have been accepted and whose end has not been told."""
        self._leave = False
        self._aborted = 0
        self._thread = threading.Thread(target=self._work, name="kaiyuan engine", daemon=True)

    @property
    def healthy(self) -> bool:
        """Whether the thread that takes the steps is alive."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start taking steps."""
        self._thread.start()

    async def stop(self, drain_seconds: float = 30) -> None:
        """Take no new request, finish those under way, abort what is left after ``drain_seconds``, end the thread."""
        self.draining = True
        end = time.monotonic() + drain_seconds
        while self._asked and self.healthy and time.monotonic() < end:
            await asyncio.sleep(0.02)
        self._leave = True
        self._order(lambda: None)
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)

    async def submit(self, prompt_ids: Sequence[int], params: SamplingParams, *, salt: str = "") -> _Pieces:
        """The pieces of all completions of a request as they are made. Closing the iterator aborts the request.

        Raises ``KaiyuanError`` for what cannot be generated, ``QueueFull`` and ``Draining`` at once, before the first
        piece is asked for.
        """
        if self.draining:
            raise Draining("the server is stopping and takes no new request")
        if self._asked >= self.max_waiting + self.engine.scheduler.max_num_seqs:
            raise QueueFull(f"{self._asked} requests are under way or wait: ask again later")
        self._asked += 1  # before anything is awaited: a burst asks faster than prompts are prepared
        try:
            sequences = await asyncio.to_thread(self.engine.prepare, list(prompt_ids), params, salt)
            if self._leave:
                raise Draining("the server has stopped")
        except BaseException:
            self._asked -= 1
            raise
        listener = _Listener(asyncio.get_running_loop(), asyncio.Queue(), params.n)
        number = sequences[0].request

        def begin() -> None:
            self._listeners[number] = listener
            self.engine.begin(sequences)

        self._order(begin)
        return _Pieces(listener, lambda unfinished: self._closed(number, unfinished))

    def _closed(self, number: int, unfinished: bool) -> None:
        self._asked -= 1
        if unfinished:
            self._order(lambda: self._abort(number))

    def _order(self, order: Callable[[], None]) -> None:
        with self._wake:
            self._orders.append(order)
            self._wake.notify()

    def _abort(self, number: int) -> None:
        if self._listeners.pop(number, None) is not None:
            self._aborted += 1
            self.engine.abort(number)

    def _work(self) -> None:
        while not self._leave:
            with self._wake:
                while not self._orders and not len(self.engine):
                    self._wake.wait()
            try:
                self._obey()
                self._tell(self.engine.step())
            except Exception as error:  # whatever it was, requests that wait must hear of it
                self._fail(error)
        self._obey()  # what was asked for at the last moment must hear of the end too
        self._fail(Draining("the server has stopped"))

    def _obey(self) -> None:
        while self._orders:
            self._orders.popleft()()

    def _tell(self, pieces: list[tuple[int, Piece]]) -> None:
        news: dict[int, list[Piece]] = {}
        for number, piece in pieces:
            news.setdefault(number, []).append(piece)
        for number, found in news.items():
            listener = self._listeners[number]
            listener.tell(found)
            listener.open -= sum(piece.finish_reason is not None for piece in found)
            if listener.open <= 0:
                del self._listeners[number]

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, KaiyuanError):
            say(f"engine: a step failed: {type(error).__name__}: {error}")
            error = EngineFailure("the engine failed at this request; the server's log has the reason")
        listeners, self._listeners = self._listeners, {}
        for listener in listeners.values():  # all of them first: what comes after may fail too
            listener.tell(error)
        for number in listeners:
            self.engine.abort(number)

    def stats(self) -> EngineStats:
        """A snapshot; numbers may be of neighbouring steps."""
        scheduler, pool, answering = self.engine.scheduler, self.engine.pool, self.engine.answering
        return EngineStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            kv_blocks_total=pool.count,
            kv_blocks_used=pool.used,
            prefix_query_tokens=scheduler.counts.prefix_query_tokens,
            prefix_hit_tokens=scheduler.counts.prefix_hit_tokens,
            preemptions=scheduler.counts.preemptions,
            prompt_tokens=answering.prompt_tokens,
            generation_tokens=answering.generation_tokens,
            requests_finished={**answering.finished, "abort": self._aborted},
        )

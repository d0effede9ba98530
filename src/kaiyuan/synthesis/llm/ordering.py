"""Many rows at once, with what depends on order done in order: a run and its repetition decide the same."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Turnstile:
    """Lets in one after the other by number, 0 first. Everyone must come through, also those who have nothing to do."""

    def __init__(self) -> None:
        self._next = 0
        self._waiting: dict[int, asyncio.Event] = {}

    @asynccontextmanager
    async def turn(self, number: int) -> AsyncIterator[None]:
        if number != self._next:
            event = self._waiting[number] = asyncio.Event()
            await event.wait()
        try:
            yield
        finally:
            self._next += 1
            event_of_next = self._waiting.pop(self._next, None)
            if event_of_next is not None:
                event_of_next.set()


async def in_order(items: Iterable[T], work: Callable[[int, T], Awaitable[R]], window: int) -> AsyncIterator[R]:
    """Results of ``work(number, item)`` in the order of ``items``, ``window`` of them under way.

    An exception of any of them is raised as soon as it happens; the others are then cancelled.
    """
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    pending: deque[asyncio.Task[R]] = deque()

    async def watched(number: int, item: T) -> R:
        try:
            return await work(number, item)
        except Exception as error:
            if not failed.done():
                failed.set_exception(error)
            raise

    async def first() -> R:
        either: list[asyncio.Future[Any]] = [pending[0], failed]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if failed.done():
            failed.result()
        return pending.popleft().result()

    try:
        for number, item in enumerate(items):
            pending.append(asyncio.create_task(watched(number, item)))
            while len(pending) >= window:
                yield await first()
        while pending:
            yield await first()
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        if failed.done() and not failed.cancelled():
            failed.exception()

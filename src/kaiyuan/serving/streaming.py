"""Server-sent events: an ASGI application that sends what a generator yields until it ends or the client goes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from kaiyuan.serving.errors import ApiError, engine_failed, to_json

log = logging.getLogger("kaiyuan.serving")

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class EventStream:
    """One ``data:`` event for each value of ``chunks``, then ``[DONE]``. An ``ApiError`` becomes the last event.

    ``close`` is called at the end, even if ``chunks`` never began. That is as the client disconnects, and at the
    latest after ``seconds``: a client that does not read cannot hold it for ever.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[dict[str, Any], None],
        close: Callable[[], Awaitable[None]],
        seconds: float,
    ) -> None:
        self.chunks, self.close, self.seconds = chunks, close, seconds

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        sender = asyncio.create_task(self._send_all(send))
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({sender, gone}, timeout=self.seconds, return_when=asyncio.FIRST_COMPLETED)
            if sender.done():
                sender.result()
        finally:
            sender.cancel()
            gone.cancel()
            await asyncio.gather(sender, gone, return_exceptions=True)
            await self.close()

    async def _send_all(self, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        async with contextlib.aclosing(self._events()) as events:
            async for event in events:
                await send({"type": "http.response.body", "body": b"data: " + event + b"\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _events(self) -> AsyncGenerator[bytes, None]:
        async with contextlib.aclosing(self.chunks) as chunks:
            try:
                async for chunk in chunks:
                    yield to_json(chunk)
            except ApiError as error:
                yield to_json(error.body())
            except Exception:
                log.exception("a stream failed")
                yield to_json(engine_failed().body())
            yield b"[DONE]"


async def _gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

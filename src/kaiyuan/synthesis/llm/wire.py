"""What goes over the wire: one request, its answer read with limits, and what each kind of failure means."""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kaiyuan.synthesis.llm.calls import Answer

if TYPE_CHECKING:
    import httpx

_PASSING = frozenset({408, 409, 425, 429})
_FATAL = frozenset({401, 402, 403, 404, 405})
_OUT_OF_MONEY = ("insufficient_quota", "billing_hard_limit_reached", "insufficient_balance")


@dataclass(eq=False)
class Failure(Exception):
    """Why a request gave no answer.

    ``again``: another try may help. ``unwell``: it says that the endpoint is ill, not the request. ``crowded``: we ask
    too much (429). ``fatal``: no request of this endpoint can succeed until somebody mends it.
    """

    reason: str
    again: bool = False
    unwell: bool = False
    crowded: bool = False
    fatal: bool = False
    retry_after: float | None = field(default=None)

    def __str__(self) -> str:
        return self.reason


async def send(http: httpx.AsyncClient, body: dict[str, Any], seconds: float, most_bytes: int, key: str) -> Answer:
    """POST ``body`` and return the answer; a ``Failure`` for anything else. ``seconds`` hold for all of it.

    The key goes along, for gateways that know a repeated request by it and charge it once.
    """
    import httpx

    start = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            async with http.stream("POST", "chat/completions", json=body, headers={"idempotency-key": key}) as response:
                content = await _read(response, most_bytes)
    except TimeoutError:
        raise Failure(f"no whole answer in {seconds:g} s", again=True, unwell=True) from None
    except httpx.TimeoutException as error:
        raise Failure(f"timeout ({type(error).__name__})", again=True, unwell=True) from None
    except httpx.TransportError as error:
        raise Failure(f"connection failed ({str(error) or type(error).__name__})", again=True, unwell=True) from None
    except httpx.HTTPError as error:
        raise Failure(f"unreadable answer ({type(error).__name__})", again=True) from None
    if response.status_code != 200:
        raise _refusal(response.status_code, response.headers.get("retry-after"), content)
    return parse(content, key, time.monotonic() - start)


async def _read(response: httpx.Response, most_bytes: int) -> bytes:
    """The decoded body, given up as soon as it is longer than ``most_bytes``."""
    content = bytearray()
    async for piece in response.aiter_bytes(64 << 10):
        content += piece
        if len(content) > most_bytes:
            raise Failure(f"the answer is longer than {most_bytes} bytes")
    return bytes(content)


def parse(content: bytes, key: str, seconds: float) -> Answer:
    """The answer in a body of status 200. Bodies that are cut off, malformed or empty are failures to try again."""
    try:
        body = json.loads(content)
        choice = body["choices"][0]
        text = choice["message"]["content"]
    except (ValueError, RecursionError):
        raise Failure("truncated or invalid JSON", again=True) from None
    except (KeyError, IndexError, TypeError):
        raise Failure("an answer without choices", again=True) from None
    text = text.encode("utf-8", "replace").decode().replace("\0", "") if isinstance(text, str) else ""
    finish = choice.get("finish_reason")
    if not text.strip() and finish not in ("content_filter", "length"):
        raise Failure("an empty answer", again=True)
    usage = body.get("usage") if isinstance(body.get("usage"), dict) else {}
    model = body.get("model")
    return Answer(
        key,
        text,
        finish if isinstance(finish, str) else "stop",
        model[:200] if isinstance(model, str) else "",
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
        seconds,
    )


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40 else 0


def _refusal(status: int, retry_after: str | None, content: bytes) -> Failure:
    said = _message(content)
    reason = f"status {status}" + (f": {said}" if said else "")
    if status == 429 and any(word in content.decode("utf-8", "replace") for word in _OUT_OF_MONEY):
        return Failure(reason, fatal=True)
    if status in _PASSING or status >= 500:
        return Failure(
            reason, again=True, unwell=status >= 500, crowded=status == 429, retry_after=patience(retry_after)
        )
    return Failure(reason, fatal=status in _FATAL or status < 400)


def _message(content: bytes) -> str:
    """What the server says of an error, on one line, at most 200 characters."""
    try:
        body = json.loads(content)
        error = body.get("error", body.get("detail", body))
        text = error.get("message", "") if isinstance(error, dict) else error
    except (ValueError, AttributeError, RecursionError):
        text = content[:400].decode("utf-8", "replace")
    return " ".join(str(text).split())[:200]


def patience(value: str | None) -> float | None:
    """Seconds that a ``Retry-After`` header asks for, given as a number or a date; ``None`` if it says nothing."""
    if not value:
        return None
    try:
        seconds = float(value)
        return max(0.0, seconds) if seconds == seconds and seconds != float("inf") else None
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None

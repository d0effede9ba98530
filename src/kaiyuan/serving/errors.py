"""Errors in OpenAI's shape, and plain replies: small ASGI applications, so that no web framework is needed here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kaiyuan.errors import KaiyuanError
from kaiyuan.inference.async_engine import Draining, QueueFull

_TYPES = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error",
    500: "server_error", 503: "service_unavailable_error", 504: "timeout_error",
}  # fmt: skip

_LINE_ENDS = {0x85: r"\u0085", 0x2028: r"\u2028", 0x2029: r"\u2029"}
"""What some clients (httpx) take for the end of a line, though in an event stream it is none."""


@dataclass
class Reply:
    """A whole HTTP response."""

    body: bytes
    status: int = 200
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        named = {"content-type": self.media_type, "content-length": str(len(self.body)), **self.headers}
        if self.status == 304:
            named = dict(self.headers)
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in named.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def to_json(value: Any) -> bytes:
    """Compact JSON, which has no NaN. Half a surrogate pair, which no UTF-8 can hold, becomes a question mark."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_LINE_ENDS)
    return text.encode("utf-8", errors="replace")


def json_reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(to_json(value), status, headers=headers or {})


class ApiError(Exception):
    """A request that is refused. ``param`` names the field at fault, ``code`` is for programs."""

    def __init__(
        self,
        message: str,
        status: int = 400,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.param, self.code = message, status, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def reply(self) -> Reply:
        return json_reply(self.body(), self.status, self.headers)


def from_engine(error: KaiyuanError) -> ApiError:
    """What the client is told when the engine refuses a request."""
    if isinstance(error, QueueFull):
        return queue_full()
    if isinstance(error, Draining):
        return draining()
    text = " ".join(line.strip(" -") for line in str(error).splitlines())
    found = re.search(r"^ *- (\w+): ", str(error), re.MULTILINE)
    return ApiError(text, param=found[1] if found else None)


def queue_full() -> ApiError:
    return ApiError("the queue is full, try again later", 429, code="queue_full", headers={"retry-after": "1"})


def draining() -> ApiError:
    return ApiError("the server is shutting down", 503, code="draining", headers={"retry-after": "30"})


def timed_out(seconds: float) -> ApiError:
    return ApiError(
        f"the answer was not ready after {seconds:g} seconds; ask for fewer tokens",
        504, code="timeout", headers={"x-should-retry": "false"},
    )  # fmt: skip


def engine_failed() -> ApiError:
    return ApiError("the engine failed; the server's log says why", 500, code="engine_failed")

"""Who may ask: the API key, the Host and Origin headers, and the size of the body, before any work is done."""

from __future__ import annotations

import hmac
from collections.abc import Container
from typing import Any

from kaiyuan.serving.body import too_large
from kaiyuan.serving.errors import ApiError
from kaiyuan.serving.settings import LOOPBACK_NAMES, ServerSettings

_ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]
_NO_STORE = (b"cache-control", b"no-store")


class Guard:
    """ASGI middleware. ``public`` are paths that need no key: the chat page's files, and ``/health``."""

    def __init__(self, app: Any, settings: ServerSettings, public: Container[str]) -> None:
        self._app, self._settings, self._public = app, settings, public

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sender = _with_headers(send)
        try:
            self._check(scope)
        except ApiError as error:
            await error.reply()(scope, receive, sender)
            return
        await self._app(scope, receive, sender)

    def _check(self, scope: Any) -> None:
        """Raise ``ApiError`` for a request that must not go on."""
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, value)
        if scope["path"] == "/health":
            return
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if not self._settings.api_key and _without_port(host) not in LOOPBACK_NAMES:
            raise ApiError("this server answers requests to localhost, 127.0.0.1 and [::1] only", 403, code="bad_host")
        if scope["method"] not in ("GET", "HEAD"):
            _check_origin(headers, host)
            self._check_length(headers)
        readable = scope["method"] in ("GET", "HEAD") and scope["path"] in self._public
        if self._settings.api_key and not readable:
            self._check_key(headers)

    def _check_key(self, headers: dict[bytes, bytes]) -> None:
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer" and hmac.compare_digest(key.strip(), self._settings.api_key.encode()):
            return
        message = "the API key is wrong" if key else "an API key is needed: send Authorization: Bearer KEY"
        raise ApiError(message, 401, code="invalid_api_key", headers={"www-authenticate": "Bearer"})

    def _check_length(self, headers: dict[bytes, bytes]) -> None:
        length = headers.get(b"content-length", b"0")
        limit = self._settings.limits.body_bytes
        if not length.isdigit() or len(length) > 18 or int(length) > limit:
            raise too_large(limit)


def _check_origin(headers: dict[bytes, bytes], host: str) -> None:
    origin = headers.get(b"origin")
    if origin is not None and origin.decode("latin-1").lower().partition("://")[2] != host:
        raise ApiError("requests from other web pages are refused", 403, code="cross_origin")


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def _with_headers(send: Any) -> Any:
    async def sender(message: Any) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", []), *_ALWAYS]
            if not any(name.lower() == b"cache-control" for name, _ in headers):
                headers.append(_NO_STORE)
            message = {**message, "headers": headers}
        await send(message)

    return sender

"""Who may ask: the API key, the Host and Origin headers, and the size of the body, before any work is done."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Container
from typing import Any

from kaiyuan.serving.body import too_large
from kaiyuan.serving.errors import ApiError
from kaiyuan.serving.settings import LOOPBACK_NAMES, ServerSettings

_ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]
_TENANT = "kaiyuan.tenant"
_NO_STORE = (b"cache-control", b"no-store")


def tenant_of(scope: Any) -> str:
    """Which of several keys the request came with, as the beginning of its salt: prefixes are not shared over it."""
    return str(scope.get(_TENANT, ""))


class Guard:
    """ASGI middleware. ``public`` are paths that need no key: the chat page's files, and ``/health``. ``replied`` is
    told the route and the status of every reply.
    """

    def __init__(
        self, app: Any, settings: ServerSettings, public: Container[str], replied: Callable[[str, int], None]
    ) -> None:
        self._app, self._settings, self._public, self._replied = app, settings, public, replied

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sender(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = _with_headers(message)
                self._replied(getattr(scope.get("route"), "path", ""), message["status"])
            await send(message)

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
        if not self._settings.api_keys and _without_port(host) not in LOOPBACK_NAMES:
            raise ApiError("this server answers requests to localhost, 127.0.0.1 and [::1] only", 403, code="bad_host")
        if scope["method"] not in ("GET", "HEAD"):
            _check_origin(headers, host)
            self._check_length(headers)
        readable = scope["method"] in ("GET", "HEAD") and scope["path"] in self._public
        if self._settings.api_keys and not readable:
            scope[_TENANT] = self._tenant(headers)

    def _tenant(self, headers: dict[bytes, bytes]) -> str:
        """A name for the holder of the key that was sent, empty if there is but one; ``ApiError`` without a right key.

        How long it takes does not depend on how much of a key is right, nor on which one it is.
        """
        keys = self._settings.api_keys
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        right = [known for known in keys if hmac.compare_digest(key.strip(), known.encode())]
        if scheme.lower() == b"bearer" and right:
            return hashlib.sha256(right[0].encode()).hexdigest() if len(keys) > 1 else ""
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


def _with_headers(message: Any) -> Any:
    headers = [*message.get("headers", []), *_ALWAYS]
    if not any(name.lower() == b"cache-control" for name, _ in headers):
        headers.append(_NO_STORE)
    return {**message, "headers": headers}

"""The review page's server: a few routes, the chat page's modules beside the page's own, this machine only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from kaiyuan.curation.review import REASONS
from kaiyuan.errors import KaiyuanError
from kaiyuan.progress import say
from kaiyuan.serving.body import read_request
from kaiyuan.serving.errors import ApiError, json_reply
from kaiyuan.serving.guard import Guard
from kaiyuan.serving.pages import STATIC, load_pages
from kaiyuan.serving.review.desk import Desk
from kaiyuan.serving.settings import Limits, ServerSettings

OWN = Path(__file__).parent / "static"
_SHARED = (
    "blocks",
    "dom",
    "highlight",
    "i18n",
    "inline",
    "math",
    "math-symbols",
    "math-tables",
    "preferences",
    "prose",
)
_SHARED_FILES = ("icon.svg", "page.css", "prose.css", "theme.js", *(f"{name}.js" for name in _SHARED))
"""Files of the chat page that this one uses as they are; its own ``words.js`` takes the place of the other."""
_LIMITS = Limits(body_bytes=64 << 10)


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    reviewer: Annotated[
        str, StringConstraints(strip_whitespace=True, min_length=1, max_length=60, pattern=r"^[^\x00-\x1f]+$")
    ]


class _Verdict(_Body):
    sample: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    verdict: Literal["keep", "drop"]
    reasons: Annotated[list[Literal[REASONS]], Field(max_length=len(REASONS))] = []  # type: ignore[valid-type]
    note: Annotated[str, Field(max_length=2000)] = ""


class ReviewApp:
    """An ASGI application."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        chat = load_pages(STATIC)
        self.pages = {f"/{name}": chat[f"/{name}"] for name in _SHARED_FILES} | load_pages(OWN)
        self._posts: dict[str, tuple[type[_Body], Callable[[Any], dict[str, Any]]]] = {
            "/api/next": (_Body, lambda body: desk.next(body.reviewer)),
            "/api/undo": (_Body, lambda body: desk.undo(body.reviewer)),
            "/api/verdict": (
                _Verdict,
                lambda body: desk.judge(body.reviewer, body.sample, body.verdict, body.reasons, body.note),
            ),
        }

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        try:
            reply = await self._reply(scope, receive)
        except ApiError as error:
            reply = error.reply()
        await reply(scope, receive, send)

    async def _reply(self, scope: Any, receive: Any) -> Any:
        from starlette.requests import Request

        request, path, method = Request(scope, receive), scope["path"], scope["method"]
        if path in self.pages and method in ("GET", "HEAD"):
            return self.pages[path].reply(request.headers.get("if-none-match", ""))
        if path == "/api/report" and method == "GET":
            return json_reply(await asyncio.to_thread(self.desk.report))
        if path in self._posts and method == "POST":
            model, answer = self._posts[path]
            body = await read_request(request, model, _LIMITS)
            return json_reply(await asyncio.to_thread(answer, body))
        known = path in self.pages or path in self._posts or path == "/api/report"
        raise ApiError(f"{method[:20]} {path[:200]!r} is not here", 405 if known else 404)


async def _lifespan(receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def guarded(desk: Desk) -> Guard:
    """The application behind checks of Host, Origin and the body's size."""
    app = ReviewApp(desk)
    return Guard(app, ServerSettings("review", limits=_LIMITS), set(app.pages), lambda *_: None)


def review(desk: Desk, port: int) -> None:
    """Serve until Ctrl-C or SIGTERM, on 127.0.0.1 only."""
    try:
        import uvicorn
    except ImportError:
        raise KaiyuanError("the review page needs more packages: pip install 'kaiyuan[serve]'") from None
    from kaiyuan.serving.server import listen

    with listen("127.0.0.1", port) as listener:
        say(f"{len(desk.tasks):,} samples to review on http://127.0.0.1:{listener.getsockname()[1]} (Ctrl-C ends it)")
        config = uvicorn.Config(
            guarded(desk), log_level="warning", access_log=False, http="h11", ws="none", server_header=False,
            proxy_headers=False, lifespan="on", timeout_graceful_shutdown=2,
        )  # fmt: skip
        uvicorn.Server(config).run(sockets=[listener])

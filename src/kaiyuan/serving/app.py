"""The HTTP application: OpenAI's routes, health and metrics, and the chat page."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import kaiyuan
from kaiyuan.errors import KaiyuanError
from kaiyuan.serving.body import read_request
from kaiyuan.serving.chat import ChatAnswer, plan_chat
from kaiyuan.serving.completions import CompletionAnswer, plan_completion
from kaiyuan.serving.conversation import conversation
from kaiyuan.serving.errors import ApiError, Reply, engine_failed, json_reply
from kaiyuan.serving.generation import Generation, Job, unless_gone
from kaiyuan.serving.guard import Guard, tenant_of
from kaiyuan.serving.interface import ServedEngine
from kaiyuan.serving.logprobs import token_name
from kaiyuan.serving.metrics import Metrics
from kaiyuan.serving.openapi import add_schemas, body_of
from kaiyuan.serving.pages import load_pages
from kaiyuan.serving.prepare import chat_prompt, check_messages, check_model, check_open, encode, tokenizer_of
from kaiyuan.serving.protocol import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    SamplingFields,
    TokenizeRequest,
)
from kaiyuan.serving.settings import ServerSettings
from kaiyuan.serving.streaming import EventStream

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

Answer = Reply | EventStream
Handler = Callable[["Request"], Awaitable[Answer]]
_SEND_SECONDS = 30.0
"""How much longer than the engine a client may take to read a stream."""


def create_app(engine: ServedEngine, settings: ServerSettings) -> FastAPI:
    """The application. Its lifespan starts ``engine``, and stops it unless that has been done.

    Raises ``KaiyuanError`` if the packages of the extra ``serve`` are missing.
    """
    try:
        from fastapi import FastAPI
    except ImportError:
        raise KaiyuanError("the server needs more packages: pip install 'kaiyuan[serve]'") from None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        if not engine.draining:
            await engine.stop(settings.drain_seconds)

    app = FastAPI(title="kaiyuan", docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=lifespan)
    pages = load_pages()
    _add_error_handlers(app)
    metrics = Metrics(engine, settings.model_name, settings.metrics_prefix)
    _add_routes(app, Routes(engine, settings, metrics))

    async def page(request: Request) -> Answer:
        return pages[request.url.path].reply(request.headers.get("if-none-match", ""))

    for path in pages:
        app.add_api_route(path, _handler(page), methods=["GET", "HEAD"], include_in_schema=False, response_model=None)
    app.add_middleware(Guard, settings=settings, public={*pages, "/health"}, replied=metrics.replied)
    return app


def _add_routes(app: FastAPI, routes: Routes) -> None:
    for method, path, handler, model in (
        ("GET", "/health", routes.health, None),
        ("GET", "/version", routes.version, None),
        ("GET", "/ready", routes.ready, None),
        ("GET", "/metrics", routes.metrics, None),
        ("GET", "/v1/models", routes.models, None),
        ("GET", "/v1/models/{model:path}", routes.model, None),
        ("POST", "/v1/chat/completions", routes.chat, ChatRequest),
        ("POST", "/v1/completions", routes.completions, CompletionRequest),
        ("POST", "/tokenize", routes.tokenize, TokenizeRequest),
        ("POST", "/detokenize", routes.detokenize, DetokenizeRequest),
    ):
        extra = body_of(model) if model is not None else None
        app.add_api_route(
            path, _handler(handler), methods=[method], name=handler.__name__, summary=handler.__doc__,
            response_model=None, openapi_extra=extra, responses=_STATUSES if model is not None else None,
        )  # fmt: skip
    add_schemas(app, [ChatRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest])


_STATUSES: dict[int | str, dict[str, Any]] = {
    status: {"description": text}
    for status, text in {
        400: "The request cannot be used.", 401: "The API key is missing or wrong.", 403: "Asked from elsewhere.",
        404: "No such model.", 413: "The body is too large.", 429: "The queue is full.", 503: "Shutting down.",
    }.items()
}  # fmt: skip


def _handler(handler: Handler) -> Any:
    """``handler`` as FastAPI calls it: the answer is an ASGI application of its own."""
    from starlette.requests import Request

    async def call(request: Request) -> Any:
        return _as_response(await handler(request))

    call.__annotations__ = {"request": Request}
    call.__doc__ = handler.__doc__
    return call


def _as_response(answer: Answer) -> Response:
    from starlette.responses import Response

    class Wrapped(Response):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await answer(scope, receive, send)

    return Wrapped()


def _add_error_handlers(app: FastAPI) -> None:
    from starlette.exceptions import HTTPException

    async def refused(request: Request, error: ApiError) -> Any:
        return _as_response(error.reply())

    async def http(request: Request, error: HTTPException) -> Any:
        texts = {
            404: f"there is no {request.url.path[:200]!r} here",
            405: f"{request.method[:20]} is not allowed for {request.url.path[:200]!r}",
        }
        text = texts.get(error.status_code, str(error.detail))
        return _as_response(ApiError(text, error.status_code, headers=error.headers).reply())

    async def failed(request: Request, error: Exception) -> Any:
        return _as_response(engine_failed().reply())

    app.add_exception_handler(ApiError, refused)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, http)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, failed)


@dataclass
class Routes:
    """What each route does."""

    engine: ServedEngine
    settings: ServerSettings
    measured: Metrics
    created: int = 0

    def __post_init__(self) -> None:
        self.created = int(time.time())

    async def health(self, request: Request) -> Answer:
        """Whether the process works; needs no key."""
        well = self.engine.healthy or self.engine.draining
        return json_reply({"status": "ok" if well else "engine failed"}, 200 if well else 503)

    async def ready(self, request: Request) -> Answer:
        """Whether new requests are taken."""
        ready = self.engine.healthy and not self.engine.draining
        return json_reply({"status": "ready" if ready else "not ready"}, 200 if ready else 503)

    async def version(self, request: Request) -> Answer:
        """Which kaiyuan this is."""
        return json_reply({"version": kaiyuan.__version__})

    async def metrics(self, request: Request) -> Answer:
        """Metrics for Prometheus."""
        body, media_type = self.measured.text()
        return Reply(body, media_type=media_type)

    def _model(self) -> dict[str, Any]:
        return {
            "id": self.settings.model_name, "object": "model", "created": self.created, "owned_by": "kaiyuan",
            "max_model_len": self.engine.engine.context,
        }  # fmt: skip

    async def models(self, request: Request) -> Answer:
        """The one model that is served."""
        return json_reply({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Answer:
        """One model by its name."""
        check_model(self.settings, request.path_params["model"])
        return json_reply(self._model())

    async def chat(self, request: Request) -> Answer:
        """Answer a conversation."""
        body = await read_request(request, ChatRequest, self.settings.limits)
        check_open(self.engine, self.settings, body.model)
        plan = await plan_chat(body, self.engine, self.settings, tenant_of(request.scope))
        return await self._answer(request, body, [plan.job], ChatAnswer(body, plan, self.settings.model_name))

    async def completions(self, request: Request) -> Answer:
        """Continue one or more texts."""
        body = await read_request(request, CompletionRequest, self.settings.limits)
        check_open(self.engine, self.settings, body.model)
        jobs = await plan_completion(body, self.engine, self.settings, tenant_of(request.scope))
        answer = CompletionAnswer(body, jobs, self.engine.engine.tokenizer, self.settings.model_name)
        return await self._answer(request, body, jobs, answer)

    async def _answer(
        self, request: Request, body: SamplingFields, jobs: list[Job], answer: ChatAnswer | CompletionAnswer
    ) -> Answer:
        seconds = self.settings.limits.request_seconds
        if body.stream:
            generation = await Generation.begin(self.engine, jobs, self.measured, seconds)
            return EventStream(answer.chunks(generation), generation.close, seconds + _SEND_SECONDS)

        async def whole() -> Answer:
            generation = await Generation.begin(self.engine, jobs, self.measured, seconds)
            return json_reply(await answer.whole(generation))

        return await unless_gone(request, whole())

    async def tokenize(self, request: Request) -> Answer:
        """Token ids of a text, or of a conversation as the model reads it."""
        body = await read_request(request, TokenizeRequest, self.settings.limits)
        check_model(self.settings, body.model)
        tokenizer = tokenizer_of(self.engine, "prompt")
        if body.prompt is not None:
            ids = await encode(tokenizer, body.prompt)
        else:
            messages = body.messages or []
            check_messages(messages, self.settings.limits)
            turns = conversation(messages)
            ids = await chat_prompt(tokenizer, turns, turns[-1]["role"] == "user")
        names = [token_name(tokenizer, id) for id in ids] if body.return_token_strs else None
        context = self.engine.engine.context
        return json_reply({"count": len(ids), "max_model_len": context, "tokens": ids, "token_strs": names})

    async def detokenize(self, request: Request) -> Answer:
        """The text of token ids, special tokens too."""
        body = await read_request(request, DetokenizeRequest, self.settings.limits)
        check_model(self.settings, body.model)
        tokenizer = tokenizer_of(self.engine, "tokens")
        return json_reply({"prompt": tokenizer.decode(body.tokens, skip_special_tokens=False)})

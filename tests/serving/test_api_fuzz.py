"""Bodies that nobody would send: never a server error, always OpenAI's shape of errors."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import schemathesis
from fake_engine import FakeEngine
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from live_server import settings as server_settings

from kaiyuan.serving.app import create_app
from kaiyuan.serving.protocol import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from kaiyuan.tokenizer import Tokenizer

FIELDS = {
    "/v1/chat/completions": (ChatRequest, {"messages": [{"role": "user", "content": "Hi"}]}),
    "/v1/completions": (CompletionRequest, {"prompt": "Hi"}),
    "/tokenize": (TokenizeRequest, {"prompt": "Hi"}),
    "/detokenize": (DetokenizeRequest, {"tokens": [1, 2]}),
}
HOST = {"host": "localhost"}
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from([2**63, -(2**64), 0, 1, 5]), st.floats(allow_nan=False),
    st.text(max_size=8), st.sampled_from(["text", "user", "tool", "function", "json_schema", "auto", "\x00", "🇨🇳"]),
)  # fmt: skip
KEYS = st.sampled_from([
    "role", "content", "type", "text", "function", "name", "arguments", "parameters", "schema", "json_schema", "regex",
    "tool_calls", "include_usage", "1", "999", "$ref", "\ud800",
])  # fmt: skip
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=8
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, bytes]:
    path = draw(st.sampled_from(list(FIELDS)))
    model, valid = FIELDS[path]
    names = st.sampled_from([*model.model_fields, *model.unsupported])
    body = {**valid, **draw(st.dictionaries(names, VALUES, max_size=4))}
    body.setdefault("max_tokens", 2)
    return path, json.dumps(body).encode()


def post(engine: FakeEngine, path: str, body: bytes) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(engine, server_settings()))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post(path, content=body, headers={"content-type": "application/json"})

    engine.start()
    return asyncio.run(ask())


@given(requests())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_strange_requests_are_no_server_errors(tokenizer: Tokenizer, request_: tuple[str, bytes]) -> None:
    reply = post(FakeEngine(tokenizer, "Hi <tool_call>"), *request_)
    assert reply.status_code in (200, 400, 404), (request_, reply.text)
    if reply.status_code != 200:
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


@given(st.sampled_from(list(FIELDS)), st.binary(max_size=60) | st.text('{}[]"\\,:u0d8ntrue123.e-', max_size=40))
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes_are_no_server_error(tokenizer: Tokenizer, path: str, body: Any) -> None:
    reply = post(FakeEngine(tokenizer), path, body if isinstance(body, bytes) else body.encode())
    assert reply.status_code == 400
    assert reply.json()["error"]["type"] == "invalid_request_error"


def test_what_openapi_promises_is_no_server_error(tokenizer: Tokenizer) -> None:
    engine = FakeEngine(tokenizer)
    engine.start()
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(engine, server_settings()), headers=HOST)
    seen = []

    for operation in schema.get_all_operations():
        cases = operation.ok().as_strategy()

        @given(cases)
        @settings(
            max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate],
            database=None, derandomize=True,
        )  # fmt: skip
        def check(case: Any) -> None:
            if isinstance(case.body, dict):
                case.body.pop("model", None)
            reply = case.call(headers=HOST)
            seen.append((case.method, case.path, reply.status_code))
            assert reply.status_code < 500, reply.text

        check()
    assert {path for _, path, _ in seen} >= {"/v1/completions", "/v1/chat/completions", "/tokenize", "/v1/models"}
    assert ("POST", "/v1/completions", 200) in seen

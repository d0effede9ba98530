"""What is refused, with which status and which field named; nothing of it reaches the engine."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import httpx
import pytest
from fake_engine import FakeEngine
from live_server import client_of

import kaiyuan
from kaiyuan.serving.body import nesting
from kaiyuan.serving.errors import to_json
from kaiyuan.serving.settings import Limits
from kaiyuan.tokenizer import Tokenizer

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
ASK = [{"role": "user", "content": "Hi"}]
DEEP: Any = json.loads('{"a":' * 40 + "1" + "}" * 40)


def error_of(reply: httpx.Response) -> dict[str, Any]:
    """The error, whose shape is checked."""
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return dict(error)


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"n": 17}, "n"),
        (CHAT, {"n": 0}, "n"),
        (CHAT, {"stop": ["a"] * 17}, "stop"),
        (CHAT, {"stop": "a" * 257}, "stop"),
        (CHAT, {"stop": [""]}, "stop"),
        (CHAT, {"max_tokens": 40_000}, "max_tokens"),
        (CHAT, {"max_completion_tokens": 0}, "max_tokens"),
        (CHAT, {"max_tokens": 2.5}, "max_tokens"),
        (CHAT, {"max_tokens": True}, "max_tokens"),
        (CHAT, {"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
        (CHAT, {"temperature": "hot"}, "temperature"),
        (CHAT, {"temperature": 1e-9}, "temperature"),
        (CHAT, {"seed": 2**63}, "seed"),
        (CHAT, {"top_p": 0}, "top_p"),
        (CHAT, {"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
        (CHAT, {"logit_bias": {"1000": 1}}, "logit_bias"),
        (CHAT, {"logit_bias": {"x": 1}}, "logit_bias"),
        (CHAT, {"logit_bias": {"1": 101}}, "logit_bias.1"),
        (CHAT, {"stop_token_ids": [1000]}, "stop_token_ids"),
        (CHAT, {"top_logprobs": 2}, "top_logprobs"),
        (CHAT, {"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        (CHAT, {"stream_options": {"include_usage": True}}, "stream_options"),
        (CHAT, {"messages": []}, "messages"),
        (CHAT, {"messages": ASK * 1025}, "messages"),
        (CHAT, {"messages": [*ASK, {"role": "assistant", "content": "x"}]}, "messages"),
        (CHAT, {"messages": [{"role": "user", "content": "x " * 1200}]}, "messages"),
        (CHAT, {"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        (CHAT, {"messages": [{"role": "user"}]}, "messages[0]"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]},
         "messages[0].content"),
        (CHAT, {"audio": {"voice": "x"}}, "audio"),
        (CHAT, {"guided_json": {}, "guided_regex": "x"}, "guided_regex"),
        (CHAT, {"cache_salt": "x" * 257}, "cache_salt"),
        (CHAT, {"response_format": {"type": "json_schema"}}, "response_format"),
        (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"schema": DEEP}}}, "response_format"),
        (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"schema": {"x": "y" * 70_000}}}},
         "response_format"),
        (CHAT, {"structured_outputs": {"regex": "a" * 1025}}, "structured_outputs"),
        (CHAT, {"tools": [{"type": "function", "function": {"name": f"f{i}"}} for i in range(129)]}, "tools"),
        (TEXT, {"prompt": ""}, "prompt"),
        (TEXT, {"prompt": []}, "prompt"),
        (TEXT, {"prompt": [1, "a"]}, "prompt"),
        (TEXT, {"prompt": [-1]}, "prompt"),
        (TEXT, {"prompt": [1000]}, "prompt"),
        (TEXT, {"prompt": [1] * 1024}, "prompt"),
        (TEXT, {"prompt": ["a"] * 129}, "prompt"),
        (TEXT, {"prompt": None}, "prompt"),
        (TEXT, {"logprobs": 6}, "logprobs"),
        (TEXT, {"suffix": "x"}, "suffix"),
        (TEXT, {"best_of": 3}, "best_of"),
        (CHAT, {"include_stop_str_in_output": True}, "include_stop_str_in_output"),
        (TEXT, {"allowed_token_ids": [1]}, "allowed_token_ids"),
        ("/tokenize", {"messages": None}, None),
        ("/tokenize", {"prompt": "Hi"}, None),
        ("/tokenize", {"messages": ASK * 1025}, "messages"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": "1"}, "tokens"),
    ],
)  # fmt: skip
def test_refused(http: httpx.Client, engine: FakeEngine, path: str, fields: dict[str, Any], param: str) -> None:
    valid = {TEXT: {"prompt": "Hi"}, "/detokenize": {}}.get(path, {"messages": ASK})
    reply = http.post(path, json={**valid, **fields})
    assert reply.status_code == 400, reply.text
    error = error_of(reply)
    assert (error["type"], error["param"]) == ("invalid_request_error", param), error["message"]
    assert engine.requests == []


def test_answers_stop_at_the_end_of_the_context(http: httpx.Client, engine: FakeEngine) -> None:
    reply = http.post(TEXT, json={"prompt": [1] * 1018, "max_tokens": 100})
    assert reply.status_code == 200
    assert engine.requests[0][1].max_tokens == 6


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"prompt": "a", "temperature": NaN}', "NaN"),
        (b'{"prompt": "a", "temperature": -Infinity}', "Infinity"),
        (b'{"prompt": "a", "temperature": 1e999}', "too large"),
        (b'{"prompt": "\\ud800"}', "surrogate"),
        (b"[" * 100_000, "nested"),
        (b'{"a":' * 100_000, "nested"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"[]", ""),
        (b"null", ""),
        (b'"text"', ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", [CHAT, TEXT, "/tokenize"])
def test_bodies_that_are_no_request(http: httpx.Client, path: str, body: bytes, message: str) -> None:
    reply = http.post(path, content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 400
    assert message in error_of(reply)["message"]


def test_depth_is_counted_in_linear_time() -> None:
    assert nesting('{"a": ["]]]", {"\\"": []}]}') == 4
    start = time.perf_counter()
    assert nesting('"' + '\\"' * 1_000_000) == 0
    assert nesting('"a",' * 500_000) == 0
    assert time.perf_counter() - start < 2


def test_only_json_is_read(http: httpx.Client) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonx", ""):
        reply = http.post(TEXT, content=b'{"prompt": "a"}', headers={"content-type": kind})
        assert reply.status_code == 400
        assert "application/json" in error_of(reply)["message"]
    good = http.post(TEXT, content=b'{"prompt": "a"}', headers={"content-type": "application/json; charset=utf-8"})
    assert good.status_code == 200


def test_unknown_routes_and_methods(http: httpx.Client) -> None:
    assert "/v1/nothing" in error_of(http.get("/v1/nothing"))["message"]
    assert http.get("/v1/nothing").status_code == 404
    wrong = http.get(CHAT)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    error_of(wrong)
    assert http.request("OPTIONS", CHAT).status_code == 405
    assert http.get("/v1/models/nope").status_code == 404
    assert http.get("/v1/models/tiny").json()["id"] == "tiny"
    assert http.get("/v1/models").json()["data"][0]["max_model_len"] == 1024
    assert http.get("/docs").status_code == 404
    assert http.get("/version").json() == {"version": kaiyuan.__version__}


def test_large_bodies_are_refused_before_they_are_read(tokenizer: Tokenizer) -> None:
    with client_of(FakeEngine(tokenizer), limits=Limits(body_bytes=2000)) as http:
        for content in (b" " * 3000, iter([b" " * 1500] * 2)):
            reply = http.post(TEXT, content=content, headers={"content-type": "application/json"})
            assert reply.status_code == 413
            error_of(reply)


def test_a_full_queue_says_when_to_come_back(http: httpx.Client, engine: FakeEngine) -> None:
    engine.full = True
    for body in ({"messages": ASK}, {"messages": ASK, "stream": True}):
        reply = http.post(CHAT, json=body)
        assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")
        assert error_of(reply)["type"] == "rate_limit_error"


def test_a_long_queue_is_seen_before_the_prompt_is_read(tokenizer: Tokenizer) -> None:
    for waiting, status in ((0, 200), (1, 429)):
        engine = FakeEngine(tokenizer)
        engine.counts = dataclasses.replace(engine.counts, waiting=waiting)
        with client_of(engine, limits=Limits(max_waiting=0)) as http:
            assert http.post(TEXT, json={"prompt": "a"}).status_code == status


def test_a_request_has_a_deadline(tokenizer: Tokenizer) -> None:
    engine = FakeEngine(tokenizer, delay=0.05)
    with client_of(engine, limits=Limits(request_seconds=0.2)) as http:
        reply = http.post(TEXT, json={"prompt": "a"})
        assert (reply.status_code, error_of(reply)["code"]) == (504, "timeout")
        streamed = http.post(TEXT, json={"prompt": "a", "stream": True})
        assert '"code":"timeout"' in streamed.text
        assert streamed.text.endswith("data: [DONE]\n\n")
        assert engine.aborted == 2


def test_defaults_come_from_the_settings(tokenizer: Tokenizer) -> None:
    engine = FakeEngine(tokenizer)
    with client_of(engine, defaults={"temperature": 0.25, "top_k": 5, "max_tokens": 99}) as http:
        http.post(TEXT, json={"prompt": "a", "top_k": -1})
        http.post(CHAT, json={"messages": ASK})
        http.post(CHAT, json={"messages": ASK, "max_tokens": 200})
    assert (engine.requests[0][1].temperature, engine.requests[0][1].top_k) == (0.25, 0)
    assert [params.max_tokens for _, params, _ in engine.requests] == [16, 99, 200]


def test_tokenize_counts_what_the_model_reads(http: httpx.Client, tokenizer: Tokenizer) -> None:
    """In vLLM's shapes."""
    ids = tokenizer.encode("Hi 你好")
    text = http.post("/tokenize", json={"model": "tiny", "prompt": "Hi 你好", "return_token_strs": True}).json()
    assert (text["tokens"], text["count"], text["max_model_len"]) == (ids, len(ids), 1024)
    assert len(text["token_strs"]) == len(ids)
    assert http.post("/detokenize", json={"tokens": ids}).json() == {"prompt": "Hi 你好"}
    chat = http.post("/tokenize", json={"messages": [*ASK, {"role": "assistant", "content": "Ho"}]}).json()
    assert (chat["tokens"][0], chat["tokens"][-1]) == (tokenizer.bos_id, tokenizer.eos_id)
    assert chat["token_strs"] is None
    assert http.post("/detokenize", json={"tokens": chat["tokens"]}).json()["prompt"].endswith("Ho<|eos|>")
    for path in ("/tokenize", "/detokenize"):
        assert http.post(path, json={"model": "other", "prompt": "Hi", "tokens": []}).status_code == 404


def test_large_bodies_are_read_as_small_ones_are(http: httpx.Client, engine: FakeEngine) -> None:
    """Those that a thread parses."""
    filling = "x" * 70_000
    assert http.post(TEXT, json={"prompt": "Hi", "user": filling}).status_code == 200
    reply = http.post(TEXT, json={"prompt": "Hi", "user": filling, "n": 0})
    assert (reply.status_code, error_of(reply)["param"]) == (400, "n")


def test_a_full_queue_still_tells_which_model_it_is(http: httpx.Client, engine: FakeEngine) -> None:
    engine.counts, before = dataclasses.replace(engine.counts, waiting=9999), engine.counts
    try:
        assert http.post(TEXT, json={"prompt": "a"}).status_code == 429
        assert http.get("/v1/models/tiny").status_code == 200
    finally:
        engine.counts = before


def test_replies_are_always_json() -> None:
    assert to_json({"a": "half \ud800"}) == b'{"a":"half ?"}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(float("nan"))

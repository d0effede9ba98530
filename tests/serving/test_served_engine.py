"""The real engine behind the server: the same answers and scores as the engine and the model give alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import torch
from live_server import client_of, eventually
from openai import OpenAI
from tiny_folder import tiny_model

from kaiyuan.inference import Engine, SamplingParams
from kaiyuan.inference.async_engine import AsyncEngine
from kaiyuan.model.transformer import Transformer
from kaiyuan.tokenizer import Tokenizer, render_chat

ASK: list[Any] = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Transformer:
    return tiny_model(tokenizer)


@pytest.fixture(scope="module")
def served(model: Transformer, tokenizer: Tokenizer) -> AsyncEngine:
    return AsyncEngine(Engine(model, tokenizer))


@pytest.fixture(scope="module")
def real(served: AsyncEngine) -> Iterator[httpx.Client]:
    with client_of(served) as client:
        yield client


def test_answers_are_the_engines(real: httpx.Client, model: Transformer, tokenizer: Tokenizer) -> None:
    body = {"messages": ASK, "temperature": 0, "max_tokens": 12, "n": 2}
    reply = real.post("/v1/chat/completions", json=body).json()
    params = SamplingParams(temperature=0, max_tokens=12)
    alone = Engine(model, tokenizer).generate([render_chat(tokenizer, ASK)], params)[0]
    assert [choice["message"]["content"] for choice in reply["choices"]] == [alone.text] * 2
    streamed = real.post("/v1/chat/completions", json={**body, "n": 1, "stream": True}).text
    chunks = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == alone.text


@pytest.fixture(scope="module")
def client(real: httpx.Client) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{str(real.base_url).rstrip('/')}/v1", api_key="none", max_retries=0) as client:
        yield client


def streamed(client: OpenAI, **asked: Any) -> tuple[list[str], str | None, Any]:
    """The pieces of a chat's answer, why it ended, and its usage."""
    options: Any = {"include_usage": True}
    *chunks, last = client.chat.completions.create(
        model="tiny", messages=ASK, stream=True, stream_options=options, **asked
    )  # type: ignore[call-overload]
    return [chunk.choices[0].delta.content or "" for chunk in chunks], chunks[-1].choices[0].finish_reason, last.usage


def test_streams_never_cut_a_character(client: OpenAI) -> None:
    """An untrained model says bytes that are whole characters only together with others, or not at all."""
    for seed in range(6):
        how: Any = {"seed": seed, "temperature": 1.5, "max_completion_tokens": 60}
        pieces, reason, usage = streamed(client, **how)
        whole = client.chat.completions.create(model="tiny", messages=ASK, **how)
        assert "".join(pieces) == whole.choices[0].message.content
        assert (reason, usage) == (whole.choices[0].finish_reason, whole.usage)
        assert whole.usage is not None and whole.usage.completion_tokens <= 60


def test_no_part_of_a_stop_text_is_seen(client: OpenAI) -> None:
    """Wherever in the answer it lies, over however many tokens."""
    pieces, _, _ = streamed(client, temperature=0, max_tokens=40)
    text = "".join(pieces)
    for start in range(1, len(text) - 6, 5):
        stop = text[start : start + 6]
        found, reason, _ = streamed(client, temperature=0, max_tokens=40, stop=["never said", stop])
        assert "".join(found) == text[: text.index(stop)]
        assert reason == "stop"


def test_json_objects_and_logprobs(client: OpenAI) -> None:
    pytest.importorskip("llguidance")
    wanted: Any = {"type": "json_object"}
    reply = client.chat.completions.create(
        model="tiny", messages=ASK, response_format=wanted, max_tokens=400, temperature=0.2, seed=1, logprobs=True,
        top_logprobs=2,
    )  # fmt: skip
    (choice,) = reply.choices
    assert choice.message.content is not None
    assert choice.message.content.startswith("{")
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)
    assert choice.logprobs is not None and choice.logprobs.content is not None
    said = b"".join(bytes(entry.bytes or ()) for entry in choice.logprobs.content)
    assert said.decode("utf-8", "replace") == choice.message.content


def test_prompt_scores_are_the_models(real: httpx.Client, model: Transformer, tokenizer: Tokenizer) -> None:
    prompts = [tokenizer.encode("The quick brown fox"), tokenizer.encode("你好，世界。 " * 9)]
    body = {"prompt": prompts, "echo": True, "max_tokens": 1, "logprobs": 1, "temperature": 0}
    choices = real.post("/v1/completions", json=body).json()["choices"]
    for ids, choice in zip(prompts, choices, strict=True):
        with torch.no_grad():
            scores = model(torch.tensor([ids]))[0].log_softmax(-1)
        expected = scores[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()
        logprobs = choice["logprobs"]
        assert len(logprobs["token_logprobs"]) == len(ids) + 1
        assert logprobs["token_logprobs"][1:-1] == pytest.approx(expected, abs=1e-4)
        best = [max(tops.values()) for tops in logprobs["top_logprobs"][1:-1]]
        assert best == pytest.approx(scores[:-1].max(-1).values.tolist(), abs=1e-4)


def test_grammars_hold(real: httpx.Client, tokenizer: Tokenizer) -> None:
    pytest.importorskip("llguidance")
    # JSON may have white space without end, and an untrained model likes it.
    spaces = {str(id): -100 for id in range(tokenizer.vocab_size) if set(" \t\r\n") & set(tokenizer.decode([id]))}
    dense = {"messages": ASK, "max_tokens": 90, "logit_bias": spaces}
    colour = {"enum": ["red", "green"]}
    schema = {"type": "object", "properties": {"c": {"$ref": "#/$defs/colour"}}, "required": ["c"],
              "additionalProperties": False, "$defs": {"colour": colour}}  # fmt: skip
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    reply = real.post("/v1/chat/completions", json={**dense, "response_format": wanted})
    assert json.loads(reply.json()["choices"][0]["message"]["content"])["c"] in ("red", "green")
    tools = [{"type": "function", "function": {"name": name, "parameters": schema}} for name in ("paint", "wash")]
    body = {**dense, "tools": tools, "tool_choice": "required"}
    (choice,) = real.post("/v1/chat/completions", json=body).json()["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] in ("paint", "wash")
    assert json.loads(call["function"]["arguments"])["c"] in ("red", "green")
    assert choice["finish_reason"] == "tool_calls"
    regex = {"messages": ASK, "structured_outputs": {"regex": "(yes|no)!"}}
    assert real.post("/v1/chat/completions", json=regex).json()["choices"][0]["message"]["content"] in ("yes!", "no!")


@pytest.mark.parametrize(
    "fields",
    [
        {"structured_outputs": {"regex": "(["}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "http://a.example/b"}}}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": False}}},
    ],
)
def test_grammars_that_cannot_be_used_are_the_clients_fault(real: httpx.Client, fields: dict[str, object]) -> None:
    pytest.importorskip("llguidance")
    reply = real.post("/v1/chat/completions", json={"messages": ASK, **fields})
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["type"] == "invalid_request_error"


def test_a_disconnect_frees_the_engine(real: httpx.Client, served: AsyncEngine) -> None:
    body = {"prompt": "a", "max_tokens": 500, "stream": True, "ignore_eos": True, "n": 4}
    with real.stream("POST", "/v1/completions", json=body) as reply:
        next(reply.iter_lines())
        assert served.stats().running > 0
    assert eventually(lambda: served.stats().running == served.stats().waiting == 0)
    assert served.stats().requests_finished["abort"] >= 1

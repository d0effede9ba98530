"""Completions of prompts, as OpenAI's client and lm-eval ask for them."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from fake_engine import FakeEngine, logprob_of
from live_server import client_of
from openai import OpenAI
from openai.types import Completion

from kaiyuan.tokenizer import Tokenizer


def test_every_form_of_prompt(openai: OpenAI, engine: FakeEngine, tokenizer: Tokenizer) -> None:
    one, two = tokenizer.encode("One"), tokenizer.encode("Two more")
    forms: list[tuple[Any, list[list[int]]]] = [
        ("One", [one]), (["One", "Two more"], [one, two]), (one, [one]), ([one, two], [one, two]),
    ]  # fmt: skip
    for prompt, expected in forms:
        engine.requests.clear()
        reply = openai.completions.create(model="tiny", prompt=prompt, n=2)
        Completion.model_validate(reply.model_dump(), strict=True)
        assert [ids for ids, _, _ in engine.requests] == expected
        assert [choice.index for choice in reply.choices] == list(range(2 * len(expected)))
        assert reply.usage is not None
        assert reply.usage.prompt_tokens == sum(map(len, expected))
        assert engine.requests[0][1].max_tokens == 16


def test_choices_belong_to_their_prompts(openai: OpenAI, engine: FakeEngine, tokenizer: Tokenizer) -> None:
    engine.answer = lambda prompt, params, index: f"{tokenizer.decode(prompt)}/{index}"
    whole = openai.completions.create(model="tiny", prompt=["cat", "dog"], n=2)
    expected = ["cat/0", "cat/1", "dog/0", "dog/1"]
    assert [choice.text for choice in whole.choices] == expected
    texts = [""] * 4
    for chunk in openai.completions.create(model="tiny", prompt=["cat", "dog"], n=2, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == expected


def test_no_client_takes_text_for_the_end_of_a_line(http: httpx.Client, engine: FakeEngine) -> None:
    """httpx ends lines where ``str.splitlines`` does."""
    engine.answer = "a\u2028b\x85c\u2029d\x0be\x1cf"
    text = ""
    with http.stream("POST", "/v1/completions", json={"prompt": "x", "stream": True, "max_tokens": 99}) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                text += json.loads(line[6:])["choices"][0]["text"]
    assert text == engine.answer


def test_echo_with_logprobs_scores_the_prompt(http: httpx.Client, engine: FakeEngine, tokenizer: Tokenizer) -> None:
    """What lm-eval's local-completions asks for, and reads: ``token_logprobs[context:-1]``."""
    prompt = tokenizer.encode("The quick brown fox 你好")
    body = {"prompt": [prompt], "echo": True, "max_tokens": 1, "logprobs": 1, "temperature": 0, "seed": 1}
    engine.answer = "!"
    choice = http.post("/v1/completions", json=body).json()["choices"][0]
    logprobs = choice["logprobs"]
    assert engine.requests[0][1].min_tokens == 1, "an answer that ends at once would shift what lm-eval cuts off"
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["top_logprobs"][0] is None
    assert logprobs["token_logprobs"][1:-1] == pytest.approx([logprob_of(id) for id in prompt[1:]])
    assert len(logprobs["token_logprobs"]) == len(prompt) + 1
    for score, tops in zip(logprobs["token_logprobs"][1:], logprobs["top_logprobs"][1:], strict=True):
        assert max(tops.values()) == score
    assert choice["text"] == "The quick brown fox 你好!"


def test_no_new_tokens_is_the_prompt_alone(openai: OpenAI, engine: FakeEngine, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("To be or not")
    asked: Any = {"model": "tiny", "prompt": "To be or not", "echo": True, "max_tokens": 0, "logprobs": 0}
    whole = openai.completions.create(**asked)
    (choice,) = whole.choices
    assert (choice.text, choice.finish_reason) == ("To be or not", "length")
    assert choice.logprobs is not None
    assert choice.logprobs.token_logprobs == [None, *map(logprob_of, ids[1:])]
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 0
    assert engine.requests[0][1].max_tokens == 1
    (chunk,) = openai.completions.create(**asked, stream=True)
    assert chunk.choices[0].model_dump() == choice.model_dump()


def test_text_offsets_point_into_the_text(http: httpx.Client, engine: FakeEngine) -> None:
    engine.answer = "naïve 𠮷 end"
    body = {"prompt": "你好 there", "echo": True, "max_tokens": 40, "logprobs": 2}
    choice = http.post("/v1/completions", json=body).json()["choices"][0]
    shape = choice["logprobs"]
    assert len({len(values) for values in shape.values()}) == 1
    for token, offset in zip(shape["tokens"], shape["text_offset"], strict=True):
        if not token.startswith("bytes:"):
            assert choice["text"][offset : offset + len(token)] == token
    streamed = http.post("/v1/completions", json={**body, "stream": True}).text
    assert streamed.count('"text_offset":[') >= 3


def test_streams_report_usage(openai: OpenAI, engine: FakeEngine) -> None:
    engine.cached = 1
    options: Any = {"include_usage": True}
    *chunks, last = openai.completions.create(model="tiny", prompt=["a b", "c d"], stream=True, stream_options=options)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens > 0
    assert last.usage.prompt_tokens_details is not None
    assert last.usage.prompt_tokens_details.cached_tokens == 2
    assert [chunk.choices[0].finish_reason for chunk in chunks].count("stop") == 2


def test_usage_so_far_in_every_chunk(openai: OpenAI) -> None:
    """vLLM's ``continuous_usage_stats``, which load generators ask for."""
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    ask: list[Any] = [{"role": "user", "content": "Hi"}]
    for chunks in (
        list(openai.completions.create(model="tiny", prompt="a b", stream=True, stream_options=options)),
        list(openai.chat.completions.create(model="tiny", messages=ask, stream=True, stream_options=options)),
    ):
        counts = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage]
        assert len(counts) == len(chunks)
        assert counts == sorted(counts)
        assert counts[-1] > counts[0]


def test_a_model_without_a_tokenizer_takes_ids() -> None:
    with client_of(FakeEngine(None)) as http:
        good = http.post("/v1/completions", json={"prompt": [1, 2], "logprobs": 1})
        assert good.json()["choices"][0]["logprobs"]["tokens"] == ["token_id:5", "token_id:6", "token_id:7"]
        for body in ({"prompt": "text"}, {"prompt": [1], "stop": "x"}):
            bad = http.post("/v1/completions", json=body)
            assert bad.status_code == 400
            assert "no tokenizer" in bad.json()["error"]["message"]
        assert http.post("/tokenize", json={"prompt": "a"}).status_code == 400

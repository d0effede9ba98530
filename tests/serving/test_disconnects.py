"""Clients that go away: the engine stops working for them."""

from __future__ import annotations

import httpx
import pytest
from fake_engine import FakeEngine
from live_server import client_of, eventually
from openai import OpenAI

from kaiyuan.tokenizer import Tokenizer

LONG = "word " * 300


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["a", ["a", "b", "c"]])
def test_a_client_that_gives_up_aborts_its_requests(
    tokenizer: Tokenizer, stream: bool, prompt: str | list[str]
) -> None:
    engine = FakeEngine(tokenizer, LONG, delay=0.02)
    with client_of(engine) as http:
        body = {"prompt": prompt, "max_tokens": 300, "stream": stream}
        if stream:
            with http.stream("POST", "/v1/completions", json=body) as reply:
                next(reply.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                http.post("/v1/completions", json=body, timeout=0.2)
        assert len(engine.requests) == len(prompt)
        assert eventually(lambda: engine.aborted == len(prompt))
        assert not engine.open


def test_a_closed_stream_of_the_client_aborts(tokenizer: Tokenizer) -> None:
    engine = FakeEngine(tokenizer, LONG, delay=0.02)
    with client_of(engine) as http:
        client = OpenAI(base_url=f"{str(http.base_url).rstrip('/')}/v1", api_key="none")
        messages = [{"role": "user", "content": "Hi"}]
        stream = client.chat.completions.create(model="tiny", messages=messages, stream=True, n=3)  # type: ignore
        next(iter(stream))
        stream.close()
        assert eventually(lambda: engine.aborted == 1)


def test_finished_requests_are_not_aborted(http: httpx.Client, engine: FakeEngine) -> None:
    for stream in (False, True):
        assert http.post("/v1/completions", json={"prompt": ["a", "b"], "stream": stream}).status_code == 200
    assert eventually(lambda: not engine.open)
    assert engine.aborted == 0


def test_one_refused_prompt_aborts_the_others(http: httpx.Client, engine: FakeEngine) -> None:
    submit = engine.submit

    async def choosy(ids: list[int], *rest: object, **more: object) -> object:
        engine.full = len(engine.requests) == 2
        return await submit(ids, *rest, **more)  # type: ignore[arg-type]

    engine.submit = choosy  # type: ignore[method-assign, assignment]
    try:
        assert http.post("/v1/completions", json={"prompt": ["a", "b", "c"]}).status_code == 429
    finally:
        del engine.submit  # type: ignore[attr-defined]
    assert engine.aborted == 2

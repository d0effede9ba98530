"""A tokenizer, and a server that says hello."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from fake_engine import FakeEngine
from live_server import serving
from openai import OpenAI
from tokenizer_texts import training_texts

from kaiyuan.tokenizer import Tokenizer, train_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(training_texts(20), 900)


@pytest.fixture(scope="module")
def shared(tokenizer: Tokenizer) -> Iterator[tuple[FakeEngine, str]]:
    engine = FakeEngine(tokenizer)
    with serving(engine) as address:
        yield engine, address


@pytest.fixture
def engine(shared: tuple[FakeEngine, str]) -> FakeEngine:
    """The engine of the module's server, as it was at first."""
    engine, _ = shared
    engine.answer, engine.delay, engine.cached = "Hello, world!", 0, 0
    engine.full, engine.fail_after, engine.aborted = False, None, 0
    engine.requests.clear()
    return engine


@pytest.fixture
def http(shared: tuple[FakeEngine, str], engine: FakeEngine) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shared[1], timeout=20) as client:
        yield client


@pytest.fixture
def openai(shared: tuple[FakeEngine, str], engine: FakeEngine) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{shared[1]}/v1", api_key="none", max_retries=0) as client:
        yield client

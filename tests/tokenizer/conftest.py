"""A small tokenizer trained on real text."""

from __future__ import annotations

import pytest
from tokenizer_texts import training_texts

from kaiyuan.tokenizer import Tokenizer, train_tokenizer


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    return training_texts()


@pytest.fixture(scope="session")
def tokenizer(corpus: list[str]) -> Tokenizer:
    return train_tokenizer(corpus, 1000)

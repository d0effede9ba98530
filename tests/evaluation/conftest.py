from __future__ import annotations

import pytest
from held_out_texts import CHINESE, ENGLISH

from kaiyuan.model.config import ModelConfig
from kaiyuan.model.transformer import Transformer
from kaiyuan.tokenizer import Tokenizer, train_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer([ENGLISH, CHINESE] * 4, 360)


@pytest.fixture(scope="session")
def model(tokenizer: Tokenizer) -> Transformer:
    """Random weights, large enough that what comes out depends strongly on what goes in."""
    config = ModelConfig.preset("1m", vocab_size=384, hidden_size=32, num_layers=2, head_dim=8, intermediate_size=32,
                                max_position_embeddings=256, init_std=0.3)  # fmt: skip
    made = Transformer(config)
    made.init_weights(5)
    return made.eval()


@pytest.fixture(scope="session")
def filler() -> dict[str, list[str]]:
    """Different paragraphs without digits, so that no number but a planted one is there."""
    return {
        "en": [f"{sentence.strip()}. And so the day went by." for sentence in ENGLISH.split(".") if sentence],
        "zh": [f"{sentence.strip()}。这一天就这样过去了。" for sentence in CHINESE.split("。") if sentence],
    }

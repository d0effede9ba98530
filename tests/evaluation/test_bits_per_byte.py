from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from held_out_texts import CHINESE, ENGLISH
from hypothesis import given
from hypothesis import strategies as st

from kaiyuan.errors import DataError
from kaiyuan.evaluation import bits_per_byte as module
from kaiyuan.evaluation.bits_per_byte import bits_per_byte, windows
from kaiyuan.model.transformer import Transformer
from kaiyuan.tokenizer import Tokenizer

DOCUMENTS: list[dict[str, Any]] = [
    {"text": ENGLISH, "language": "en"},
    {"text": CHINESE, "language": "zh"},
    {"text": "", "language": "fr"},
    {"text": "Noon.", "language": "en"},
    {"text": ENGLISH[40:90], "language": "en"},
]


@given(st.integers(0, 60), st.integers(1, 20), st.data())
def test_every_token_is_scored_once_with_enough_before_it(count: int, context: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, context))
    tokens = list(range(100, 101 + count))
    scored: list[int] = []
    for number, window in enumerate(windows("en", tokens, context, stride)):
        assert 1 <= window.inputs <= context
        first = tokens.index(window.tokens[0])
        assert window.tokens == tokens[first : first + len(window.tokens)]
        scored += window.tokens[-window.scored :]
        assert number == 0 or window.inputs - window.scored >= context - stride
        assert window.scored <= (context if number == 0 else stride)
    assert scored == tokens[1:]


@torch.no_grad()
def brute_force(model: Transformer, ids: list[int], context: int, stride: int) -> float:
    """Nats of ``ids[1:]``, one forward pass over unpadded tokens for each of them."""
    total, last = 0.0, len(ids) - 1
    for target in range(1, last + 1):
        end = context
        while end < target:
            end += stride
        end = min(end, last)
        start = max(0, end - context)
        seen = torch.tensor([ids[start:target]])
        total -= float(model(seen)[0, -1].double().log_softmax(-1)[ids[target]])
    return total


@pytest.mark.parametrize(("context", "stride"), [(16, None), (24, 5), (200, None)])
def test_agrees_with_brute_force(
    model: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, context: int, stride: int | None
) -> None:
    monkeypatch.setattr(module, "_BATCH_TOKENS", 100)
    found = bits_per_byte(model, tokenizer, DOCUMENTS, context, stride)
    assert set(found) == {"en", "zh"}
    for language, row in found.items():
        texts = [document["text"] for document in DOCUMENTS if document["language"] == language]
        encoded = [tokenizer.encode(text) for text in texts]
        nats = sum(
            brute_force(model, [tokenizer.document_end_id, *ids], context, stride or context // 2) for ids in encoded
        )
        size = sum(len(text.encode("utf-8")) for text in texts)
        assert row["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)
        assert (row["bytes"], row["tokens"], row["documents"]) == (size, sum(map(len, encoded)), len(texts))


def test_a_model_that_knows_nothing_needs_log2_of_the_vocabulary_for_a_token(
    model: Transformer, tokenizer: Tokenizer
) -> None:
    ignorant = Transformer(model.config)
    with torch.no_grad():
        for parameter in ignorant.parameters():
            parameter.zero_()
    row = bits_per_byte(ignorant, tokenizer, DOCUMENTS[:1], 32)["en"]
    assert row["bits_per_byte"] == pytest.approx(row["tokens"] * math.log2(model.config.vocab_size) / row["bytes"])


def test_the_window_decides_how_much_the_model_sees(model: Transformer, tokenizer: Tokenizer) -> None:
    rates = [bits_per_byte(model, tokenizer, DOCUMENTS[:1], context)["en"]["bits_per_byte"] for context in (8, 64)]
    assert rates[0] != pytest.approx(rates[1], rel=1e-4)


@pytest.mark.parametrize("stride", [0, 17])
def test_a_stride_that_leaves_gaps_is_refused(model: Transformer, tokenizer: Tokenizer, stride: int) -> None:
    with pytest.raises(DataError, match="stride"):
        bits_per_byte(model, tokenizer, DOCUMENTS, 16, stride)

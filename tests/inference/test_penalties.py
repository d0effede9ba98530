"""Penalties and restrictions against transformers' logits processors, and what ends an answer."""

from __future__ import annotations

import pytest
import torch
from tiny_models import TINY, build
from transformers.generation import MinPLogitsWarper, RepetitionPenaltyLogitsProcessor

from kaiyuan.errors import ConfigError
from kaiyuan.inference import Engine, SamplingParams
from kaiyuan.inference.sampling import adjust, restricted_probs
from kaiyuan.inference.sequence import Sequence

LOGITS = torch.randn(48, generator=torch.Generator().manual_seed(5)) * 3


def sequence(prompt: list[int], answer: list[int], **settings: object) -> Sequence:
    params = SamplingParams(**settings)  # type: ignore[arg-type]
    return Sequence(0, 0, len(prompt), prompt + answer, params, frozenset({7}), 99, torch.Generator())


def test_repetition_penalty_equals_that_of_transformers() -> None:
    made = sequence([1, 2, 3], [3, 4], repetition_penalty=1.7)
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([[1, 2, 3, 3, 4]]), LOGITS[None].clone())[0]
    torch.testing.assert_close(adjust(LOGITS, made), expected)


@pytest.mark.parametrize("min_p", [0.02, 0.3, 1.0])
def test_min_p_equals_that_of_transformers(min_p: float) -> None:
    expected = MinPLogitsWarper(min_p)(torch.zeros(1, 1, dtype=torch.long), LOGITS[None] / 0.7).softmax(-1)
    torch.testing.assert_close(restricted_probs(LOGITS[None], 0.7, 0, 1.0, min_p), expected)


def test_presence_and_frequency_count_the_answer_only() -> None:
    """OpenAI's formula: logit - count * frequency_penalty - (count > 0) * presence_penalty."""
    found = adjust(LOGITS, sequence([1, 1, 2], [5, 5, 6], presence_penalty=0.5, frequency_penalty=0.25))
    off = torch.zeros(48)
    off[5], off[6] = 2 * 0.25 + 0.5, 0.25 + 0.5
    torch.testing.assert_close(found, LOGITS - off)


def test_bias_and_least_length() -> None:
    found = adjust(LOGITS, sequence([1], [2], logit_bias={3: 5.0, 9: -100.0}, min_tokens=2))
    assert found[3] == LOGITS[3] + 5
    assert found[9] == LOGITS[9] - 100
    assert found[7] == -torch.inf, "no end before min_tokens"
    assert adjust(LOGITS, sequence([1], [2, 3], min_tokens=2))[7] == LOGITS[7]
    assert torch.equal(LOGITS, torch.randn(48, generator=torch.Generator().manual_seed(5)) * 3), "a copy is changed"


def test_an_answer_is_as_long_as_it_must_be() -> None:
    model = build(TINY)
    free = Engine(model).generate([[4]], SamplingParams(temperature=0, max_tokens=8))[0].token_ids
    ends = SamplingParams(temperature=0, max_tokens=8, stop_token_ids=(free[0],))
    assert Engine(model).generate([[4]], ends)[0].token_ids == []
    longer = SamplingParams(temperature=0, max_tokens=8, min_tokens=3, stop_token_ids=(free[0],))
    assert len(Engine(model).generate([[4]], longer)[0].token_ids) >= 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": "warm"}, "temperature: 'warm' is neither 0 nor between"),
        ({"temperature": float("nan")}, "temperature: nan is neither"),
        ({"top_k": 1.5}, r"top_k: 1.5 is not a whole number from 0"),
        ({"min_p": 2}, r"min_p: 2 is not in \[0, 1\]"),
        ({"logit_bias": {3: 101}}, "logit_bias: .* between -100 and 100"),
        ({"stop": ("",)}, "stop: .* is not a tuple of texts"),
        ({"max_tokens": True}, "max_tokens: True is not a whole number"),
        ({"n": 0}, "n: 0 is not a whole number from 1"),
        ({"presence_penalty": 3}, "presence_penalty: 3 is not between -2 and 2"),
    ],
)
def test_bad_parameters_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SamplingParams(**settings)

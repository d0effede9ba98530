"""The engine against the full forward pass, and sampling against its definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan import ModelConfig
from kaiyuan.errors import KaiyuanError
from kaiyuan.inference import Engine, SamplingParams
from kaiyuan.inference.sampling import restricted_probs
from kaiyuan.model.transformer import Transformer

CONFIG = ModelConfig(
    vocab_size=97, hidden_size=32, num_layers=4, num_attention_heads=4, num_kv_heads=2, head_dim=8,
    intermediate_size=48, num_experts=4, max_position_embeddings=64, init_std=0.3,
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Transformer:
    made = Transformer(CONFIG)
    made.init_weights(1)
    return made.eval()


def by_hand(model: Transformer, prompt: list[int], count: int) -> tuple[list[int], list[float]]:
    ids, logprobs = list(prompt), []
    for _ in range(count):
        with torch.no_grad():
            scores = model(torch.tensor([ids]))[0, -1].log_softmax(-1)
        ids.append(int(scores.argmax()))
        logprobs.append(float(scores.max()))
    return ids[len(prompt) :], logprobs


@given(st.lists(st.lists(st.integers(0, 96), min_size=1, max_size=20), min_size=1, max_size=5))
@settings(max_examples=15, deadline=None)
def test_cached_batches_equal_full_passes(model: Transformer, prompts: list[list[int]]) -> None:
    found = Engine(model, max_num_seqs=3).generate(prompts, SamplingParams(temperature=0, max_tokens=6))
    for prompt, completion in zip(prompts, found, strict=True):
        tokens, logprobs = by_hand(model, prompt, 6)
        assert completion.token_ids == tokens
        assert completion.logprobs == pytest.approx(logprobs, abs=1e-4)
        assert completion.finish_reason == "length"


def test_samples_do_not_depend_on_batch_mates(model: Transformer) -> None:
    params = SamplingParams(temperature=0.8, top_k=20, max_tokens=8, seed=5)
    alone = Engine(model).generate([[1, 2, 3]], params)[0].token_ids
    together = Engine(model).generate([[4] * 9, [1, 2, 3], [7]], params)[1].token_ids
    assert alone == together
    several = Engine(model).generate([[1, 2, 3]], SamplingParams(temperature=0.8, top_k=20, max_tokens=8, seed=5, n=3))
    assert several[0].token_ids == alone
    assert len({tuple(completion.token_ids) for completion in several}) > 1


def test_stops_and_limits(model: Transformer) -> None:
    tokens, _ = by_hand(model, [3, 4], 6)
    stop = tokens[3]
    found = Engine(model).generate([[3, 4]], SamplingParams(temperature=0, max_tokens=6, stop_token_ids=(stop,)))[0]
    assert found.token_ids == tokens[: tokens.index(stop)]
    assert found.finish_reason == "stop"
    full = Engine(model).generate([[1] * 60], SamplingParams(temperature=0, max_tokens=50))[0]
    assert full.finish_reason == "length"
    assert len(full.token_ids) <= 4


def test_streaming_yields_the_same_tokens(model: Transformer) -> None:
    params = SamplingParams(temperature=0, max_tokens=7)
    pieces = Engine(model).stream([5, 6], params)
    tokens = [token.token_id for piece in pieces for token in piece.tokens]
    assert tokens == Engine(model).generate([[5, 6]], params)[0].token_ids


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([], "empty"), ([97], "token 97"), ([-1], "token -1"), ([1] * 64, "context is 64"), ("text", "no tokenizer")],
)
def test_bad_prompts_are_explained(model: Transformer, prompt: object, message: str) -> None:
    with pytest.raises(KaiyuanError, match=message):
        Engine(model).generate([prompt])  # type: ignore[list-item]


def test_bad_parameters_are_explained() -> None:
    with pytest.raises(KaiyuanError, match=r"(?s)temperature: -1.*top_p: 0"):
        SamplingParams(temperature=-1, top_p=0)


@given(st.integers(0, 999), st.integers(1, 30), st.floats(0.05, 1.0), st.floats(0.3, 2.0))
@settings(max_examples=60, deadline=None)
def test_restrictions_equal_those_of_transformers(seed: int, top_k: int, top_p: float, temperature: float) -> None:
    from transformers.generation import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = torch.randn(3, 30, generator=torch.Generator().manual_seed(seed))
    expected = logits
    for warper in (TemperatureLogitsWarper(temperature), TopKLogitsWarper(top_k), TopPLogitsWarper(top_p)):
        expected = warper(torch.zeros(3, 1, dtype=torch.long), expected)
    found = restricted_probs(logits, temperature, top_k, top_p)
    torch.testing.assert_close(found, expected.softmax(-1), rtol=1e-4, atol=1e-6)

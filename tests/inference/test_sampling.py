"""Sampling by definition: what may be chosen, how often, and that nothing but the seed decides."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from kaiyuan.errors import ConfigError
from kaiyuan.inference.device_sampling import Draw, draw_tokens, is_restricted
from kaiyuan.inference.params import SamplingParams
from kaiyuan.inference.sampling import restricted_probs, sample


def by_hand(logits: list[float], temperature: float, top_k: int, top_p: float) -> list[float]:
    """The definition, one number at a time; for logits without ties."""
    order = sorted(range(len(logits)), key=lambda word: -logits[word])
    kept = order[:top_k] if top_k else order
    weights = {word: math.exp((logits[word] - max(logits)) / temperature) for word in kept}
    total, nucleus, mass = sum(weights.values()), [], 0.0
    for word in kept:
        nucleus.append(word)
        mass += weights[word] / total
        if mass >= top_p:
            break
    total = sum(weights[word] for word in nucleus)
    return [weights[word] / total if word in nucleus else 0.0 for word in range(len(logits))]


@given(st.integers(0, 9999), st.integers(0, 25), st.floats(0.01, 1.0), st.floats(0.05, 5.0))
@settings(max_examples=150, deadline=None)
def test_restrictions_by_their_definition(seed: int, top_k: int, top_p: float, temperature: float) -> None:
    logits = torch.randn(2, 20, generator=torch.Generator().manual_seed(seed)) * 3
    found = restricted_probs(logits, temperature, top_k, top_p)
    for row, probs in zip(logits.tolist(), found.tolist(), strict=True):
        assert probs == pytest.approx(by_hand(row, temperature, top_k, top_p), rel=1e-3, abs=1e-5)


def test_the_most_probable_word_always_stays_and_equals_stay_together_in_top_k() -> None:
    assert restricted_probs(torch.tensor([[0.0, 5.0, 1.0]]), 1.0, 0, 1e-9).tolist() == [[0, 1, 0]]
    assert restricted_probs(torch.tensor([[2.0, 5.0, 1.0]]), 1.0, 1, 1.0).tolist() == [[0, 1, 0]]
    tied = restricted_probs(torch.tensor([[3.0, 1.0, 3.0, 3.0]]), 1.0, 2, 1.0)
    torch.testing.assert_close(tied, torch.tensor([[1 / 3, 0, 1 / 3, 1 / 3]]))


@pytest.mark.parametrize("temperature", [1e-6, 1e-3, 100.0])
def test_temperatures_at_their_limits_stay_finite(temperature: float) -> None:
    logits = torch.tensor([[300.0, 1e4, -1e4, 299.0]])
    probs = restricted_probs(logits, temperature, 0, 1.0)
    assert probs.isfinite().all()
    assert int(probs.argmax()) == 1
    if temperature < 1:
        assert probs.tolist() == [[0, 1, 0, 0]]


@pytest.mark.parametrize("temperature", [1e-40, 1e-300, -1.0, 101.0, float("nan"), float("inf")])
def test_temperatures_that_would_overflow_are_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match="is neither 0 nor between 1e-6 and 100"):
        SamplingParams(temperature=temperature)


def test_all_bad_parameters_come_in_one_error() -> None:
    with pytest.raises(ConfigError) as caught:
        SamplingParams(temperature=-1, top_k=-1, top_p=1.5, max_tokens=0, n=0)
    assert [line.split(":")[0].strip(" -") for line in str(caught.value).split("\n")[1:]] == [
        "temperature", "top_k", "top_p", "max_tokens", "n",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.7, 4, 1.0), (1.5, 0, 0.8), (1.0, 5, 0.9)]
)
def test_words_are_drawn_as_often_as_they_should(temperature: float, top_k: int, top_p: float) -> None:
    logits = torch.randn(1, 8, generator=torch.Generator().manual_seed(3)) * 1.5
    probs = restricted_probs(logits, temperature, top_k, top_p)[0]
    draws = 4000
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p)
    generator = torch.Generator().manual_seed(11)
    found = sample(logits.expand(draws, -1), [params] * draws, [generator] * draws)
    counts = torch.bincount(found, minlength=8)
    assert int(counts[probs == 0].sum()) == 0
    possible = probs > 0
    assert (
        chisquare(
            counts[possible].numpy(), probs[possible].double().numpy() * draws / probs.double().sum().item()
        ).pvalue
        > 1e-3
    )


def test_every_row_has_its_own_parameters() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0]]).expand(4, -1)
    params = [SamplingParams(temperature=t, top_k=k) for t, k in ((0, 0), (1.0, 1), (100.0, 0), (100.0, 2))]
    generators = [torch.Generator().manual_seed(row) for row in range(4)]
    drawn = torch.stack([sample(logits, params, generators) for _ in range(60)])
    assert [set(column.tolist()) for column in drawn.T] == [{1}, {1}, {0, 1, 2}, {1, 2}]


def test_a_row_draws_one_number_a_token_from_its_own_generator() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    params = [SamplingParams(), SamplingParams(temperature=0), SamplingParams(top_k=9)]
    generators = [torch.Generator().manual_seed(row) for row in range(3)]
    together = [sample(logits, params, generators) for _ in range(5)]
    for row in range(3):
        alone = torch.Generator().manual_seed(row)
        for step in range(5):
            assert sample(logits[row : row + 1], params[row : row + 1], [alone]) == together[step][row]
    twin = torch.Generator().manual_seed(0)
    torch.rand(5, dtype=torch.float64, generator=twin)
    assert torch.equal(twin.get_state(), generators[0].get_state())


@given(
    seed=st.integers(0, 99),
    settings_of_rows=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.3, 1.0, 4.0]), st.sampled_from([0, 1, 3, 500]),
            st.sampled_from([0.05, 0.5, 0.9, 1.0]), st.sampled_from([0.0, 0.1, 0.6]),
        ),
        min_size=1, max_size=6,
    ),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_rows_sampled_at_once_are_those_sampled_one_by_one(seed: int, settings_of_rows: list) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(settings_of_rows), 37, generator=generator) * 3
    params = [SamplingParams(temperature=t, top_k=k, top_p=p, min_p=m) for t, k, p, m in settings_of_rows]
    generators = [torch.Generator().manual_seed(seed + row) for row in range(len(params))]
    expected = sample(logits, params, generators)
    uniform = torch.stack([
        torch.rand((), dtype=torch.float64, generator=torch.Generator().manual_seed(seed + row))
        for row in range(len(params))
    ])  # fmt: skip
    draw = Draw.room(len(params), torch.device("cpu"))
    draw.fill(params)
    restricted = any(map(is_restricted, params))
    tokens, logprobs = draw_tokens(logits, draw, uniform, restricted)
    assert tokens.tolist() == expected.tolist()
    torch.testing.assert_close(logprobs, logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0])

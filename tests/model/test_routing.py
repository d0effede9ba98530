"""Routing against a brute-force version, and the properties the paper asks of recycling."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from kaiyuan.model.routing import DROPLESS, RoutingPolicy, mix_seed, random_bits, route, router_stats

cases = st.tuples(st.integers(1, 120), st.integers(2, 12), st.integers(0, 10_000))
factors = st.sampled_from([0.5, 0.9, 1.0, 1.25, 2.0])
overflows = st.sampled_from(["probability", "position", "random"])


def probabilities(tokens: int, experts: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    skew = torch.linspace(2, 0, experts)
    return (torch.randn(tokens, experts, generator=generator) + skew).softmax(-1)


def policy(mode: str, factor: float, overflow: str = "probability", low: int = 1) -> RoutingPolicy:
    return RoutingPolicy(mode=mode, capacity_factor=factor, min_capacity=low, overflow=overflow)  # type: ignore[arg-type]


@given(cases, factors, overflows)
@settings(max_examples=150, deadline=None)
def test_recycling_fills_slots_and_never_more(case: tuple[int, int, int], factor: float, overflow: str) -> None:
    tokens, experts, seed = case
    probs, rule = probabilities(tokens, experts, seed), policy("recycle", factor, overflow)
    found = route(probs, 1, rule, seed=seed)
    capacity = rule.capacity(tokens, 1, experts)
    load = torch.bincount(found.expert_N, minlength=experts + 1)
    assert load[:experts].max() <= capacity
    assert load[experts] == max(0, tokens - capacity * experts)
    placed = found.expert_N < experts
    assert torch.equal(found.recycled_N, placed & (found.expert_N != found.choice_N))
    expected = torch.where(placed, probs.gather(1, found.expert_N.clamp(max=experts - 1)[:, None])[:, 0], 0.0)
    assert torch.equal(found.weight_N, expected)
    if found.complete:
        assert placed.all()


@given(cases, factors)
@settings(max_examples=100, deadline=None)
def test_overflow_takes_the_least_probable_or_the_last(case: tuple[int, int, int], factor: float) -> None:
    tokens, experts, seed = case
    probs = probabilities(tokens, experts, seed)
    top, choice = probs.max(-1)
    for overflow in ("probability", "position"):
        rule = policy("drop", factor, overflow)
        found = route(probs, 1, rule, seed=seed)
        capacity = rule.capacity(tokens, 1, experts)
        for expert in range(experts):
            mine = [index for index in range(tokens) if choice[index] == expert]
            order = sorted(mine, key=lambda index: -float(top[index])) if overflow == "probability" else mine
            kept = set(torch.nonzero(found.expert_N == expert).flatten().tolist())
            assert kept == set(order[:capacity])


@given(cases, factors, st.sampled_from(["probability", "random"]))
@settings(max_examples=100, deadline=None)
def test_the_order_of_the_batch_does_not_matter(case: tuple[int, int, int], factor: float, overflow: str) -> None:
    tokens, experts, seed = case
    probs, rule = probabilities(tokens, experts + 1, seed), policy("recycle", factor, overflow)
    probs[: tokens // 2, :2] = 0.9  # ties for the best expert, and between tokens that differ elsewhere
    order = torch.randperm(tokens, generator=torch.Generator().manual_seed(seed))
    one, other = route(probs, 1, rule, seed=3), route(probs[order], 1, rule, seed=3)
    assert torch.equal(one.expert_N[order], other.expert_N)


def test_free_slots_are_equally_likely() -> None:
    """8 tokens want an expert with 4 slots; 4 of them go to the 14 free slots of the others, drawn 1500 times."""
    probs = torch.full((10, 5), 0.01)
    probs[:8, 0] = 0.9
    probs[8, 1] = probs[9, 2] = 0.9
    probs += 1e-4 * torch.rand(probs.shape, generator=torch.Generator().manual_seed(0))
    rule = policy("recycle", 2.0)  # 4 slots: expert 0 overflows by 4; free: 3, 3, 4, 4
    counts = np.zeros(5)
    per_token = np.zeros((8, 5))
    for seed in range(1500):
        found = route(probs, 1, rule, seed=seed)
        for token in torch.nonzero(found.recycled_N).flatten().tolist():
            counts[found.expert_N[token]] += 1
            per_token[token, found.expert_N[token]] += 1
    assert counts.sum() == 6_000
    weights = np.array([3, 3, 4, 4]) / 14
    assert counts[0] == 0
    # Four slots are drawn without replacement, so counts vary less than independently; the test is conservative.
    assert chisquare(counts[1:], weights * 6_000).pvalue > 1e-3
    for row in per_token[per_token.sum(1) > 0]:
        assert chisquare(row[1:], weights * row.sum()).pvalue > 1e-5


def test_the_seed_decides() -> None:
    probs, rule = probabilities(200, 8, 0), policy("recycle", 1.0)
    assert torch.equal(route(probs, 1, rule, seed=1).expert_N, route(probs, 1, rule, seed=1).expert_N)
    assert not torch.equal(route(probs, 1, rule, seed=1).expert_N, route(probs, 1, rule, seed=2).expert_N)
    assert len({mix_seed(a, b) for a in range(30) for b in range(30)}) == 900
    bits = random_bits(10_000, 5, "cpu")
    assert len(bits.unique()) == 10_000
    assert chisquare(np.bincount((bits >> 58).numpy(), minlength=16)).pvalue > 1e-4


@given(st.integers(1, 60), st.integers(4, 8), st.integers(2, 3), st.integers(0, 999), factors)
@settings(max_examples=80, deadline=None)
def test_several_choices(tokens: int, experts: int, top_k: int, seed: int, factor: float) -> None:
    probs = probabilities(tokens, experts, seed)
    for mode in ("dropless", "drop", "recycle"):
        rule = policy(mode, factor)
        found = route(probs, top_k, rule, seed=seed, renormalize=True)
        expert_TK, weight_TK = found.expert_N.view(tokens, top_k), found.weight_N.view(tokens, top_k)
        if mode != "dropless":
            load = torch.bincount(found.expert_N, minlength=experts + 1)[:experts]
            assert load.max() <= rule.capacity(tokens, top_k, experts)
        for row, weights in zip(expert_TK.tolist(), weight_TK, strict=True):
            real = [expert for expert in row if expert < experts]
            assert len(real) == len(set(real)), "no token has an expert twice"
            assert float(weights.sum()) == pytest.approx(1.0 if real else 0.0, abs=1e-5)


def test_dropless_is_plain_top_k() -> None:
    probs = probabilities(50, 8, 1)
    found = route(probs, 2, DROPLESS)
    values, indices = probs.topk(2)
    assert torch.equal(found.expert_N, indices.flatten())
    assert torch.equal(found.weight_N, values.flatten())


def test_capacity() -> None:
    rule = RoutingPolicy(capacity_factor=1.25, min_capacity=8)
    assert rule.capacity(1000, 1, 16) == math.ceil(1.25 * 1000 / 16)
    assert rule.capacity(1000, 2, 16) == math.ceil(1.25 * 2000 / 16)
    assert rule.capacity(20, 1, 16) == 8
    assert rule.capacity(5, 1, 16) == 5


def test_losses_and_metrics_equal_their_definitions() -> None:
    logits = torch.randn(300, 6, generator=torch.Generator().manual_seed(2), requires_grad=True)
    probs = logits.softmax(-1)
    found = route(probs, 1, policy("drop", 1.0), seed=0)
    stats = router_stats(logits, probs, found)
    share = [float((probs.argmax(-1) == expert).float().mean()) for expert in range(6)]
    expected = 6 * sum(share[expert] * float(probs[:, expert].detach().mean()) for expert in range(6))
    assert float(stats.balance_loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(stats.z_loss.detach()) == pytest.approx(float(logits.exp().sum(-1).log().square().mean()), rel=1e-5)
    assert float(stats.entropy) == pytest.approx(
        float(torch.distributions.Categorical(probs).entropy().mean()), rel=1e-5
    )
    assert float(stats.load_E.sum() + stats.dropped) == pytest.approx(1.0, abs=1e-6)
    assert float(stats.dropped) > 0
    stats.balance_loss.backward(retain_graph=True)
    assert logits.grad is not None and logits.grad.abs().sum() > 0
    logits.grad = None
    found.weight_N.sum().backward()
    assert logits.grad is not None and logits.grad.abs().sum() > 0, "the router learns from the combine weights"
    uniform = torch.full((12, 4), 0.25)
    even = route(torch.eye(4).repeat(3, 1) * 0.5 + 0.125, 1, DROPLESS)
    assert float(router_stats(uniform.log(), uniform, even).balance_loss) == pytest.approx(1.0)

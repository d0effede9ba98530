"""Routing where it is easy to get wrong: gradients, ties, several choices, very many experts, chance."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from kaiyuan.model.routing import DROPLESS, Mode, Overflow, Routing, RoutingPolicy, route, router_stats

OVERFLOWS = get_args(Overflow)
modes = st.sampled_from(["drop", "recycle"])
factors = st.sampled_from([0.3, 0.75, 1.0, 1.25])


def skewed(tokens: int, experts: int, seed: int) -> Tensor:
    """Logits with favourite experts, no two rows alike."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, experts, generator=generator) + torch.linspace(2, 0, experts)


def tied(tokens: int, experts: int, seed: int) -> Tensor:
    """Probabilities whose best value is the same in all rows, which still differ from each other."""
    generator = torch.Generator().manual_seed(seed)
    probs = 0.4 * torch.rand(tokens, experts, generator=generator)
    best = torch.randint(0, max(1, experts // 2), (tokens,), generator=generator)
    probs[torch.arange(tokens), best] = 0.5
    return probs


def policy(mode: Mode, factor: float, overflow: Overflow = "probability", seed: int = 0) -> RoutingPolicy:
    return RoutingPolicy(mode, factor, min_capacity=1, overflow=overflow, seed=seed)


def loads(found: Routing, experts: int) -> Tensor:
    return torch.bincount(found.expert_N, minlength=experts + 1)[:experts]


@given(
    st.integers(2, 80), st.integers(2, 9), st.integers(1, 3), st.integers(0, 999), factors, st.sampled_from(OVERFLOWS)
)
@settings(max_examples=150, deadline=None)
def test_dropping_keeps_what_fits_and_no_less(
    tokens: int, experts: int, top_k: int, seed: int, factor: float, overflow: Overflow
) -> None:
    """Brute force for any number of choices: each expert sorts the assignments that want it and keeps the first."""
    top_k = min(top_k, experts)
    probs, rule = skewed(tokens, experts, seed).softmax(-1), policy("drop", factor, overflow)
    found, capacity = route(probs, top_k, rule, seed=seed), rule.capacity(tokens, top_k, experts)
    values, choices = probs.topk(top_k)
    assert torch.equal(found.choice_N, choices.flatten())
    assert (
        loads(found, experts).tolist() == torch.bincount(found.choice_N, minlength=experts).clamp(max=capacity).tolist()
    )
    assert not found.recycled_N.any()
    for expert in range(experts):
        wanting = [place for place in range(tokens * top_k) if found.choice_N[place] == expert]
        if overflow == "probability":
            wanting.sort(key=lambda place: -float(values.flatten()[place]))
        kept = [place for place in range(tokens * top_k) if found.expert_N[place] == expert]
        assert set(kept) <= set(wanting)
        assert overflow == "random" or set(kept) == set(wanting[:capacity])


@given(st.integers(1, 60), st.integers(2, 9), st.integers(1, 3), st.integers(0, 999), factors, modes)
@settings(max_examples=150, deadline=None)
def test_permuting_a_batch_permutes_all_of_its_routing(
    tokens: int, experts: int, top_k: int, seed: int, factor: float, mode: Mode
) -> None:
    top_k = min(top_k, experts)
    order = torch.randperm(tokens, generator=torch.Generator().manual_seed(seed))
    places = (order[:, None] * top_k + torch.arange(top_k)).flatten()
    for probs in (skewed(tokens, experts, seed).softmax(-1), tied(tokens, experts, seed)):
        for overflow in ("probability", "random"):
            rule = policy(mode, factor, overflow)
            one, other = (route(rows, top_k, rule, seed=7, renormalize=True) for rows in (probs, probs[order]))
            for field in ("expert_N", "weight_N", "choice_N", "recycled_N"):
                assert torch.equal(getattr(one, field)[places], getattr(other, field)), field


@given(st.integers(1, 60), st.integers(2, 9), st.integers(1, 3), st.integers(0, 999), factors)
@settings(max_examples=100, deadline=None)
def test_what_recycling_may_do_to_an_assignment(
    tokens: int, experts: int, top_k: int, seed: int, factor: float
) -> None:
    """It keeps its expert, gets another one that its token does not have, or is dropped; its weight is that of where
    it ends, and only those that dropping would have dropped are touched (or meet their token's recycled twin)."""
    top_k = min(top_k, experts)
    probs = skewed(tokens, experts, seed).softmax(-1)
    dropped = route(probs, top_k, policy("drop", factor), seed=seed)
    found = route(probs, top_k, policy("recycle", factor), seed=seed)
    assert torch.equal(found.recycled_N & (found.expert_N == found.choice_N), torch.zeros_like(found.recycled_N))
    safe = found.expert_N.clamp(max=experts - 1).view(tokens, top_k)
    expected = (probs.gather(1, safe) * (found.expert_N < experts).view(tokens, top_k)).flatten()
    assert torch.equal(found.weight_N, expected)
    for place, (before, after) in enumerate(zip(dropped.expert_N.tolist(), found.expert_N.tolist(), strict=True)):
        token = place // top_k
        twins = found.expert_N[token * top_k : place].tolist()
        assert before in (after, experts) or (after == experts and before in twins)
    if top_k == 1 and rule_fits(tokens, experts, factor):
        assert found.complete
        assert (found.expert_N < experts).all()


def rule_fits(tokens: int, experts: int, factor: float) -> bool:
    return policy("recycle", factor).capacity(tokens, 1, experts) * experts >= tokens


@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 2), st.sampled_from(get_args(Mode)), factors)
@settings(max_examples=100, deadline=None)
def test_complete_is_never_promised_in_vain(tokens: int, experts: int, top_k: int, mode: Mode, factor: float) -> None:
    found = route(skewed(tokens, experts, tokens).softmax(-1), min(top_k, experts), policy(mode, factor))
    assert not found.complete or (found.expert_N < experts).all()


@pytest.mark.parametrize("experts", [511, 512, 600, 3000])
def test_very_many_experts(experts: int) -> None:
    """Experts' numbers must not run over whatever the assignments are sorted by."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(900, experts, generator=generator)
    logits[:, experts // 2 :] += 3  # the favourites are those with high numbers
    logits[:600, -1] += 9
    for overflow in OVERFLOWS:
        rule = RoutingPolicy("recycle", 1.0, min_capacity=2, overflow=overflow)
        found = route(logits.softmax(-1), 1, rule, seed=1)
        assert int(loads(found, experts).max()) <= rule.capacity(900, 1, experts) == 2
        assert (found.expert_N < experts).all()
        kept = route(logits.softmax(-1), 1, RoutingPolicy("drop", 1.0, min_capacity=2, overflow=overflow), seed=1)
        wanted = torch.bincount(kept.choice_N, minlength=experts)
        assert torch.equal(loads(kept, experts), wanted.clamp(max=2))


@pytest.mark.parametrize(("mode", "top_k"), [("dropless", 1), ("drop", 1), ("recycle", 1), ("recycle", 2)])
def test_the_router_learns_from_the_expert_that_computed(mode: Mode, top_k: int) -> None:
    """The weights' gradient is that of the softmax at the final expert, and none for what was dropped."""
    logits = skewed(40, 5, 0).requires_grad_()
    found = route(logits.softmax(-1), top_k, policy(mode, 0.8), seed=4)
    pull = torch.randn(40 * top_k, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad(found.weight_N @ pull, logits)
    expected, probs = torch.zeros_like(logits), logits.detach().softmax(-1)
    for place, expert in enumerate(found.expert_N.tolist()):
        if expert < 5:
            row = probs[place // top_k]
            expected[place // top_k] += pull[place] * row[expert] * (torch.eye(5)[expert] - row)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)
    untouched = (found.expert_N.view(40, top_k) == 5).all(-1)
    assert torch.equal((gradient == 0).all(-1), untouched)
    assert untouched.any() == (mode != "dropless")
    assert found.recycled_N.any() == (mode == "recycle")


def test_one_recycled_token_goes_to_every_free_slot_equally_often() -> None:
    """The very same token each time, so the draws are independent: 2000 of them among 1, 4 and 7 free slots."""
    best = torch.tensor([0] * 9 + [1] * 7 + [2] * 4 + [3])
    probs = (
        0.5 * torch.nn.functional.one_hot(best, 4)
        + 0.1
        + 0.01 * torch.rand(21, 4, generator=torch.Generator().manual_seed(0))
    )
    probs[4, 0] = 0.55  # the least sure of expert 0
    rule = RoutingPolicy("recycle", 1.5, min_capacity=1)
    assert rule.capacity(21, 1, 4) == 8
    ends = torch.tensor([int(route(probs, 1, rule, seed=seed).expert_N[4]) for seed in range(2000)])
    counts = torch.bincount(ends, minlength=4)
    assert counts[0] == 0
    assert chisquare(counts[1:].numpy(), [2000 / 12, 4 * 2000 / 12, 7 * 2000 / 12]).pvalue > 1e-3


def test_random_overflow_is_fair_to_every_token() -> None:
    probs = skewed(12, 2, 3).softmax(-1)
    probs[:, 0] += 1  # all want expert 0, which has 6 slots
    rule = policy("drop", 1.0, "random")
    kept = torch.stack([route(probs, 1, rule, seed=seed).expert_N == 0 for seed in range(1000)]).sum(0)
    assert int(kept.sum()) == 6000
    assert chisquare(kept.numpy()).pvalue > 1e-3


def test_chance_comes_from_the_seeds_alone() -> None:
    probs = skewed(200, 8, 0).softmax(-1)
    state = torch.get_rng_state()
    first = route(probs, 1, policy("recycle", 1.0, "random", seed=1), seed=2).expert_N
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"
    torch.manual_seed(99)
    assert torch.equal(route(probs, 1, policy("recycle", 1.0, "random", seed=1), seed=2).expert_N, first)
    assert not torch.equal(route(probs, 1, policy("recycle", 1.0, "random", seed=2), seed=2).expert_N, first)
    assert not torch.equal(route(probs, 1, policy("recycle", 1.0, "random", seed=2), seed=1).expert_N, first)


def test_two_layers_do_not_recycle_the_same_tokens_alike() -> None:
    """With only the seed changed, a recycled token's new expert is independent of its old one."""
    probs = skewed(4000, 6, 1).softmax(-1)
    one, other = (route(probs, 1, policy("recycle", 1.0), seed=seed) for seed in (10, 11))
    both = one.recycled_N & other.recycled_N
    same = (one.expert_N == other.expert_N)[both].float().mean()
    free = torch.bincount(one.expert_N[both], minlength=6) / both.sum()
    assert float(same) == pytest.approx(float(free.square().sum()), abs=4 / math.sqrt(float(both.sum())))


def test_balance_loss_is_one_when_even_and_e_when_collapsed() -> None:
    even = torch.eye(8).repeat(4, 1) * 20
    collapsed = torch.tensor([40.0] + [0.0] * 7).repeat(32, 1)
    for logits, expected, entropy in ((even, 1.0, 0.0), (collapsed, 8.0, 0.0), (torch.zeros(32, 8), 1.0, math.log(8))):
        probs = logits.softmax(-1)
        stats = router_stats(logits, probs, route(probs, 1, DROPLESS))
        assert float(stats.balance_loss) == pytest.approx(expected, rel=1e-5)
        assert float(stats.entropy) == pytest.approx(entropy, abs=1e-5)
    assert float(stats.z_loss) == pytest.approx(math.log(8) ** 2, rel=1e-5)


@given(st.integers(1, 100), st.integers(1, 8), st.integers(1, 3), modes, factors)
@settings(max_examples=100, deadline=None)
def test_metrics_add_up(tokens: int, experts: int, top_k: int, mode: Mode, factor: float) -> None:
    top_k = min(top_k, experts)
    logits = skewed(tokens, experts, tokens)
    found = route(logits.softmax(-1), top_k, policy(mode, factor), seed=1)
    stats = router_stats(logits, logits.softmax(-1), found)
    assert float(stats.chosen_E.sum()) == pytest.approx(1, abs=1e-5)
    assert float(stats.load_E.sum()) == pytest.approx(1 - float(stats.dropped), abs=1e-5)
    assert float(stats.recycled) == pytest.approx(float(found.recycled_N.sum()) / (tokens * top_k), abs=1e-6)
    brute = sum(
        float((found.choice_N == e).float().mean()) * float(logits.softmax(-1)[:, e].mean()) for e in range(experts)
    )
    assert float(stats.balance_loss) == pytest.approx(experts * brute, rel=1e-4)
    full = loads(found, experts).float()
    assert float(stats.violation) == pytest.approx(float(full.max() / full.mean()) - 1, rel=1e-4, abs=1e-5)


def test_only_the_losses_carry_gradients() -> None:
    logits = skewed(30, 4, 0).requires_grad_()
    stats = router_stats(logits, logits.softmax(-1), route(logits.softmax(-1), 1, policy("recycle", 1.0)))
    assert [name for name in stats._fields if getattr(stats, name).requires_grad] == ["balance_loss", "z_loss"]


@given(st.integers(1, 5000), st.integers(1, 8), st.integers(8, 64), st.floats(0.1, 4.0), st.integers(0, 20))
@settings(max_examples=100, deadline=None)
def test_capacity_is_the_smallest_that_is_enough(
    tokens: int, top_k: int, experts: int, factor: float, low: int
) -> None:
    slots = RoutingPolicy("drop", factor, low).capacity(tokens, top_k, experts)
    share = factor * tokens * top_k / experts
    assert slots == tokens or slots >= max(low, share)
    assert slots <= max(low, share + 1)
    assert slots <= tokens

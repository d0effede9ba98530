"""The kernels of routing, dispatch and router statistics against PyTorch; without a GPU in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, get_args

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton", reason="Triton is not installed (it exists for Linux only)")

from kaiyuan.model import experts as experts_module  # noqa: E402
from kaiyuan.model import routing as routing_module  # noqa: E402
from kaiyuan.model.experts import Dispatch  # noqa: E402
from kaiyuan.model.kernels import dispatch as dispatch_kernels  # noqa: E402
from kaiyuan.model.kernels import router_stats as stats_kernels  # noqa: E402
from kaiyuan.model.kernels import routing as route_kernels  # noqa: E402
from kaiyuan.model.routing import (  # noqa: E402
    DROPLESS,
    Overflow,
    RouterStats,
    Routing,
    RoutingPolicy,
    Seeds,
    route,
    router_stats,
)

OVERFLOWS = get_args(Overflow)
MODULES = routing_module, experts_module
Use = Callable[[bool], None]


@pytest.fixture(scope="module")
def kernels() -> Iterator[Use]:
    """Turns the kernels on or off."""
    patch = pytest.MonkeyPatch()

    def use(wanted: bool) -> None:
        for module in MODULES:
            patch.setattr(module, "on_gpu", lambda x: wanted)

    yield use
    patch.undo()


def skewed(tokens: int, experts: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(tokens, experts, generator=generator) + torch.linspace(2, 0, experts)).softmax(-1)


def repeated(tokens: int, experts: int, seed: int) -> Tensor:
    """Every token four times or so: equal hashes and equal precedences."""
    kinds = 1 + tokens // 4
    return skewed(kinds, experts, seed)[torch.arange(tokens) % kinds]


def tied(tokens: int, experts: int, seed: int) -> Tensor:
    """Best probabilities that are all the same, of tokens that are not; every fifth token has two of them."""
    generator = torch.Generator().manual_seed(seed)
    probs = 0.4 * torch.rand(tokens, experts, generator=generator)
    best = torch.randint(0, max(1, experts // 2), (tokens,), generator=generator)
    probs[torch.arange(tokens), best] = 0.5
    probs[::5, -1] = 0.5
    return probs


def repeated_ties(tokens: int, experts: int, seed: int) -> Tensor:
    """Six kinds of tokens, whose best probabilities are equal: hashes decide, and then places."""
    return tied(6, experts, seed)[torch.arange(tokens) % 6]


def sure(tokens: int, experts: int, seed: int) -> Tensor:
    """All want the last expert, most with a probability of exactly 1."""
    return (torch.eye(experts)[-1] * 30 + 8 * skewed(tokens, experts, seed)).softmax(-1)


def even(tokens: int, experts: int, seed: int) -> Tensor:
    """Experts in turn: nobody is over any capacity of a factor of 1 or more, and with 1 all are full."""
    return (0.1 * skewed(tokens, experts, seed) + torch.eye(experts)[torch.arange(tokens) % experts]).softmax(-1)


KINDS = [skewed, repeated, tied, repeated_ties, sure, even]
policies = st.builds(
    RoutingPolicy,
    mode=st.sampled_from(["drop", "recycle"]),
    capacity_factor=st.sampled_from([0.3, 0.75, 1.0, 1.25, 2.0]),
    min_capacity=st.just(1),
    overflow=st.sampled_from(OVERFLOWS),
    draw=st.sampled_from(["content", "place"]),
    seed=st.integers(0, 2**40),
)


def both(kernels: Use, run: Callable[[], Any]) -> tuple[Any, Any]:
    """With kernels and without."""
    found = []
    for wanted in (True, False):
        kernels(wanted)
        found.append(run())
    return found[0], found[1]


def calls_of(module: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by an entry with every call of a module's function from now on."""
    calls: list[str] = []
    function = getattr(module, name)

    def called(*given: Any) -> Any:
        calls.append(name)
        return function(*given)

    monkeypatch.setattr(module, name, called)
    return calls


def assert_same(found: Routing, expected: Routing) -> None:
    for name, one, other in zip(Routing._fields, found, expected, strict=True):
        if isinstance(other, Tensor):
            assert one.dtype == other.dtype, name
            assert torch.equal(one, other), name
        else:
            assert one == other, name


@given(st.integers(2, 90), st.integers(1, 9), st.sampled_from(KINDS), policies, st.integers(0, 2**62 - 1))
@settings(max_examples=40, deadline=None)
@example(90, 9, repeated, RoutingPolicy("recycle", 0.75, 1), 1)
@example(81, 9, even, RoutingPolicy("recycle", 1.0, 1), 1)
@example(77, 4, sure, RoutingPolicy("recycle", 1.25, 1, "random"), 2)
@example(63, 3, repeated_ties, RoutingPolicy("drop", 0.75, 1), 1)
@example(64, 8, tied, RoutingPolicy("drop", 0.75, 1), 0)
def test_routes_are_the_same_bits(
    kernels: Use, tokens: int, experts: int, kind: Callable[..., Tensor], policy: RoutingPolicy, seed: int
) -> None:
    probs = kind(tokens, experts, seed % 1000).to(DEVICE)
    assert_same(*both(kernels, lambda: route(probs, 1, policy, seed=seed)))


@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("kind", [skewed, repeated])
def test_many_programs_and_tiles_give_the_same_bits(
    kind: Callable[..., Tensor], overflow: Overflow, kernels: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(route_kernels, "_BLOCK", 64)
    monkeypatch.setattr(route_kernels, "_TILE", 16)
    probs, policy = kind(700, 16, 5).to(DEVICE), RoutingPolicy("recycle", 1.0, 1, overflow)
    found, expected = both(kernels, lambda: route(probs, 1, policy, seed=3))
    assert_same(found, expected)
    assert int(found.recycled_N.sum()) > 100


def test_a_full_expert_is_not_overfull(kernels: Use) -> None:
    probs = torch.full((40, 2), 0.4, device=DEVICE)
    probs[:20, 0] = probs[20:, 1] = 0.6
    for extra in (0, 1):
        probs[20 : 20 + extra] = probs[0]
        found, expected = both(kernels, lambda: route(probs, 1, RoutingPolicy("recycle", 1.0, 1), seed=0))
        assert_same(found, expected)
        assert int(found.recycled_N.sum()) == extra


@pytest.mark.parametrize("wanted", [True, False])
def test_the_smallest_difference_in_probability_counts_before_the_hash(wanted: bool, kernels: Use) -> None:
    probs = tied(300, 4, 0).to(DEVICE)
    best = probs[::2]
    probs[::2] = torch.where(best == 0.5, torch.nextafter(best, torch.ones_like(best)), best)
    kernels(wanted)
    found = route(probs, 1, RoutingPolicy("drop", 0.75, 1), seed=0)
    for expert in found.choice_N.unique().tolist():
        mine = found.choice_N == expert
        kept, gone = mine & (found.expert_N == expert), mine & (found.expert_N == 4)
        assert bool(gone.any()) == (int(mine.sum()) > 57)
        if gone.any():
            assert probs.amax(1)[kept].min() >= probs.amax(1)[gone].max()


@pytest.mark.parametrize("draw", ["content", "place"])
def test_seeds_may_lie_in_memory(draw: Any, kernels: Use) -> None:
    probs, policy = tied(60, 5, 0).to(DEVICE), RoutingPolicy("recycle", 0.75, 1, "random", draw)
    kernels(True)
    ends = []
    for seed in (1, 2, 2**61):
        seeds = Seeds.of(policy, seed)
        in_memory = Seeds(*torch.tensor(seeds, device=DEVICE))
        found = route(probs, 1, policy, seed=seed)
        assert_same(route(probs, 1, policy, seed=in_memory), found)
        ends.append(found.expert_N)
    assert not torch.equal(ends[0], ends[1])


@pytest.mark.parametrize("mode", ["drop", "recycle"])
def test_weights_hand_their_gradient_to_the_probability_they_are(mode: Any, kernels: Use) -> None:
    probs = skewed(150, 5, 0).to(DEVICE).requires_grad_()
    pull = torch.randn(150, generator=torch.Generator().manual_seed(1)).to(DEVICE)

    def gradient() -> Tensor:
        found = route(probs, 1, RoutingPolicy(mode, 0.75, 1), seed=4)
        assert (
            not found.expert_N.requires_grad and not found.choice_N.requires_grad and not found.recycled_N.requires_grad
        )
        return torch.autograd.grad(found.weight_N @ pull, probs)[0]

    assert torch.equal(*both(kernels, gradient))


def test_nan_is_an_expert_like_any_other(kernels: Use) -> None:
    """A step gone wrong must not write beside its buffers; torch's choice is the first NaN."""
    probs = skewed(50, 4, 0).to(DEVICE)
    probs[3, 2] = probs[7] = float("nan")
    kernels(True)
    found = route(probs, 1, RoutingPolicy("recycle", 1.0, 1), seed=0)
    assert torch.equal(found.choice_N, probs.max(-1).indices)
    assert torch.bincount(found.expert_N.cpu(), minlength=5).max() <= 13


@pytest.mark.parametrize(
    ("experts", "top_k", "more"), [(5, 2, {}), (5, 1, {"renormalize": True}), (route_kernels.MOST_EXPERTS + 1, 1, {})]
)
def test_what_has_no_kernels_goes_by_pytorch(
    experts: int, top_k: int, more: dict[str, Any], kernels: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(route_kernels, "route")
    probs = skewed(90, experts, 0).to(DEVICE)
    assert_same(*both(kernels, lambda: route(probs, top_k, RoutingPolicy("drop", 1.0, 1), seed=1, **more)))


@pytest.mark.parametrize("programs", [2, 128])
@pytest.mark.parametrize(("count", "experts"), [(1, 1), (37, 3), (600, 16), (1100, 31), (500, 200)])
def test_counting_sorts_as_a_stable_sort(
    count: int, experts: int, programs: int, kernels: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch_kernels, "_PROGRAMS", programs)
    expert_N = torch.randint(experts + 1, (count,), generator=torch.Generator().manual_seed(count)).to(DEVICE)
    expert_N[: count // 2] = expert_N[: count // 2].clamp(min=experts // 2)  # not the same in all blocks
    weight_N = torch.rand(count, device=DEVICE)
    routing = Routing(expert_N, weight_N, expert_N, torch.zeros_like(expert_N, dtype=torch.bool), False)
    found, expected = both(kernels, lambda: Dispatch(routing, experts, 1))
    for name in ("order_N", "token_N", "weight_N", "counts_E", "ends_E", "kept_N"):
        one, other = getattr(found, name), getattr(expected, name)
        assert one.dtype == other.dtype, name
        assert torch.equal(one, other), name
    for one, other in zip(found.places(), expected.places(), strict=True):
        assert one == other if isinstance(other, int) else (one.dtype == other.dtype and torch.equal(one, other))


@pytest.mark.parametrize("more", [0, 1])
def test_more_experts_than_counting_takes_are_sorted(more: int, kernels: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    experts, counted = dispatch_kernels.MOST_EXPERTS + more, calls_of(dispatch_kernels, "by_expert", monkeypatch)
    expert_N = torch.randint(experts + 1, (400,), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    expert_N[:3] = torch.tensor([experts, experts - 1, 0])
    routing = Routing(expert_N, torch.rand(400), expert_N, torch.zeros_like(expert_N, dtype=torch.bool), False)
    kernels(True)
    found = Dispatch(routing, experts, 1)
    assert len(counted) == 1 - more
    order = sorted(range(400), key=expert_N.tolist().__getitem__)
    assert found.order_N.tolist() == order
    assert found.counts_E.tolist() == [expert_N.tolist().count(expert) for expert in range(experts)]
    places, _, rows, ends, _ = found.places()
    assert places.tolist() == order
    assert [order[row] for row in rows.tolist()] == list(range(400))
    assert ends.tolist() == found.counts_E.cumsum(0).tolist()


STATS = {
    "dropless": (1, DROPLESS),
    "dropped": (1, RoutingPolicy("drop", 0.7, 1)),
    "recycled": (1, RoutingPolicy("recycle", 1.0, 1)),
    "two experts": (2, RoutingPolicy("drop", 0.7, 1)),
}


@pytest.mark.parametrize(("tokens", "experts"), [(1, 2), (300, 5), (290, 16)])
@pytest.mark.parametrize("case", STATS)
def test_statistics_and_their_gradients(
    case: str, tokens: int, experts: int, kernels: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats_kernels, "_PROGRAMS", 2)
    top_k, policy = STATS[case]
    logits = (3 * skewed(tokens, experts, 1).log()).to(DEVICE)
    kernels(False)
    routing = route(logits.softmax(-1), top_k, policy, seed=1)

    def run() -> tuple[RouterStats, tuple[Tensor, ...]]:
        leaf, probs = logits.clone().requires_grad_(), logits.softmax(-1).requires_grad_()
        stats = router_stats(leaf, probs, routing)
        return stats, torch.autograd.grad(3 * stats.balance_loss + 0.7 * stats.z_loss, (leaf, probs))

    (found, grads), (expected, expected_grads) = both(kernels, run)
    for name, one, other in zip(RouterStats._fields, found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}")
        assert one.requires_grad == other.requires_grad == (name in ("balance_loss", "z_loss"))
    for one, other in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("more", [0, 1])
def test_statistics_of_more_experts_go_by_pytorch(more: int, kernels: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    experts, taken = stats_kernels.MOST_EXPERTS + more, calls_of(stats_kernels, "router_stats", monkeypatch)
    probs = skewed(40, experts, 3).to(DEVICE)
    kernels(False)
    routing = route(probs, 1, RoutingPolicy("drop", 0.7, 1))
    found, expected = both(kernels, lambda: router_stats(probs.log(), probs, routing))
    assert len(taken) == 1 - more
    for name, one, other in zip(RouterStats._fields, found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("loss", ["balance_loss", "z_loss"])
def test_a_loss_alone_has_its_gradient(loss: str, kernels: Use) -> None:
    logits = skewed(60, 5, 2).log().to(DEVICE).requires_grad_()
    routing = route(logits.detach().softmax(-1), 1, DROPLESS)

    def gradient() -> Tensor:
        return torch.autograd.grad(getattr(router_stats(logits, logits.softmax(-1), routing), loss), logits)[0]

    torch.testing.assert_close(*both(kernels, gradient), rtol=1e-5, atol=1e-8)

"""Experts on every path, where groups are empty, assignments are dropped, and a grouped GEMM leaves rubbish behind."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kaiyuan.model.experts import Dispatch, Experts, SharedExpert, experts_reference, swiglu, swiglu_backward
from kaiyuan.model.routing import DROPLESS, Routing, RoutingPolicy, route

EXPERTS, HIDDEN, WIDTH, TOKENS = 4, 16, 24, 30


def layer() -> Experts:
    made = Experts(EXPERTS, HIDDEN, WIDTH)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 0.4, generator=generator)
    return made


def tokens(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(TOKENS, HIDDEN, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()


def by_hand(expert_N: list[int]) -> Routing:
    """A routing of one's own making; E stands for dropped."""
    expert = torch.tensor(expert_N)
    kept = expert < EXPERTS
    weight = torch.rand(len(expert_N), generator=torch.Generator().manual_seed(2)) * kept
    return Routing(expert, weight.requires_grad_(), expert, torch.zeros_like(kept), bool(kept.all()))


def routed(top_k: int, policy: RoutingPolicy) -> Routing:
    logits = torch.randn(TOKENS, EXPERTS, generator=torch.Generator().manual_seed(3)) + torch.tensor([2.0, 1, 0, -1])
    found = route(logits.softmax(-1), top_k, policy, renormalize=top_k > 1)
    return found._replace(weight_N=found.weight_N.detach().requires_grad_())


CASES = {
    "top 1": (1, routed(1, DROPLESS)),
    "top 2": (2, routed(2, DROPLESS)),
    "top 3, some dropped": (3, routed(3, RoutingPolicy("drop", 0.7, 1))),
    "top 1, some dropped": (1, routed(1, RoutingPolicy("drop", 0.7, 1))),
    "top 2, recycled": (2, routed(2, RoutingPolicy("recycle", 0.9, 1))),
    "one expert has all": (1, by_hand([2] * TOKENS)),
    "the first and last have none": (1, by_hand([1, 2] * (TOKENS // 2))),
    "all dropped": (1, by_hand([EXPERTS] * TOKENS)),
    "all but one dropped": (1, by_hand([EXPERTS] * (TOKENS - 1) + [0])),
}


def results(out: Tensor, x: Tensor, routing: Routing, made: Experts) -> list[Tensor]:
    """The output and the gradients of input, combine weights and both weights under a random upstream gradient."""
    upstream = torch.randn(TOKENS, HIDDEN, generator=torch.Generator().manual_seed(4)).to(out.dtype)
    inputs = [x, routing.weight_N, made.gate_up, made.down]
    out = out + 0 * x  # the reference does not depend on anything where all is dropped
    return [out.detach(), *torch.autograd.grad(out, inputs, upstream, materialize_grads=True)]


def relative_error(found: Tensor, expected: Tensor) -> float:
    assert found.dtype == expected.dtype
    assert found.isfinite().all()
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-9))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("padded", [False, True])
def test_loop_and_padded_batch_equal_the_reference(case: str, padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Experts, "_pays_to_pad", lambda experts, counts: padded)
    top_k, routing = CASES[case]
    made, x = layer(), tokens()
    found = results(made(x, Dispatch(routing, EXPERTS, top_k)), x, routing, made)
    expected = results(experts_reference(x, routing, top_k, made.gate_up, made.down), x, routing, made)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["top 1", "top 3, some dropped"])
def test_a_residual_stream_is_added_last_and_changes_no_bit_of_the_rest(case: str) -> None:
    top_k, routing = CASES[case]
    made, x = layer(), tokens(torch.bfloat16)
    base, residual = (torch.randn(TOKENS, HIDDEN, generator=torch.Generator().manual_seed(seed)).bfloat16()
                      .requires_grad_() for seed in (5, 6))  # fmt: skip
    given = [x, base, residual, made.gate_up, made.down]
    found = made(x, Dispatch(routing, EXPERTS, top_k), base, residual)
    expected = residual + made(x, Dispatch(routing, EXPERTS, top_k), base)
    assert torch.equal(found, expected)
    gradients = (torch.autograd.grad(out, given, torch.ones_like(out)) for out in (found, expected))
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_padding_pays_for_small_matrices_with_like_loads_alone() -> None:
    made = layer()
    assert made._pays_to_pad([8, 8, 7, 7])
    assert not made._pays_to_pad([30, 0, 0, 0])
    assert not made._pays_to_pad([0, 0, 0, 0])
    with torch.device("meta"):
        assert not Experts(4, 512, 512)._pays_to_pad([8, 8, 8, 8])


def grouped(made: Experts, x: Tensor, dispatch: Dispatch) -> Tensor:
    """``Experts.forward`` as it is on a GPU."""
    out = made.grouped(x[dispatch.token_N], dispatch) * dispatch.weight_N[:, None].to(x.dtype)
    return torch.zeros_like(x).index_add(0, dispatch.token_N, out)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grouped_products_equal_the_loop_forwards_and_backwards(case: str, dtype: torch.dtype) -> None:
    """The CPU's grouped GEMM leaves memory as it found it in rows without a group, as the GPU's does: none may leak."""
    top_k, routing = CASES[case]
    made, x = layer(), tokens(dtype)
    expected = results(made(x, Dispatch(routing, EXPERTS, top_k)), x, routing, made)
    for _ in range(3):
        rubbish = [torch.full((TOKENS * top_k, size), float("nan"), dtype=dtype) for size in (HIDDEN, 2 * WIDTH)]
        del rubbish
        found = results(grouped(made, x, Dispatch(routing, EXPERTS, top_k)), x, routing, made)
        for one, other in zip(found, expected, strict=True):
            assert relative_error(one, other) < (1e-5 if dtype == torch.float32 else 0.02)


def test_bfloat16_is_close_to_float32() -> None:
    routing, made = CASES["top 2"][1], layer()
    exact, rounded = (
        results(made(x, Dispatch(routing, 4, 2)), x, routing, made) for x in (tokens(), tokens(torch.bfloat16))
    )
    assert rounded[0].dtype == rounded[1].dtype == torch.bfloat16
    assert rounded[3].dtype == rounded[4].dtype == torch.float32
    for one, other in zip(rounded, exact, strict=True):
        assert relative_error(one.float(), other) < 0.02


def test_assignments_are_sorted_by_expert_and_dropped_ones_are_last() -> None:
    routing = by_hand([3, 4, 0, 0, 4, 2])
    dispatch = Dispatch(routing, EXPERTS, 2)
    assert dispatch.counts_E.tolist() == [2, 0, 1, 1]
    assert dispatch.token_N.tolist() == [1, 1, 2, 0, 0, 2]
    assert dispatch.kept_N is not None
    assert dispatch.kept_N.tolist() == [True] * 4 + [False] * 2
    assert torch.equal(dispatch.weight_N, routing.weight_N[[2, 3, 5, 0, 1, 4]])
    assert Dispatch(by_hand([1, 0]), EXPERTS, 1).kept_N is None


def test_a_dropped_token_gets_nothing_from_the_experts() -> None:
    out = layer()(tokens(), Dispatch(by_hand([0, EXPERTS] * (TOKENS // 2)), EXPERTS, 1))
    assert (out[1::2] == 0).all()
    assert (out[::2] != 0).any(-1).all()


def test_swiglu_by_finite_differences() -> None:
    x = torch.randn(5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(5), requires_grad=True)
    assert torch.autograd.gradcheck(swiglu, (x,))
    _, activation = swiglu_backward(torch.ones(5, 6, dtype=torch.float64), x.detach())
    torch.testing.assert_close(activation, F.silu(x[:, :6]).detach() * x[:, 6:].detach())


def test_all_experts_by_finite_differences() -> None:
    routing = by_hand([0, 2, EXPERTS, 2, 3])
    dispatch = Dispatch(routing, EXPERTS, 1)
    made = Experts(EXPERTS, 3, 4).double()
    generator = torch.Generator().manual_seed(6)
    shapes = ((5, 3), made.gate_up.shape, made.down.shape)
    inputs = [torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True) for shape in shapes]

    def run(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        return torch.func.functional_call(made, {"gate_up": gate_up, "down": down}, (x, dispatch))

    assert torch.autograd.gradcheck(run, inputs)


def test_the_shared_expert_is_swiglu_with_the_gate_first() -> None:
    shared, x = SharedExpert(6, 10), torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(7))
    for parameter in shared.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(8))
    gate, up = shared.gate_up.weight.chunk(2)
    expected = (F.silu(x @ gate.T) * (x @ up.T)) @ shared.down.weight.T
    torch.testing.assert_close(shared(x), expected, rtol=1e-5, atol=1e-5)

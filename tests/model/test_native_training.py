"""The C++ of a training step against the plain forms and against PyTorch, in both types and at awkward sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_models import TINY
from torch import Tensor

from kaiyuan.model.experts import Experts
from kaiyuan.model.fused import use_kernels
from kaiyuan.model.linear import gradient
from kaiyuan.model.loss import cross_entropy_sum
from kaiyuan.model.native import library as library_module
from kaiyuan.model.native import norms, operations
from kaiyuan.model.native.library import available, library, native
from kaiyuan.model.norm import rms_norm_reference
from kaiyuan.model.rope import rotate
from kaiyuan.model.routing import RoutingPolicy
from kaiyuan.model.transformer import Transformer
from kaiyuan.training.optimizer import adamw, clip, set_lr

pytestmark = pytest.mark.skipif(not available(), reason="no C++ compiler")
EPS = 1e-5
TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@pytest.fixture(params=["this processor", "an average one"], autouse=True)
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also without AVX-512, where numbers are rounded to bfloat16 by our own arithmetic."""
    if request.param != "this processor":
        average = library(("-march=x86-64-v3",))
        for module in (norms, operations, library_module):
            monkeypatch.setattr(module, "library", lambda: average)


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


def close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Within rounding: of one result in bfloat16, of sums in float32."""
    limit = 5e-3 if dtype == torch.bfloat16 else 2e-6
    error = (found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30)
    assert error < limit, error


def gradients(run: Callable[..., Any], inputs: list[Tensor], seeds: int = 7) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs of ``run`` and the gradients of its inputs, for random gradients of the outputs."""
    leaves = [value.clone().requires_grad_() for value in inputs]
    outs = run(*leaves)
    outs = list(outs) if isinstance(outs, tuple) else [outs]
    grads = [random(*out.shape, dtype=out.dtype, seed=seeds + place) for place, out in enumerate(outs)]
    return [out.detach() for out in outs], list(torch.autograd.grad(outs, leaves, grads))


@TYPES
@pytest.mark.parametrize(("rows", "size"), [(1, 16), (70, 192), (300, 20), (3, 5), (129, 1024)])
@pytest.mark.parametrize("add", [False, True])
def test_norm_beside_the_stream(dtype: torch.dtype, rows: int, size: int, add: bool) -> None:
    inputs = [random(rows, size, dtype=dtype), random(size, seed=2)]
    inputs += [random(rows, size, dtype=dtype, seed=1)] if add else []

    def plain(x: Tensor, gain: Tensor, added: Tensor | None = None) -> tuple[Tensor, Tensor]:
        whole = x if added is None else (x + added).to(dtype).double()
        return whole, rms_norm_reference(whole, gain, EPS)

    found = gradients(lambda x, gain, added=None: norms.residual_norm(x, added, gain, EPS), inputs)
    leaves = [value.double() for value in inputs]
    outs, grads = gradients(plain, leaves)
    for one, other in zip(found[0], outs, strict=True):
        close(one, other, dtype)
    if add:  # rounding the sum is part of the function, and its gradient that of the sum
        assert torch.equal(found[1][0], found[1][2])
    leaves = [value.clone().requires_grad_() for value in leaves]
    whole = leaves[0] if not add else leaves[0] + leaves[2]
    seeds = [random(rows, size, dtype=dtype, seed=7 + place).double() for place in range(2)]
    grads = list(torch.autograd.grad([whole, rms_norm_reference(whole, leaves[1], EPS)], leaves, seeds))
    for one, other in zip(found[1], grads, strict=True):
        close(one, other, dtype)


@TYPES
@pytest.mark.parametrize(("heads", "size"), [(6, 32), (1, 6), (3, 128)])
@pytest.mark.parametrize("gained", [False, True])
def test_rope_with_the_norm(dtype: torch.dtype, heads: int, size: int, gained: bool) -> None:
    angles = random(1, 13, 1, size // 2, seed=3)
    cos, sin = angles.cos(), angles.sin()
    inputs = [random(2, 13, heads, size, dtype=dtype)] + ([random(size, seed=2)] if gained else [])
    found = gradients(lambda x, gain=None: norms.rope_norm(x, cos, sin, gain, EPS), inputs)

    def plain(x: Tensor, gain: Tensor | None = None) -> Tensor:
        turned = rotate(x, cos.double(), sin.double())
        normed = turned * torch.rsqrt(turned.square().mean(-1, keepdim=True) + EPS)
        return normed if gain is None else normed * gain

    leaves = [value.double().requires_grad_() for value in inputs]
    out = plain(*leaves)
    grads = torch.autograd.grad(out, leaves, random(*out.shape, dtype=dtype, seed=7).double())
    close(found[0][0], out.detach(), dtype)
    for one, other in zip(found[1], grads, strict=True):
        close(one, other, dtype)


@TYPES
@pytest.mark.parametrize(("rows", "width"), [(70, 256), (5, 24), (1, 3), (0, 16)])
def test_swiglu(dtype: torch.dtype, rows: int, width: int) -> None:
    gate_up, grad = random(rows, 2 * width, dtype=dtype, scale=3.0), random(rows, width, dtype=dtype, seed=1)
    leaf = gate_up.double().requires_grad_()
    gate, up = leaf.chunk(2, -1)
    expected = F.silu(gate) * up
    (wanted,) = torch.autograd.grad(expected, leaf, grad.double())
    found, act = operations.swiglu_backward(grad, gate_up)
    for one, other in ((operations.swiglu(gate_up), expected.detach()), (act, expected.detach()), (found, wanted)):
        close(one, other, dtype)


def test_swiglu_of_numbers_beyond_the_exponential() -> None:
    gate_up = torch.tensor([[-1e4, -200.0, -90.0, 90.0, 1e4, math.nan, 1, 1, 1, 1, 1, 1]])
    found = operations.swiglu(gate_up)
    torch.testing.assert_close(
        found, torch.tensor([[0.0, 0, 0, 90, 1e4, math.nan]]), equal_nan=True, rtol=1e-6, atol=1e-6
    )


@TYPES
@pytest.mark.parametrize(("rows", "words"), [(70, 4096), (33, 37), (1, 3)])
def test_cross_entropy(dtype: torch.dtype, rows: int, words: int) -> None:
    logits = random(rows, words, dtype=dtype, scale=4.0)
    targets = torch.randint(words, (rows,), generator=torch.Generator().manual_seed(1))
    weights = random(rows, seed=2).abs()
    leaf = logits.double().requires_grad_()
    losses = F.cross_entropy(leaf, targets, reduction="none") * weights.double()
    (expected,) = torch.autograd.grad(losses.sum(), leaf)
    kept = logits.clone()
    torch.testing.assert_close(operations.cross_entropy_(kept, targets, weights, grad=False), losses.detach().float())
    assert torch.equal(kept, logits)
    torch.testing.assert_close(operations.cross_entropy_(kept, targets, weights), losses.detach().float())
    close(kept, expected, dtype)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_logit_that_is_not_finite_is_no_finite_loss(bad: float) -> None:
    logits = torch.zeros(2, 40)
    logits[1, 35] = bad
    losses = operations.cross_entropy_(logits, torch.tensor([3, 3]), torch.ones(2))
    assert losses.isfinite().tolist() == [True, False]
    assert logits.isfinite().all(1).tolist() == [True, False]


def test_bfloat16_is_rounded_to_the_nearest_even() -> None:
    halves = torch.tensor(
        [1.0, 1.00390625, 1.01171875, -1.00390626, 3.3895314e38, math.inf, -math.inf, math.nan, 0, -0.0]
    )
    ones = torch.ones_like(halves)
    whole, _ = norms.residual_norm(halves.bfloat16()[None], torch.zeros(1, 10).bfloat16(), torch.ones(10), EPS)
    assert torch.equal(whole.nan_to_num(7), halves.bfloat16()[None].nan_to_num(7))
    copy, master, moment = torch.zeros(10, dtype=torch.bfloat16), halves.clone(), torch.zeros(10)
    operations.adamw(master, ones * 0, moment, moment.clone(), copy, 1.0, step=1, lr=0.0, betas=(0.9, 0.9), eps=1.0,
                     weight_decay=0.0)  # fmt: skip
    assert torch.equal(copy.nan_to_num(7), halves.bfloat16().nan_to_num(7))


@pytest.mark.parametrize("count", [1, 100, 40_000])
@pytest.mark.parametrize("moments", [torch.float32, torch.bfloat16])
@TYPES
def test_adamw_is_torchs(dtype: torch.dtype, moments: torch.dtype, count: int) -> None:
    weight = torch.nn.Parameter(random(count))
    other = torch.optim.AdamW([weight], lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    master, copy = weight.detach().clone(), torch.empty(count, dtype=torch.bfloat16)
    mean, square = (torch.zeros(count, dtype=moments) for _ in range(2))
    for step in range(1, 4):
        grad = random(count, dtype=dtype, seed=step)
        weight.grad = grad.float() * 0.5
        other.step()
        operations.adamw(master, grad, mean, square, copy, 0.5, step=step, lr=0.01, betas=(0.9, 0.95), eps=1e-8,
                         weight_decay=0.1)  # fmt: skip
    exact = moments == torch.float32
    torch.testing.assert_close(master, weight.detach(), rtol=1e-5, atol=1e-6 if exact else 1e-3)
    torch.testing.assert_close(mean.float(), other.state[weight]["exp_avg"], rtol=1e-5 if exact else 0.02, atol=1e-3)
    assert torch.equal(copy, master.bfloat16())


@TYPES
def test_a_sum_of_squares(dtype: torch.dtype) -> None:
    for count in (1, 33, 100_000):
        x = random(count, dtype=dtype)
        assert float(operations.square_sum(x)) == pytest.approx(float(x.double().square().sum()), rel=1e-6)


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    x, gain, grad = random(500, 192), random(192, seed=1), random(500, 192, seed=2)
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        leaves = [x.clone().requires_grad_(), gain.clone().requires_grad_()]
        out = norms.residual_norm(leaves[0], None, leaves[1], EPS)[1]
        found.append([out.detach(), *torch.autograd.grad(out, leaves, grad), operations.square_sum(x)])
    torch.set_num_threads(before)
    for more in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], more, strict=True))


def step_of(dtype: torch.dtype, wanted: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Loss and gradients of a training step and the weights after its update, by the C++ or by PyTorch."""
    use_kernels(wanted)
    try:
        model = Transformer(TINY, dtype).train()
        model.init_weights()
        model.mode.routing = RoutingPolicy("drop", 1.0, 1)
        optimizer = adamw(model, weight_decay=0.1, betas=(0.9, 0.95), eps=1e-8, expert_ratio=0.31)
        assert type(optimizer).__name__ == ("MasterAdamW" if wanted else "AdamW")
        set_lr(optimizer, 1e-3)
        ids = torch.randint(TINY.vocab_size, (2, 65), generator=torch.Generator().manual_seed(0))
        features = model.features(ids[:, :-1])
        loss = cross_entropy_sum(features.x_BTD, model.head_weight, ids[:, 1:]) / 128
        balance = torch.stack([stats.balance_loss for stats in features.router]).mean()
        (loss + 0.01 * balance).backward()
        found = {name: gradient(weight).float().clone() for name, weight in model.named_parameters()}
        found |= {"loss": loss.detach(), "norm": clip(model, optimizer, 0.5)}
        optimizer.step()
        return found, {name: weight.detach().clone() for name, weight in model.named_parameters()}
    finally:
        use_kernels(True)


def test_a_step_in_float32_is_the_plain_one() -> None:
    (found, after), (expected, wanted) = step_of(torch.float32, True), step_of(torch.float32, False)
    for name, value in expected.items():
        assert (found[name] - value).norm() <= 2e-5 * value.norm(), name
    for name, value in wanted.items():
        torch.testing.assert_close(after[name], value, rtol=1e-4, atol=2e-5, msg=name)


def test_a_step_in_bfloat16_is_as_near_to_float32_as_the_plain_one() -> None:
    exact = step_of(torch.float32, False)[0]
    ours, plain = step_of(torch.bfloat16, True)[0], step_of(torch.bfloat16, False)[0]
    ours_off, plain_off = (
        sum(float((found[name] - exact[name]).square().sum()) for name in exact) ** 0.5 for found in (ours, plain)
    )
    assert ours_off <= 1.1 * plain_off


def test_experts_never_fill_a_gradient_of_all_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing as large as all experts is made in the backward pass but the gradient itself, once a weight."""
    experts = Experts(8, 16, 24)
    for weight in experts.parameters():
        weight.data.normal_()
    x = random(64, 16).requires_grad_()
    for run in (lambda: experts.looped(x, [8] * 8), lambda: experts.batched(x, [7, 8, 8, 8, 8, 8, 8, 8])):
        out = run().sum()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
            out.backward()
        shapes = [event.input_shapes for event in profile.events() if event.name in ("aten::zeros", "aten::zero_")]
        assert not [shape for shape in shapes if shape and shape[0] in ([8, 48, 16], [8, 16, 24])]


def test_what_is_no_plain_tensor_of_a_cpu_is_left_to_pytorch() -> None:
    assert native(torch.zeros(2))
    assert not native(torch.zeros(2, dtype=torch.float64))
    assert not native(torch.zeros(2, device="meta"))

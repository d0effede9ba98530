"""Every Triton kernel of training against the same in PyTorch; without a GPU through Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton", reason="Triton is not installed (it exists for Linux only)")

from kaiyuan.model import routing as routing_module  # noqa: E402
from kaiyuan.model.experts import Dispatch, experts_reference  # noqa: E402
from kaiyuan.model.kernels import adamw, cross_entropy, feed_forward, hashing, norm, rope_norm, rows, swiglu  # noqa: E402
from kaiyuan.model.norm import rms_norm_reference  # noqa: E402
from kaiyuan.model.rope import rotate  # noqa: E402
from kaiyuan.model.router import _RouterLogits, in_parts  # noqa: E402
from kaiyuan.model.routing import Routing, RoutingPolicy, route  # noqa: E402

EPS = 1e-5
SHORT = torch.bfloat16 if DEVICE == "cuda" else torch.float16
"""What half precision the interpreter can round to."""
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
DTYPES = [torch.float32, SHORT]


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator).to(DEVICE, dtype)


def compare(
    found: Callable[..., Tensor | tuple[Tensor, ...]],
    plain: Callable[..., Tensor | tuple[Tensor, ...]],
    *inputs: Tensor,
) -> None:
    """Outputs and all gradients under random upstream gradients; ``plain`` computes in float32."""
    dtype = inputs[0].dtype
    results = []
    for function, cast in ((found, lambda x: x), (plain, lambda x: x.float())):
        leaves = [cast(x).detach().clone().requires_grad_() for x in inputs]
        outputs = function(*leaves)
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        upstream = [random(*out.shape, seed=7).to(out.dtype) for out in outputs]
        results.append([*outputs, *torch.autograd.grad(outputs, leaves, upstream)])
    for one, other in zip(*results, strict=True):
        error = (one.float() - other.float()).norm() / other.float().norm().clamp(min=1e-6)
        assert one.isfinite().all()
        assert error < TOLERANCE[dtype], float(error)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [16, 50])
def test_the_norm_beside_a_residual_stream(size: int, dtype: torch.dtype) -> None:
    x, added, gain = random(3, 7, size, dtype=dtype), random(3, 7, size, dtype=dtype, seed=1), random(size)

    def plain(x: Tensor, added: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
        return x + added, rms_norm_reference(x + added, gain, EPS)

    compare(lambda x, added, gain: norm.residual_norm(x, added, gain, EPS), plain, x, added, gain)
    compare(lambda x, gain: norm.residual_norm(x, None, gain, EPS)[1], lambda x, gain: rms_norm_reference(x, gain, EPS),
            x, gain)  # fmt: skip


@pytest.mark.parametrize("uses", [2, 3])
def test_gradients_of_all_uses_of_a_norm_are_added_up(uses: int) -> None:
    x, added, gain = random(11, 20), random(11, 20, seed=1), random(20)
    weights = [random(20, 8, seed=use) for use in range(uses)]

    def plain(x: Tensor, added: Tensor, gain: Tensor) -> tuple[Tensor, ...]:
        normed = rms_norm_reference(x + added, gain, EPS)
        return x + added, *(normed @ weight for weight in weights)

    def found(x: Tensor, added: Tensor, gain: Tensor) -> tuple[Tensor, ...]:
        whole, *normed = norm.residual_norm(x, added, gain, EPS, uses)
        return whole, *(one @ weight for one, weight in zip(normed, weights, strict=True))

    compare(found, plain, x, added, gain)


def test_a_use_of_a_norm_without_a_gradient_adds_none() -> None:
    x, gain = random(4, 20), random(20)
    compare(lambda x, gain: norm.residual_norm(x, None, gain, EPS, 3)[2], lambda x, g: rms_norm_reference(x, g, EPS),
            x, gain)  # fmt: skip
    with pytest.raises(ValueError, match="4 uses of a norm"):
        norm.residual_norm(x, None, gain, EPS, 4)


def test_rows_of_a_norm_that_several_programs_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm, "PROGRAMS", 3)
    compare(lambda x, gain: norm.residual_norm(x, None, gain, EPS), lambda x, g: (x, rms_norm_reference(x, g, EPS)),
            random(11, 20), random(20))  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "head_dim"), [(1, 16), (2, 20)])
def test_rope_and_norm(batch: int, head_dim: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rope_norm, "PROGRAMS", 2)
    x, gain, angles = random(2, 70, 3, head_dim, dtype=dtype), random(head_dim), random(batch, 70, 1, head_dim // 2)
    cos, sin = angles.cos(), angles.sin()
    compare(lambda x, gain: rope_norm.rope_norm(x, cos, sin, gain, EPS),
            lambda x, gain: rms_norm_reference(rotate(x, cos, sin), None, EPS) * gain, x, gain)  # fmt: skip
    compare(lambda x: rope_norm.rope_norm(x, cos, sin, None, EPS),
            lambda x: rms_norm_reference(rotate(x, cos, sin), None, EPS), x)  # fmt: skip


def plain_swiglu(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate) * up


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [24, 40])
def test_swiglu(width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swiglu, "_block", lambda width: 16)
    compare(swiglu.swiglu, plain_swiglu, random(2, 5, 2 * width, dtype=dtype))


def routing(tokens: int, experts: int, top_k: int, policy: RoutingPolicy) -> Routing:
    probs = (random(tokens, experts, seed=3) + torch.linspace(2, -1, experts, device=DEVICE)).softmax(-1)
    return route(probs, top_k, policy)


CASES = {
    "dropless": (1, RoutingPolicy("dropless")),
    "recycled": (1, RoutingPolicy("recycle", 1.0, 1)),
    "dropped": (1, RoutingPolicy("drop", 0.7, 1)),
    "two experts, dropped": (2, RoutingPolicy("drop", 0.7, 1)),
}


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_experts_and_their_sum(case: str, recompute: bool) -> None:
    tokens, experts, size, width = 21, 4, 16, 24
    top_k, policy = CASES[case]
    found = routing(tokens, experts, top_k, policy)
    dtype = torch.float32 if DEVICE == "cpu" else torch.bfloat16
    inputs = [
        random(tokens, size, dtype=dtype), random(tokens, size, dtype=dtype, seed=5),
        random(tokens, size, dtype=dtype, seed=6),
        random(experts, 2 * width, size, dtype=dtype), random(experts, size, width, dtype=dtype), found.weight_N,
    ]  # fmt: skip
    places = Dispatch(found, experts, top_k).places()

    def plain(x: Tensor, base: Tensor, residual: Tensor, gate_up: Tensor, down: Tensor, weight_N: Tensor) -> Tensor:
        return residual + base + experts_reference(x, found._replace(weight_N=weight_N), top_k, gate_up, down)

    def by_kernels(x: Tensor, base: Tensor, residual: Tensor, *weights: Tensor) -> Tensor:
        return feed_forward.grouped(x, base, *weights, places, recompute, residual_TD=residual)  # type: ignore[misc]

    compare(by_kernels, plain, *inputs)


@pytest.mark.parametrize("recompute", [False, True])
def test_the_shared_expert(recompute: bool) -> None:
    compare(lambda x, a, b: feed_forward.dense(x, a, b, recompute), lambda x, a, b: plain_swiglu(x @ a.T) @ b.T,
            random(3, 5, 16), random(48, 16), random(16, 24))  # fmt: skip


def test_rows_are_gathered_and_combined() -> None:
    x, kept = random(5, 18), torch.tensor([6], dtype=torch.int32, device=DEVICE)
    token_N = torch.tensor([4, 0, 0, 3, 1, 2, 4, 1, 3, 2], device=DEVICE)
    sorted_ND = rows.gather(x, token_N, kept)
    assert torch.equal(sorted_ND[:6], x[token_N[:6]])
    sorted_ND[6:] = float("nan")
    place_N = torch.tensor([1, 2, 4, 7, 5, 9, 3, 8, 0, 6], device=DEVICE)
    expected = torch.stack([sorted_ND[[place for place in pair if place < 6]].sum(0)
                            for pair in place_N.view(-1, 2).tolist()])  # fmt: skip
    torch.testing.assert_close(rows.combine(sorted_ND, None, place_N, kept, 2), expected)
    torch.testing.assert_close(rows.combine(sorted_ND, x, place_N, kept, 2), expected + x)
    torch.testing.assert_close(rows.combine(sorted_ND, x, place_N, kept, 2, 3 * x), expected + 4 * x)
    torch.testing.assert_close(rows.combine(sorted_ND, None, place_N, kept, 2, x), expected + x)


def test_the_residual_stream_is_added_before_anything_is_rounded() -> None:
    row, base, residual = (random(9, 40, dtype=SHORT, seed=seed) for seed in range(3))
    kept, place_N = torch.tensor([9], dtype=torch.int32, device=DEVICE), torch.arange(9, device=DEVICE)
    found = rows.combine(row, base, place_N, kept, 1, residual)
    assert torch.equal(found, (base.float() + row.float() + residual.float()).to(SHORT))
    assert not torch.equal(found, residual + rows.combine(row, base, place_N, kept, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("words", [7, 5000])
def test_cross_entropy_of_a_block(words: int, dtype: torch.dtype) -> None:
    logits, weights = 3 * random(6, words, dtype=dtype), random(6, seed=2).abs()
    targets = torch.randint(words, (6,), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    wide = logits.float().requires_grad_()
    expected = F.cross_entropy(wide, targets, reduction="none") * weights
    expected.sum().backward()
    before = logits.clone()
    torch.testing.assert_close(cross_entropy.cross_entropy_(logits, targets, weights, grad=False), expected)
    assert torch.equal(logits, before)
    torch.testing.assert_close(cross_entropy.cross_entropy_(logits, targets, weights), expected)
    assert wide.grad is not None
    assert (logits.float() - wide.grad).norm() / wide.grad.norm() < TOLERANCE[dtype]


def test_router_logits_are_exact_from_bfloat16_products() -> None:
    x, weight = random(9, 32, dtype=torch.bfloat16).requires_grad_(), random(5, 32).requires_grad_()
    assert torch.equal(in_parts(weight.detach(), 3).float().unflatten(0, (3, -1)).sum(0), weight.detach())
    found, exact = _RouterLogits.apply(x, weight), F.linear(x.double(), weight.double())
    assert (found - exact).abs().max() < 2e-6 * exact.abs().max()
    upstream = random(9, 5, seed=4)
    grads = torch.autograd.grad(found, (x, weight), upstream)
    exact_grads = torch.autograd.grad(exact, (x, weight), upstream.double())
    for one, other, limit in zip(grads, exact_grads, (5e-3, 1e-4), strict=True):
        assert (one.double() - other.double()).norm() / other.double().norm() < limit


@pytest.mark.parametrize("seed", [0, 1, 7, 2**62 - 1])
def test_hashes_of_routing_are_the_same_bits(seed: int) -> None:
    probs = random(70, 5).softmax(-1)
    expected = routing_module._token_hash(probs.cpu(), seed)
    assert torch.equal(hashing.hash_tokens(probs, seed).cpu(), expected)
    assert len(expected.unique()) == 70
    in_memory = torch.tensor([3, seed], device=DEVICE)[1]
    assert torch.equal(hashing.hash_tokens(probs, in_memory).cpu(), expected)
    for given in (seed, in_memory):
        found = hashing.random_bits(2000, given, DEVICE)
        assert torch.equal(found.cpu(), routing_module.random_bits(2000, seed, "cpu"))


@pytest.mark.parametrize("short", [False, True])
def test_adamw_over_masters_is_torchs(short: bool) -> None:
    """Three updates with clipped gradients, against ``torch.optim.AdamW`` on gradients scaled by hand."""
    weight = random(3, 1500).requires_grad_()
    optimizer = torch.optim.AdamW([weight], lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    master, mean, square = weight.detach().clone(), torch.zeros_like(weight), torch.zeros_like(weight)
    copy = torch.empty_like(master, dtype=SHORT) if short else None
    factor = torch.tensor(0.37, device=DEVICE)
    for step in range(1, 4):
        grad = random(3, 1500, seed=step, dtype=SHORT if short else torch.float32)
        weight.grad = grad.float() * factor
        optimizer.step()
        adamw.update(master, grad, mean, square, copy, factor, step=step, lr=0.01, betas=(0.9, 0.95), eps=1e-8,
                            weight_decay=0.1)  # fmt: skip
    torch.testing.assert_close(master, weight.detach(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(mean, optimizer.state[weight]["exp_avg"], rtol=1e-6, atol=1e-7)
    if copy is not None:
        assert torch.equal(copy, master.to(SHORT))


def test_adamw_rounds_its_moments_where_they_are_short() -> None:
    """Each step as torch's from the same state: short moments hold what it leaves, rounded."""
    weight, moments = random(1000), [torch.zeros(1000, dtype=SHORT, device=DEVICE) for _ in range(2)]
    one = torch.ones((), device=DEVICE)
    for step in range(1, 4):
        grad, before = random(1000, seed=step), [weight.clone(), *(moment.float() for moment in moments)]
        adamw.update(weight, grad, *moments, None, one, step=step, lr=0.01, betas=(0.9, 0.95), eps=1e-6,
                            weight_decay=0.1)  # fmt: skip
        adamw.update(before[0], grad, before[1], before[2], None, one, step=step, lr=0.01, betas=(0.9, 0.95),
                            eps=1e-6, weight_decay=0.1)  # fmt: skip
        torch.testing.assert_close(weight, before[0], rtol=1e-6, atol=1e-7)
        for short, wide in zip(moments, before[1:], strict=True):
            assert torch.equal(short, wide.to(SHORT))

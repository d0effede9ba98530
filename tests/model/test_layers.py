"""Fast paths against slow, obvious ones: experts, attention, norms, RoPE, losses. Values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kaiyuan import ModelConfig
from kaiyuan.model.attention import document_mask, document_positions
from kaiyuan.model.causal_attention import causal_attention
from kaiyuan.model.experts import Dispatch, Experts, experts_reference, swiglu
from kaiyuan.model.loss import cross_entropy_sum, target_log_probs
from kaiyuan.model.norm import RMSNorm, rms_norm_reference, rope_norm
from kaiyuan.model.rope import rope_frequencies, rope_tables, rotate
from kaiyuan.model.routing import DROPLESS, RoutingPolicy, route
from kaiyuan.model.transformer import Transformer


def compare(
    fast: Callable[..., Tensor], slow: Callable[..., Tensor], inputs: list[Tensor], tolerance: float = 1e-5
) -> None:
    """Equal values, and equal gradients for every input under the same random upstream gradient."""
    found, expected = fast(*inputs), slow(*inputs)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(9))
    for one, other in zip(
        torch.autograd.grad(found, inputs, upstream), torch.autograd.grad(expected, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=10 * tolerance, atol=10 * tolerance)


def leaf(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale).requires_grad_()


@pytest.mark.parametrize(
    ("top_k", "policy"),
    [(1, DROPLESS), (2, DROPLESS), (1, RoutingPolicy("drop", 0.6, 1)), (1, RoutingPolicy("recycle", 1.0, 1))],
)
def test_experts_equal_one_assignment_at_a_time(top_k: int, policy: RoutingPolicy) -> None:
    layer = Experts(5, 12, 16)
    probs = (torch.randn(40, 5, generator=torch.Generator().manual_seed(3)) - torch.tensor([0, 0, 0, 1, 99.0])).softmax(
        -1
    )
    routing = route(probs, top_k, policy, seed=1)
    assert 4 not in routing.expert_N.tolist() or policy.mode == "recycle", "one expert is to have no tokens"

    def fast(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"gate_up": gate_up, "down": down}, (x, Dispatch(routing, 5, top_k)))

    def slow(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        rows = [torch.zeros(12)] * 40
        for place, expert in enumerate(routing.expert_N.tolist()):
            if expert < 5:
                gate, up = (gate_up[expert] @ x[place // top_k]).chunk(2)
                out = routing.weight_N[place] * (down[expert] @ (F.silu(gate) * up))
                rows[place // top_k] = rows[place // top_k] + out
        return torch.stack(rows)

    inputs = [leaf(40, 12), leaf(5, 32, 12, seed=1, scale=0.3), leaf(5, 12, 16, seed=2, scale=0.3)]
    compare(fast, slow, inputs)
    with torch.no_grad():
        reference = experts_reference(inputs[0], routing, top_k, inputs[1], inputs[2])
        torch.testing.assert_close(fast(*inputs), reference, rtol=1e-5, atol=1e-5)


def test_grouped_products_equal_the_loop() -> None:
    layer = Experts(4, 32, 48)
    torch.manual_seed(0)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, 0, 0.2)
    probs = torch.randn(64, 4).softmax(-1)
    for policy in (DROPLESS, RoutingPolicy("drop", 0.7, 1)):
        dispatch = Dispatch(route(probs, 1, policy), 4, 1)
        x = torch.randn(64, 32, dtype=torch.bfloat16)
        loop = layer(x, dispatch).float()
        rows = layer.grouped(x[dispatch.token_N], dispatch) * dispatch.weight_N[:, None].bfloat16()
        grouped = torch.zeros_like(x).index_add(0, dispatch.token_N, rows).float()
        assert (loop - grouped).norm() / loop.norm() < 0.01


def test_swiglu() -> None:
    def slow(gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate) * up

    compare(swiglu, slow, [leaf(7, 3, 20)])


@pytest.mark.parametrize("length", [1, 2, 127, 128, 129, 300])
def test_causal_attention(length: int) -> None:
    def slow(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    compare(
        causal_attention, slow, [leaf(2, 6, length, 8), leaf(2, 2, length, 8, seed=1), leaf(2, 2, length, 8, seed=2)]
    )


def test_norms() -> None:
    weight, x = leaf(24, seed=1), leaf(5, 7, 24)
    layer = RMSNorm(24, 1e-5)

    def fast(x: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight}, (x,))

    compare(fast, lambda x, weight: rms_norm_reference(x, weight, 1e-5), [x, weight])
    compare(fast, lambda x, weight: F.rms_norm(x, (24,), weight, 1e-5), [x, weight])


def test_rope_then_norm() -> None:
    cos, sin = rope_tables(torch.arange(9)[None], 10_000.0 ** -(torch.arange(0, 16, 2) / 16))

    def slow(x: Tensor, gain: Tensor) -> Tensor:
        return rms_norm_reference(rotate(x, cos, sin), gain, 1e-5)

    compare(lambda x, gain: rope_norm(x, cos, sin, gain, 1e-5), slow, [leaf(2, 9, 3, 16), leaf(16, seed=1)])


def test_rope_frequencies_of_the_release() -> None:
    large = ModelConfig.preset("hunyuan-large")
    assert large.rope_base == pytest.approx(1.343e9, rel=1e-3)
    assert ModelConfig.preset("hunyuan-large-instruct").rope_base == pytest.approx(1.194e7, rel=1e-3)
    expected = large.rope_base ** -(torch.arange(0, 80, 2, dtype=torch.float64) / 80)
    torch.testing.assert_close(rope_frequencies(large).double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("rows", [1, 3, 7, 64])
def test_cross_entropy_without_logits(rows: int) -> None:
    targets = torch.randint(50, (3, 7), generator=torch.Generator().manual_seed(4))
    weights = torch.rand(3, 7, generator=torch.Generator().manual_seed(5))

    def slow(x: Tensor, head: Tensor) -> Tensor:
        losses = F.cross_entropy((x @ head.t()).flatten(0, 1), targets.flatten(), reduction="none")
        return (losses * weights.flatten()).sum()

    inputs = [leaf(3, 7, 12), leaf(50, 12, seed=1)]
    compare(lambda x, head: cross_entropy_sum(x, head, targets, weights, rows), slow, inputs)
    compare(
        lambda x, head: target_log_probs(x, head, targets, rows),
        lambda x, head: (x @ head.t()).log_softmax(-1).gather(-1, targets[..., None])[..., 0],
        inputs,
    )


def test_documents_of_a_row() -> None:
    documents = torch.tensor([[0, 0, 1, 1, 1, 2]])
    assert document_positions(documents).tolist() == [[0, 1, 0, 1, 2, 0]]
    expected = [[documents[0, i] == documents[0, j] and j <= i for j in range(6)] for i in range(6)]
    assert document_mask(documents)[0, 0].tolist() == [[bool(cell) for cell in row] for row in expected]


def test_weights_depend_on_name_and_seed_alone() -> None:
    small = ModelConfig.preset("1m", vocab_size=64, num_layers=2)
    one, other = Transformer(small), Transformer(small.replace(num_layers=4))
    one.init_weights(5)
    other.init_weights(5)
    assert torch.equal(one.embed.weight, other.embed.weight)
    assert torch.equal(one.layers[1].moe.router.weight, other.layers[1].moe.router.weight)
    other.init_weights(6)
    assert not torch.equal(one.embed.weight, other.embed.weight)


def test_inference_is_dropless() -> None:
    model = Transformer(ModelConfig.preset("1m", vocab_size=64, num_layers=2, init_std=0.3))
    model.init_weights()
    model.mode.routing = RoutingPolicy("drop", 0.2, 1)
    ids = torch.randint(64, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        dropping = model.train()(ids)
        answer = model.eval()(ids)
        model.mode.routing = DROPLESS
        dropless = model.train()(ids)
    torch.testing.assert_close(answer, dropless, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(dropping, dropless, atol=1e-2)

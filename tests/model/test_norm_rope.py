"""RMSNorm and RoPE against transformers', and where numbers are extreme."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kaiyuan.model.config import ModelConfig
from kaiyuan.model.norm import RMSNorm, _inverse_rms, rms_norm_reference, rope_norm
from kaiyuan.model.rope import rope_frequencies, rope_tables, rotate

LARGE = ModelConfig.preset("hunyuan-large")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("alpha", [None, 1000.0, 100_000.0])
def test_rope_equals_transformers(alpha: float | None) -> None:
    """HunYuanMoEV1's rotary embedding at positions up to 256K: angles, and what they do to queries."""
    modeling = pytest.importorskip("transformers.models.hunyuan_v1_moe.modeling_hunyuan_v1_moe")
    transformers = pytest.importorskip("transformers")
    rope = {"rope_type": "default", "rope_theta": 10_000.0}
    if alpha is not None:
        rope = {"rope_type": "dynamic", "rope_theta": 10_000.0, "alpha": alpha, "factor": 1.0}
    theirs = modeling.HunYuanMoEV1RotaryEmbedding(
        transformers.HunYuanMoEV1Config(
            hidden_size=160, num_attention_heads=2, head_dim=80, max_position_embeddings=262_144, rope_parameters=rope
        )
    )
    ours = rope_frequencies(LARGE.replace(rope_alpha=alpha))
    torch.testing.assert_close(ours, theirs.inv_freq, rtol=1e-5, atol=0)
    if alpha == 100_000.0:
        assert float(ours[-1]) ** (-80 / 78) == pytest.approx(1.343e9, rel=1e-3)
    positions = torch.tensor([[0, 1, 2, 17, 1000, 4095]])
    x = random(1, 6, 3, 80)
    cos, sin = theirs(x, positions)
    expected, _ = modeling.apply_rotary_pos_emb(x.transpose(1, 2), x.transpose(1, 2), cos, sin)
    torch.testing.assert_close(rotate(x, *rope_tables(positions, ours)), expected.transpose(1, 2), rtol=1e-3, atol=1e-3)


def test_rotation_is_undone_by_its_inverse_and_scores_depend_on_distance_alone() -> None:
    frequencies = rope_frequencies(LARGE)
    positions = torch.tensor([[3, 10, 1003, 1010]])
    cos, sin = rope_tables(positions, frequencies)
    q, k = (random(1, 1, 2, 80, seed=seed).expand(1, 4, 2, 80) for seed in (1, 2))
    torch.testing.assert_close(rotate(rotate(q, cos, sin), cos, -sin), q, rtol=1e-5, atol=1e-5)
    scores = rotate(q, cos, sin)[0].transpose(0, 1) @ rotate(k, cos, sin)[0].permute(1, 2, 0)
    torch.testing.assert_close(scores[:, 0, 1], scores[:, 2, 3], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(scores[:, 0, 1], scores[:, 0, 2], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e-2, 1.0, 1e6])
def test_rms_norm_from_tiny_to_huge_numbers(scale: float) -> None:
    """Against autograd of the composed form, which float64 keeps exact."""
    x, weight, upstream = random(5, 24) * scale, random(24, seed=1), random(5, 24, seed=2)
    layer = RMSNorm(24, 1e-5)
    with torch.no_grad():
        layer.weight.copy_(weight)
    ours = x.clone().requires_grad_()
    found = layer(ours)
    gradients = torch.autograd.grad(found, [ours, layer.weight], upstream)
    exact, gain = x.double().requires_grad_(), weight.double().requires_grad_()
    expected = exact / (exact.square().mean(-1, keepdim=True) + 1e-5).sqrt() * gain
    for one, other in zip(
        (found, *gradients), (expected, *torch.autograd.grad(expected, [exact, gain], upstream.double())), strict=True
    ):
        torch.testing.assert_close(
            one.double(), other, rtol=1e-4, atol=1e-5 * max(1.0, float(other.detach().abs().max()))
        )


def test_statistics_are_float32_whatever_the_activations_are() -> None:
    x = random(3, 4096).bfloat16()
    found = _inverse_rms(x, 1e-5)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.double(), (x.double().square().mean(-1, keepdim=True) + 1e-5).rsqrt(), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("gain", [True, False])
def test_bfloat16_is_within_its_precision_of_the_reference(gain: bool) -> None:
    x = random(4, 6, 2, 80).requires_grad_()
    weight = random(80, seed=1).requires_grad_() if gain else None
    cos, sin = rope_tables(torch.arange(6)[None].expand(4, -1), rope_frequencies(LARGE))
    rounded, upstream = x.detach().bfloat16().requires_grad_(), random(4, 6, 2, 80, seed=2)
    found = rope_norm(rounded, cos, sin, weight, 1e-5)
    expected = rms_norm_reference(rotate(x, cos, sin), weight, 1e-5)
    leaves = [] if weight is None else [weight]
    pairs = zip(
        (found.detach(), *torch.autograd.grad(found, [rounded, *leaves], upstream.bfloat16())),
        (expected.detach(), *torch.autograd.grad(expected, [x, *leaves], upstream)),
        strict=True,
    )
    for one, other in pairs:
        assert float((one.float() - other).norm() / other.norm()) < 0.01
    assert found.dtype == torch.bfloat16


def test_rope_norm_without_a_gain_passes_gradients_of_the_composed_form() -> None:
    x = random(2, 7, 3, 16).requires_grad_()
    cos, sin = rope_tables(torch.arange(7)[None], 10_000.0 ** -(torch.arange(0, 16, 2) / 16))
    upstream = random(2, 7, 3, 16, seed=1)
    found = torch.autograd.grad(rope_norm(x, cos, sin, None, 1e-5), x, upstream)
    expected = torch.autograd.grad(rms_norm_reference(rotate(x, cos, sin), None, 1e-5), x, upstream)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

"""What inference computes with: experts without rows left out, weights laid out for the CPU's kernels."""

from __future__ import annotations

import pytest
import torch
from tiny_models import TINY, build

from kaiyuan.model.experts import Dispatch, Experts, experts_reference
from kaiyuan.model.norm import RMSNorm, rms_norm_reference, rope_norm
from kaiyuan.model.packed import can_pack, pack_model
from kaiyuan.model.rope import rotate
from kaiyuan.model.routing import RoutingPolicy, route

IDS = torch.randint(48, (2, 19), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tokens", [1, 3, 40])
@pytest.mark.parametrize("mode", ["dropless", "drop"])
def test_experts_without_gradients_equal_the_reference(tokens: int, mode: str) -> None:
    generator = torch.Generator().manual_seed(tokens)
    experts = Experts(5, 16, 24)
    for parameter in experts.parameters():
        parameter.data.normal_(generator=generator)
    x = torch.randn(tokens, 16, generator=generator)
    probs = torch.rand(tokens, 5, generator=generator).softmax(-1)
    routing = route(probs, 1, RoutingPolicy(mode, 1.0, min_capacity=1))  # type: ignore[arg-type]
    expected = experts_reference(x, routing, 1, experts.gate_up, experts.down)
    with torch.no_grad():
        found = experts(x, Dispatch(routing, 5, 1))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_norms_without_gradients_equal_the_reference() -> None:
    norm, generator = RMSNorm(32, 1e-5), torch.Generator().manual_seed(1)
    norm.weight.data.normal_(generator=generator)
    x = torch.randn(2, 3, 4, 32, generator=generator)
    cos, sin = torch.rand(1, 3, 1, 16, generator=generator), torch.rand(1, 3, 1, 16, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(norm(x), rms_norm_reference(x, norm.weight, 1e-5))
        expected = rotate(rms_norm_reference(x, None, 1e-5), cos, sin) * norm.weight
        torch.testing.assert_close(rope_norm(x, cos, sin, norm.weight, 1e-5), expected)


def test_a_packed_model_gives_the_same_logits() -> None:
    model = build(TINY).to(torch.bfloat16)
    if not can_pack(model):
        pytest.skip("this machine has no bfloat16 products in oneDNN")
    size = sum(parameter.numel() for parameter in model.parameters())
    with torch.no_grad():
        expected = model(IDS)
        packed = pack_model(model)
        left = sum(parameter.numel() for parameter in packed.parameters())
        assert left < 0.1 * size, "the weights are not kept twice"
        found = packed(IDS)
    assert float((found - expected).norm() / expected.norm()) < 0.02
    assert not can_pack(build(TINY)), "float32 stays as it is"

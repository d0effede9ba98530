"""Bytes: against what PyTorch really keeps, and against searching by hand."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kaiyuan.model import attention, experts
from kaiyuan.model.config import ModelConfig
from kaiyuan.model.transformer import Transformer
from kaiyuan.scaling.memory import (
    GIB,
    activation_bytes,
    inference_memory,
    least_gpus,
    recomputed_bytes,
    training_memory,
)
from kaiyuan.training.optimizer import adamw, set_lr

close = pytest.approx
LARGE = ModelConfig.preset("hunyuan-large")
SMALL = ModelConfig(
    vocab_size=512, hidden_size=128, num_layers=4, num_attention_heads=8, num_kv_heads=2, head_dim=16,
    intermediate_size=256,
)  # fmt: skip
TOKENS = 331


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the paths that a GPU takes: fused attention and the grouped GEMM."""

    def attend(q: Tensor, shared: attention.KeyValue, mask: Tensor | None, dropout: float = 0.0) -> Tensor:
        return F.scaled_dot_product_attention(q, *shared, is_causal=True, enable_gqa=True)

    def forward(self: experts.Experts, x_TD: Tensor, dispatch: experts.Dispatch) -> Tensor:
        out_ND = self.grouped(x_TD[dispatch.token_N], dispatch)
        weighted_ND = out_ND * dispatch.weight_N[:, None].to(out_ND.dtype)
        return torch.zeros_like(x_TD).index_add(0, dispatch.token_N, weighted_ND)

    monkeypatch.setattr(attention, "attend", attend)
    monkeypatch.setattr(experts.Experts, "forward", forward)


def kept(config: ModelConfig) -> tuple[int, int]:
    """Bytes that autograd keeps between a forward and a backward pass of one sequence: (casts of weights, the rest)."""
    torch.manual_seed(0)
    model = Transformer(config, compute_dtype=torch.bfloat16)
    model.init_weights()
    model.train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    shapes = {tuple(sorted(parameter.shape)) for parameter in model.parameters() if parameter.dim() > 1}
    found: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        features = model.features(torch.randint(0, config.vocab_size, (1, TOKENS)))
    assert features.x_BTD.requires_grad
    casts = [tensor for tensor in found.values() if tuple(sorted(tensor.shape)) in shapes]
    rest = [tensor for tensor in found.values() if tuple(sorted(tensor.shape)) not in shapes]
    return tuple(sum(tensor.untyped_storage().nbytes() for tensor in group) for group in (casts, rest))  # type: ignore


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        ModelConfig.preset("10m", vocab_size=512, num_layers=4),
        ModelConfig.preset("100m", vocab_size=512, num_layers=2, num_experts=4),
        SMALL.replace(top_k=2, num_shared_experts=2, moe_intermediate_size=320, cla_share_factor=1),
    ],
    ids=["small", "10m", "100m", "two of many experts"],
)
def test_activations_are_what_autograd_keeps(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The formula leaves out what is one number a head or an expert: 10% of the smallest models, less of larger."""
    as_on_a_gpu(monkeypatch)
    casts, rest = kept(config)
    count = config.parameters()
    assert casts == 2 * (count.attention + count.shared + count.experts)
    assert 1.0 < rest / TOKENS / activation_bytes(config) < (1.10 if config.hidden_size == 128 else 1.07)


def test_the_state_is_what_the_trainer_keeps() -> None:
    model = Transformer(SMALL)
    model.init_weights()
    optimizer = adamw(model, weight_decay=0.1, betas=(0.9, 0.95), eps=1e-8, expert_ratio=0.31)
    set_lr(optimizer, 1e-3)
    model(torch.zeros(1, 8, dtype=torch.int64)).sum().backward()
    optimizer.step()
    states = optimizer.state.values()
    memory = training_memory(SMALL, 1, 8)
    assert memory.parameters == sum(parameter.nbytes for parameter in model.parameters())
    assert memory.gradients == sum(
        parameter.grad.nbytes for parameter in model.parameters() if parameter.grad is not None
    )
    assert memory.moments == sum(value.nbytes for state in states for value in state.values() if value.dim())
    assert memory.state == 18 * SMALL.parameters().total


def test_hunyuan_large_sharded() -> None:
    one, many = (training_memory(LARGE, gpus, 4096) for gpus in (1, 1024))
    assert one.state == 18 * LARGE.parameters().total == close(7.0e12, rel=0.001)
    assert one.gathered == 0 and one.activations == many.activations
    assert many.state == close(one.state / 1024)
    expert = 3 * 6400 * 18304
    assert many.gathered == 2 * (17 * expert + 6400 * (2 * 6400 + 2 * 640))
    assert many.total == many.state + many.gathered + many.activations


def test_activations_by_hand() -> None:
    """6 D + 3 Q + 3 G (half the layers) + 3 S + 2 D + 3 F, two bytes each."""
    layer = 8 * 6400 + 3 * 6400 + 1.5 * 640 + 6 * 18304
    assert activation_bytes(LARGE) == 2 * (64 * layer + 2 * 6400)
    assert recomputed_bytes(LARGE) == 2 * (66 * 6400 + layer + 1.5 * 640)
    assert recomputed_bytes(SMALL) < activation_bytes(SMALL)


@pytest.mark.parametrize("name", ["10m", "1b", "hunyuan-a13b", "hunyuan-large"])
@pytest.mark.parametrize("gib", [2, 24, 80, 141])
@pytest.mark.parametrize("context", [512, 32_768])
@pytest.mark.parametrize("recompute", [False, True])
def test_one_gpu_less_than_the_least_is_too_few(name: str, gib: int, context: int, recompute: bool) -> None:
    config = ModelConfig.preset(name)

    def fits(gpus: int) -> bool:
        memory = training_memory(config, gpus, context)
        return (memory.total_recomputing if recompute else memory.total) <= gib * GIB

    fewest = least_gpus(config, gib * GIB, context, recompute=recompute)
    if fewest is None:
        assert not fits(1) and not fits(10**9)
    else:
        assert fits(fewest) and (fewest == 1 or not fits(fewest - 1))


def test_weights_at_inference() -> None:
    bf16, int8, fp8 = inference_memory(LARGE)
    count = LARGE.parameters()
    assert bf16.weights == 2 * count.total + 2 * count.router
    assert bf16.weights - int8.weights == count.attention + count.shared + count.experts
    assert int8.weights == fp8.weights == close(count.total, rel=0.01)
    assert (bf16.kv_per_token, int8.kv_per_token, fp8.kv_per_token) == (81_920, 81_920, 40_960)


def test_gpus_and_sequences_at_inference() -> None:
    form = dataclasses.replace(inference_memory(LARGE)[0], weights=100, kv_per_token=2)
    assert [form.gpus(50, context) for context in (1, 25, 26)] == [3, 3, 4]
    assert [form.sequences(gpus, 50, 20) for gpus in (1, 2, 3, 4)] == [0, 0, 1, 2]

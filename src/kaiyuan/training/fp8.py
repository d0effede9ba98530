"""Where training can multiply in fp8."""

from __future__ import annotations

import torch

from kaiyuan.errors import KaiyuanError
from kaiyuan.model.config import ModelConfig
from kaiyuan.model.fused import on_gpu
from kaiyuan.model.transformer import Transformer

_GENERATIONS = (9, 10)
"""Hopper, and Blackwell's data-centre GPUs (not measured): tensor cores for e4m3, on which PyTorch's ``_scaled_mm`` has
the dense products (scales for each row) and our kernel those of groups of rows, whose tiles need more shared memory
than others have.
"""


def check_fp8(model: Transformer, alone: bool) -> None:
    """Raises ``KaiyuanError`` with the reason if ``model`` cannot be trained in fp8 here."""
    if reason := _reason_against(model, alone):
        raise KaiyuanError(f"fp8 = true: {reason}; leave it out to train in bfloat16")


def _reason_against(model: Transformer, alone: bool) -> str | None:
    if not alone:
        return "it trains in one process so far"
    weight = model.embed.weight
    if not weight.is_cuda or torch.cuda.get_device_capability(weight.device)[0] not in _GENERATIONS:
        return "it needs a data-centre GPU of Hopper's generation or Blackwell's"
    if not on_gpu(weight):
        return "it needs Triton, and kernels turned on"
    if model.compute_dtype != torch.bfloat16:
        return f"it needs bfloat16 as the compute dtype, not {model.compute_dtype}"
    return _odd_size(model.config)


def _odd_size(config: ModelConfig) -> str | None:
    """Products in fp8 want sizes that 16 divides."""
    sizes = {
        "hidden_size": config.hidden_size,
        "num_attention_heads x head_dim": config.num_attention_heads * config.head_dim,
        "num_kv_heads x head_dim": config.num_kv_heads * config.head_dim,
    }
    for layer in config.layers():
        sizes |= {"the shared expert's width": layer.shared_size, "an expert's width": layer.expert_size}
    return next((f"{name} is {size}, which 16 does not divide" for name, size in sizes.items() if size % 16), None)

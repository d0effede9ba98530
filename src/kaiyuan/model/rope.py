"""Rotary position embedding in the rotate-half form, with the NTK-alpha base of the Hunyuan models.

Shapes: B batch, T tokens, H heads, d head dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kaiyuan.model.config import ModelConfig


def rope_frequencies(config: ModelConfig, device: torch.device | str = "cpu") -> Tensor:
    """Angles per position, float32 (d/2,): ``base ** (-2i/d)`` with ``base = theta * alpha ** (d/(d-2))``.

    Computed in float64: at base 1e9 and 256K positions, float32 powers already cost visible accuracy.
    """
    exponents = torch.arange(0, config.head_dim, 2, device=device, dtype=torch.float64) / config.head_dim
    return (config.rope_base**-exponents).float()


def rope_tables(positions_BT: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of every angle, float32 (B, T, 1, d/2): broadcast over heads."""
    angles = positions_BT[:, :, None, None].float() * frequencies
    return angles.cos(), angles.sin()


def rotate(x_BTHd: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (i, i + d/2) of every head by its angle; the inverse is ``rotate(x, cos, -sin)``."""
    first, second = x_BTHd.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

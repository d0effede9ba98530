"""Model FLOPs utilisation: the share of a GPU's arithmetic that a model's own operations fill."""

from __future__ import annotations

import torch

from kaiyuan.model.config import ModelConfig

DENSE_BF16 = (
    ("H100 PCIe", 756e12), ("H100", 989e12), ("H200", 989e12), ("H800", 989e12), ("GH200", 989e12), ("H20", 148e12),
    ("B200", 2250e12), ("B100", 1750e12), ("A100", 312e12), ("A800", 312e12), ("L40S", 362e12), ("L40", 181e12),
    ("4090", 165e12), ("A10", 125e12), ("3090", 71e12),
)  # fmt: skip
"""FLOP/s of dense bfloat16 products by the makers' data sheets; the first name that a device's holds counts."""


def peak_flops(device: torch.device) -> float | None:
    """What ``device`` could do at most, FLOP/s in bfloat16; None if it is not a GPU we know."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for part, flops in DENSE_BF16 if part in name), None)


def mfu(config: ModelConfig, context: int, tokens_per_second: float, device: torch.device) -> float | None:
    """Share of the peak that training at this rate uses: products counted once, attention causal over ``context``."""
    peak = peak_flops(device)
    return None if peak is None else tokens_per_second * config.flops(context).training / peak

"""Model FLOPs utilisation: the share of a device's arithmetic that a model's own operations fill.

Of a GPU the peak is what its maker states; of a CPU, whose makers state none, what one large product reaches here.
"""

from __future__ import annotations

import functools
import time

import torch

from kaiyuan.model.config import ModelConfig

DENSE_BF16 = (
    ("H100 PCIe", 756e12), ("H100", 989e12), ("H200", 989e12), ("H800", 989e12), ("GH200", 989e12), ("H20", 148e12),
    ("B200", 2250e12), ("B100", 1750e12), ("A100", 312e12), ("A800", 312e12), ("L40S", 362e12), ("L40", 181e12),
    ("4090", 165e12), ("A10", 125e12), ("3090", 71e12),
)  # fmt: skip
"""FLOP/s of dense bfloat16 products by the makers' data sheets; the first name that a device's holds counts."""


def peak_flops(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> float | None:
    """What ``device`` could do at most, FLOP/s: of a GPU in bfloat16, None if we do not know it; of a CPU in
    ``dtype``.
    """
    if device.type == "cpu":
        return measured_peak(dtype, torch.get_num_threads())
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for part, flops in DENSE_BF16 if part in name), None)


@functools.cache
def measured_peak(dtype: torch.dtype, threads: int, size: int = 1024, seconds: float = 0.2) -> float:
    """FLOP/s of the quickest of several products of ``size`` cubed on this CPU; takes about ``seconds``, once."""
    left, right, out = (torch.ones(size, size, dtype=dtype) for _ in range(3))
    end, best = time.perf_counter() + seconds, float("inf")
    while best == float("inf") or time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def mfu(
    config: ModelConfig, context: int, tokens_per_second: float, device: torch.device,
    dtype: torch.dtype = torch.bfloat16,
) -> float | None:  # fmt: skip
    """Share of the peak that training at this rate uses: products counted once, attention causal over ``context``."""
    peak = peak_flops(device, dtype)
    return None if peak is None else tokens_per_second * config.flops(context).training / peak

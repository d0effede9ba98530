"""Devices by name."""

from __future__ import annotations

import torch

from kaiyuan.errors import ConfigError


def usable_device(setting: str, name: str | torch.device) -> torch.device:
    """The device that ``setting`` names; a ``ConfigError`` if this machine or this build of PyTorch has none such."""
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"{setting} {str(name)!r}: cannot be used: {str(error).splitlines()[0]}") from None


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are at least as quick there as in float32.

    A CPU without instructions for them (AVX2 alone, as most laptops) takes a hundred times as long; the libraries'
    own question is the one that counts (oneDNN's, CUDA's).
    """
    if device.type == "cpu":
        return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)

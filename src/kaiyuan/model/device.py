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

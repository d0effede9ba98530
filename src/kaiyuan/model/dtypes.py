"""The names that commands and settings use for number formats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch

from kaiyuan.errors import KaiyuanError

COMPUTE = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What a model can compute in."""
FP8_MAX = 448.0
"""Largest number of float8 e4m3."""

_Value = TypeVar("_Value")


def choose(setting: str, name: str, choices: Mapping[str, _Value]) -> _Value:
    """What ``name`` stands for, or a ``KaiyuanError`` that says what ``setting`` may be."""
    if name not in choices:
        raise KaiyuanError(f"{setting} {name!r}: there are {', '.join(choices)}")
    return choices[name]


def compute_dtype(name: str) -> torch.dtype:
    """The dtype that ``--dtype`` names."""
    return choose("dtype", name, COMPUTE)

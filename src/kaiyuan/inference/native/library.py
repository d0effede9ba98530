"""The C++ library of a step of inference, built the first time it is needed (``kaiyuan.native.build``)."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

from kaiyuan.inference.native import structs
from kaiyuan.native.build import Unavailable, build

__all__ = ["Unavailable", "available", "library"]

_SOURCE = Path(__file__).parent / "source" / "step.cpp"


@functools.cache
def library(flags: tuple[str, ...] = ("-march=native",)) -> ctypes.CDLL:
    """The loaded library. Raises ``Unavailable``."""
    loaded = build(_SOURCE, flags, openmp=True)
    structs.declare(loaded)
    return loaded


def available() -> bool:
    """Whether there is a library; builds it if need be."""
    try:
        library()
    except Unavailable:
        return False
    return True

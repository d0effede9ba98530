"""Numbers for people."""

from __future__ import annotations

import math

from kaiyuan.progress import duration, quantity

__all__ = ["binary", "byte_count", "decimal", "duration", "integer", "interval", "percent", "quantity", "signed"]

MISSING = "–"


def integer(value: float | None) -> str:
    """``12,345``"""
    return MISSING if value is None else f"{round(value):,}"


def decimal(value: float | None, digits: int = 2) -> str:
    """``1.23``"""
    return MISSING if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def percent(share: float | None, digits: int = 0) -> str:
    """``42%`` for a share of 0.42."""
    return MISSING if share is None or not math.isfinite(share) else f"{100 * share:.{digits}f}%"


def interval(low: float, high: float) -> str:
    """``37–48`` for shares of 0.37 and 0.48, in percent."""
    return f"{100 * low:.0f}–{100 * high:.0f}"


def signed(value: float) -> str:
    """``−1.5K``: a value of an axis."""
    return quantity(value).replace("-", "−")


def binary(size: float) -> str:
    """``1.5 MiB``: memory."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size >= 1024**power:
            scaled = size / 1024**power
            return f"{scaled:.0f} {unit}" if scaled >= 100 or scaled == int(scaled) else f"{scaled:.3g} {unit}"
    return f"{size:.0f} B"


def byte_count(size: float) -> str:
    """``1.23 MB``: text."""
    short = quantity(size)
    return f"{short[:-1]} {short[-1]}B" if short[-1].isalpha() else f"{short} B"

"""From values to places: axes with round ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_MANTISSAS = ((1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9), (1, 2, 3, 4, 6, 8), (1, 2, 5), (1, 3), (1,))
_MOST_TICKS = 7


@dataclass(frozen=True)
class Axis:
    """A range of values with ticks. ``place`` gives 0 at ``low`` and 1 at ``high``."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def place(self, value: float) -> float:
        if self.log:
            return math.log(max(value, 1e-300) / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def axis(values: Iterable[float], *, zero: bool = False, fit: bool = False, ticks: int = 5) -> Axis:
    """A linear axis over ``values``, ended by round ticks; ``fit`` ends it at the values themselves."""
    found = list(values)
    low, high = min(found, default=0.0), max(found, default=1.0)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        low, high = low - (0.0 if zero else 0.5 * (abs(low) or 1)), high + 0.5 * (abs(high) or 1)
    step = _round_step((high - low) / ticks)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    if not fit:
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if found and min(found) > (last - 0.1) * step and _exact(last * step) != 1:
            last += 1  # a flat line along the upper edge looks like a frame; that of a share of 100% is at home there
        low, high = first * step, last * step
    return Axis(low, high, tuple(_exact(number * step) for number in range(first, last + 1)))


def log_axis(values: Iterable[float]) -> Axis:
    """A logarithmic axis over the positive ``values``; as many round ticks as are readable, seven at most."""
    found = [value for value in values if value > 0]
    low, high = min(found, default=1.0) * 0.97, max(found, default=10.0) * 1.03
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for mantissas in _MANTISSAS:
        ticks = [_exact(mantissa * 10.0**power) for power in powers for mantissa in mantissas]
        inside = tuple(tick for tick in ticks if low <= tick <= high)
        if len(inside) <= _MOST_TICKS:
            return Axis(low, high, inside, log=True)
    return Axis(low, high, inside[:: math.ceil(len(inside) / _MOST_TICKS)], log=True)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))


def _exact(value: float) -> float:
    """Without the last digits' noise of floating-point multiplication."""
    return float(f"{value:.10g}")

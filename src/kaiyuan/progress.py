"""Progress that suits where it is shown: a live line on a terminal, plain timed lines in a log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from kaiyuan.team import is_main

T = TypeVar("T")

CLEAR = "\r\x1b[2K"
"""Puts a terminal's cursor at the start of its line, which is emptied."""


def duration(seconds: float) -> str:
    """``seconds`` for people: ``7s``, ``3m05s``, ``2h10m``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"


def quantity(number: float) -> str:
    """``number`` with a unit prefix and three digits: ``1.23M``."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(number) >= limit:
            return f"{number / limit:.3g}{unit}"
    return f"{number:.3g}"


def size(count: float) -> str:
    """``count`` bytes for people, in binary units: ``1.23 GiB``."""
    for limit, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= limit:
            return f"{count / limit:.3g} {unit}"
    return f"{count:.0f} bytes"


class Progress:
    """Counts work done out of ``total`` and shows rate, ETA and the numbers that matter on standard error.

    On a terminal one line, cut to its width, is redrawn up to four times a second; elsewhere a line is printed every
    ``every`` seconds.
    ``done`` is where an interrupted run goes on from: it counts as done, but not into the rate.
    """

    def __init__(self, label: str, total: int, unit: str = "it", *, done: int = 0, every: float = 15.0) -> None:
        self.label, self.total, self.unit, self.every = label, total, unit, every
        self.count = self.first = done
        self.live = sys.stderr.isatty()
        self.start = time.monotonic()
        self.shown = self.start if not self.live else 0.0
        self.numbers: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show(last=True)

    def update(self, amount: int = 1, **numbers: object) -> None:
        """Count ``amount`` more units; ``numbers`` are shown as ``name value`` behind the rate."""
        self.count += amount
        self.numbers = {
            name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in numbers.items()
        }
        if time.monotonic() - self.shown >= (0.25 if self.live else self.every):
            self._show()

    def line(self, width: int | None = None) -> str:
        """The text of now; with a ``width`` only the first of the numbers, as many as fit."""
        elapsed = max(time.monotonic() - self.start, 1e-9)
        rate = (self.count - self.first) / elapsed
        left = duration((self.total - self.count) / rate) if rate > 0 and self.total >= self.count else "?"
        share = 100 * self.count / self.total if self.total else 100.0
        text = f"{self.label} {share:5.1f}%  {quantity(rate)} {self.unit}/s  {duration(elapsed)} (left {left})"
        for name, value in self.numbers.items():
            if width is not None and len(text) + len(f"  {name} {value}") > width:
                break
            text += f"  {name} {value}"
        return text[:width]

    def _show(self, last: bool = False) -> None:
        self.shown = time.monotonic()
        if not is_main():
            return
        if self.live:
            sys.stderr.write(f"{CLEAR}{self.line(_columns() - 1)}" + ("\n" if last else ""))
        else:
            sys.stderr.write(f"{time.strftime('%H:%M:%S')} {self.line()}\n")
        sys.stderr.flush()


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def track(items: Iterable[T], label: str, total: int, unit: str = "it") -> Iterator[T]:
    """Iterate over ``items`` with a progress line."""
    with Progress(label, total, unit) as progress:
        for item in items:
            yield item
            progress.update()


def say(text: str) -> None:
    """One timed line on standard error: what a stage did, with its numbers. Of several processes the first talks."""
    if not is_main():
        return
    over = CLEAR if sys.stderr.isatty() else ""  # a live line may stand there
    print(f"{over}{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

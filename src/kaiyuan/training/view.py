"""What a person sees while a model trains: a live view on a terminal, plain timed lines elsewhere.

The view redraws a few lines in place: progress, the loss so far as a curve, speed and time left, and how many tokens
each expert gets. It leaves one line behind.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from kaiyuan.progress import Progress, duration
from kaiyuan.team import is_main

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

LEVELS = "▁▂▃▄▅▆▇█"
MOST_LAYERS = 8
"""Rows of expert load; of a deeper model those whose load is least even."""
_HISTORY = 4096


class TrainingView(Progress):
    """Shows the lines that a trainer writes to its log. ``done`` steps were made before an interruption."""

    def __init__(self, label: str, steps: int, done: int = 0) -> None:
        super().__init__(label, steps, "step", done=done)
        self.live = self.live and is_main() and _can_draw()
        self.latest: dict[str, Any] = {}
        self.router: dict[str, Any] = {}
        self.losses: list[float] = []
        self._display: Any = None

    def __enter__(self) -> Self:
        if self.live:
            from rich.console import Console
            from rich.live import Live

            console = Console(stderr=True)
            self._display = Live(
                console=console, get_renderable=lambda: self.render(console), transient=True, refresh_per_second=4
            )
            self._display.start()
            console.show_cursor(True)  # a killed process could not bring it back
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._display is not None:
            self._display.stop()
            self._display = None
        super().__exit__(kind, error, trace)

    def left(self, more: int = 0) -> float:
        """Seconds to the end at the mean speed so far, once ``more`` steps are counted."""
        made = self.count + more - self.first
        return (time.monotonic() - self.start) / made * (self.total - self.count - more) if made else 0.0

    def record(self, line: dict[str, Any]) -> None:
        """Take in the log's line of one more step."""
        self.latest, self.router = line, line.get("router", self.router)
        self.losses.append(line["loss"])
        if len(self.losses) > _HISTORY:
            self.losses = [sum(pair) / 2 for pair in zip(self.losses[::2], self.losses[1::2], strict=False)]
        speed = line["time"]
        numbers: dict[str, Any] = {"loss": line["loss"], "lr": line["lr"], "tok_s": round(speed["tokens_per_second"])}
        if "mfu" in speed:
            numbers["mfu"] = f"{speed['mfu']:.1%}"
        if self.router:
            numbers["fullest"] = f"x{1 + max(self.router['violation']):.2f}"
        self.update(1, **numbers)

    def _show(self, last: bool = False) -> None:
        if self._display is None:  # else it redraws itself
            super()._show(last)

    def render(self, console: Console) -> Text:
        """The view, no wider than ``console`` and no taller than it."""
        from rich.text import Text

        width = console.width - 1
        lines = [self._header(width)]
        if self.latest:
            lines += [self._loss(width), *self._numbers(width)]
            lines += self._experts(width, min(MOST_LAYERS, console.height - len(lines) - 2))
        for line in lines:
            line.truncate(width, overflow="ellipsis")
        return Text("\n", no_wrap=True).join(lines)

    def _header(self, width: int) -> Text:
        from rich.text import Text

        share = self.count / self.total if self.total else 1.0
        text = Text.assemble((self.label, "bold"), f"  step {self.count:,} of {self.total:,}  {share:4.0%}  ")
        room = min(40, width - len(text))
        if room >= 8:
            done = round(share * room)
            text.append("━" * done, "green").append("━" * (room - done), "bright_black")
        return text

    def _loss(self, width: int) -> Text:
        from rich.text import Text

        text = Text.assemble("loss ", (f"{self.latest['loss']:.4g}", "bold"), "  ")
        if not self.latest["applied"]:
            text.append("refused  ", "red")
        return text.append(curve(self.losses, min(60, width - len(text))), "cyan")

    def _numbers(self, width: int) -> list[Text]:
        """Facts side by side, as many on a line as fit."""
        from rich.text import Text

        speed, line = self.latest["time"], self.latest
        facts = [f"{speed['tokens_per_second']:,.0f} tokens/s"]
        if "mfu" in speed:
            facts.append(f"MFU {speed['mfu']:.1%}")
        facts.append(f"{duration(time.monotonic() - self.start)} gone, {duration(self.left())} left")
        facts.append(f"learning rate {line['lr']:.3g}")
        facts.append(f"gradient norm {line['grad_norm']:.3g}")
        rows = [facts[0]]
        for fact in facts[1:]:
            if len(rows[-1]) + 3 + len(fact) <= width:
                rows[-1] += f" · {fact}"
            else:
                rows.append(fact)
        return [Text(row) for row in rows]

    def _experts(self, width: int, rows: int) -> list[Text]:
        """A row of bars for each layer: half a bar's height is an even share."""
        from rich.text import Text

        if not self.router or rows < 1:
            return []
        violation = self.router["violation"]
        layers = sorted(sorted(range(len(violation)), key=lambda layer: -violation[layer])[:rows])
        shown = "tokens of each expert by layer, ▄ is an even share"
        if len(layers) < len(violation):
            shown += f"; the {len(layers)} least even of {len(violation)} layers"
        texts = [Text(shown, "bright_black")]
        for layer in layers:
            load = self.router["load"][layer]
            text = Text(f"{layer:>3} ")
            for value in squeezed(load, max(8, width - 35)):
                text.append(*_bar(value * len(load)))
            text.append(f"  fullest x{1 + violation[layer]:.2f}")
            for what in ("recycled", "dropped") if width >= 50 else ():
                if (share := self.router[what][layer]) > 0:
                    text.append(f", {share:.1%} {what}")
            texts.append(text)
        return texts


def curve(values: Sequence[float], width: int) -> str:
    """``values`` as a line of ``width`` bars at most, each the mean of as many; the highest tenth is cut to one
    height, since a loss begins far over where it ends.
    """
    finite = [value for value in values if value == value and abs(value) != float("inf")]
    if not finite or width < 1:
        return ""
    count = min(width, len(finite))
    ends = [len(finite) * place // count for place in range(count + 1)]
    means = [sum(finite[a:b]) / (b - a) for a, b in itertools.pairwise(ends)]
    low, high = min(means), sorted(means)[int(0.9 * (count - 1))]
    scale = (len(LEVELS) - 1) / (high - low) if high > low else 0.0
    return "".join(LEVELS[round(min(len(LEVELS) - 1, (value - low) * scale))] for value in means)


def squeezed(values: Sequence[float], width: int) -> list[float]:
    """``values`` in ``width`` places at most, the largest of neighbours for all of them."""
    count = min(width, len(values))
    ends = [len(values) * place // count for place in range(count + 1)]
    return [max(values[a:b]) for a, b in itertools.pairwise(ends)]


def _bar(share: float) -> tuple[str, str]:
    """A bar and its colour for an expert that gets ``share`` times the mean."""
    colour = "red" if share > 2 or share < 0.1 else "yellow" if share > 1.5 or share < 0.25 else "green"
    return LEVELS[max(0, min(len(LEVELS) - 1, round(share * 4) - 1))], colour


def _can_draw() -> bool:
    """Whether the terminal moves its cursor and knows the bars."""
    return os.environ.get("TERM", "") not in ("", "dumb", "unknown") and (sys.stderr.encoding or "").lower() in (
        "utf-8", "utf8",
    )  # fmt: skip

"""The fit as a picture: isoFLOP curves with their minima, and the power law through these. One SVG without script."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from kaiyuan.progress import quantity
from kaiyuan.scaling.isoflop import Curve, IsoFlopFit
from kaiyuan.scaling.law import PAPER_LAW
from kaiyuan.scaling.text import scientific

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _GAP = 430, 330, 62, 40, 48, 90
_COLORS = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#9bbf1f", "#c9a800")
"""Low budgets dark, high ones light."""
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#333}.title{font-size:14px;font-weight:600}"
    ".grid{stroke:#ddd;fill:none}.curve{fill:none;stroke-width:1.6}.paper{stroke:#999;stroke-dasharray:5 4;fill:none}"
)


@dataclass(frozen=True)
class _Axis:
    """Values from ``low`` to ``high`` on a line ``length`` long that starts at ``start``."""

    low: float
    high: float
    start: float
    length: float
    log: bool = False

    def __call__(self, value: float) -> float:
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * self.length

    def ticks(self) -> list[float]:
        """About five round values."""
        if not self.log:
            rough = (self.high - self.low) / 5
            power = 10.0 ** math.floor(math.log10(rough))
            step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
            return [step * number for number in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        mantissas = (1, 2, 5) if len(powers) <= 4 else (1,)
        found = [mantissa * 10.0**power for power in powers for mantissa in mantissas]
        return [tick for tick in found if self.low <= tick <= self.high]


def draw_fit(fit: IsoFlopFit) -> str:
    """The SVG's text."""
    width, height = 2 * (_LEFT + _WIDTH) + _GAP, _TOP + _HEIGHT + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'aria-label="IsoFLOP curves and the power law through their minima">',
        f"<style>{_STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        *_curves_panel(fit, _LEFT),
        *_law_panel(fit, _LEFT + _WIDTH + _GAP + _LEFT - 30),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _curves_panel(fit: IsoFlopFit, left: float) -> list[str]:
    sizes = [run.active_parameters for curve in fit.curves for run in curve.runs]
    losses = [run.loss for curve in fit.curves for run in curve.runs]
    x, y = _x_axis(sizes, left), _y_axis(losses, log=False)
    parts = _frame("Loss over model size, one curve a budget", "active parameters", x, y, quantity, "{:.2f}".format)
    for number, curve in enumerate(fit.curves):
        color = _color(number, len(fit.curves))
        parts.append(_line(_parabola(curve), x, y, f'class="curve" stroke="{color}"'))
        parts += [_dot(x(run.active_parameters), y(run.loss), 2.5, color, "") for run in curve.runs]
        label = f"best of {scientific(curve.flops)} FLOPs: {quantity(curve.active_parameters)}"
        parts.append(_dot(x(curve.active_parameters), y(curve.loss), 4.5, "#d62728", label))
    return parts


def _law_panel(fit: IsoFlopFit, left: float) -> list[str]:
    budgets = [curve.flops for curve in fit.curves]
    sizes = [curve.active_parameters for curve in fit.curves]
    ends = (min(budgets), max(budgets))
    x, y = _x_axis(budgets, left), _y_axis([*sizes, *map(PAPER_LAW.parameters, ends)], log=True)
    law = fit.law.parameters
    title = f"Best size = {law.coefficient:.3g} C^{law.exponent:.4g} (dashed: the paper)"
    parts = _frame(title, "compute in FLOPs", x, y, _power, quantity)
    parts.append(_line([(end, PAPER_LAW.parameters(end)) for end in ends], x, y, 'class="paper"'))
    parts.append(_line([(end, law(end)) for end in ends], x, y, 'class="curve" stroke="#333"'))
    for number, (budget, size) in enumerate(zip(budgets, sizes, strict=True)):
        parts.append(_dot(x(budget), y(size), 4.5, _color(number, len(budgets)), quantity(size)))
    return parts


def _x_axis(values: Sequence[float], left: float) -> _Axis:
    return _Axis(min(values) / 1.15, max(values) * 1.15, left, _WIDTH, log=True)


def _y_axis(values: Sequence[float], *, log: bool) -> _Axis:
    if log:
        return _Axis(min(values) / 1.15, max(values) * 1.15, _TOP + _HEIGHT, -_HEIGHT, log=True)
    margin = 0.05 * (max(values) - min(values)) or 0.05
    return _Axis(min(values) - margin, max(values) + margin, _TOP + _HEIGHT, -_HEIGHT)


def _frame(
    title: str, label: str, x: _Axis, y: _Axis, x_text: Callable[[float], str], y_text: Callable[[float], str]
) -> list[str]:
    bottom, middle = _TOP + _HEIGHT, x.start + _WIDTH / 2
    parts = [
        f'<text class="title" x="{x.start}" y="{_TOP - 16}">{title}</text>',
        f'<text x="{middle:.1f}" y="{bottom + 38}" text-anchor="middle">{label}</text>',
    ]
    for tick in y.ticks():
        parts.append(f'<path class="grid" d="M{x.start:.1f} {y(tick):.1f}h{_WIDTH}"/>')
        parts.append(f'<text x="{x.start - 6:.1f}" y="{y(tick) + 4:.1f}" text-anchor="end">{y_text(tick)}</text>')
    for tick in x.ticks():
        parts.append(f'<path class="grid" d="M{x(tick):.1f} {bottom}v-{_HEIGHT}"/>')
        parts.append(f'<text x="{x(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{x_text(tick)}</text>')
    return parts


def _parabola(curve: Curve) -> Iterable[tuple[float, float]]:
    low, high = curve.runs[0].active_parameters, curve.runs[-1].active_parameters
    for step in range(41):
        size = low * (high / low) ** (step / 40)
        yield size, curve.loss_at(size)


def _line(points: Iterable[tuple[float, float]], x: _Axis, y: _Axis, attributes: str) -> str:
    path = "L".join(f"{x(place):.1f} {y(value):.1f}" for place, value in points)
    return f'<path d="M{path}" {attributes}/>'


def _dot(x: float, y: float, radius: float, color: str, label: str) -> str:
    title = f"<title>{label}</title>" if label else ""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{color}">{title}</circle>'


def _power(value: float) -> str:
    """``5e18``"""
    return f"{value:g}".replace("e+", "e")


def _color(number: int, count: int) -> str:
    return _COLORS[round(number * (len(_COLORS) - 1) / max(1, count - 1))]

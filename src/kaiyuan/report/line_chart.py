"""Line charts: an SVG that stretches to its place, with labels in HTML so that they keep their size on every screen.

Nothing here needs a script; the page's script adds a readout under the pointer from the JSON beside each chart.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kaiyuan.report.html import Markup, data_script, details, join, table, tag
from kaiyuan.report.numbers import quantity, signed
from kaiyuan.report.scale import Axis, axis, log_axis

SIZE = 1000
"""Width and height of the SVG's own coordinates; the page stretches them to any shape."""
_TABLE_ROWS = 12


@dataclass(frozen=True)
class Series:
    """One line. ``color`` is a class of the style sheet (c1 ... c6); ``kind`` is line, faint, dashed or dots."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: str = "c1"
    kind: str = "line"
    low: Sequence[float] | None = None
    """With ``high``: a band around the line, over the same x."""
    high: Sequence[float] | None = None

    @property
    def extent(self) -> list[float]:
        return [*self.y, *(self.low or ()), *(self.high or ())]


@dataclass(frozen=True)
class Shade:
    """A stretch of the x axis with a meaning."""

    start: float
    end: float
    label: str


@dataclass(frozen=True)
class Mark:
    """A place on the x axis where something changes."""

    x: float
    label: str


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    unit: str = "",
    x_label: str = "",
    log: bool = False,
    zero: bool = False,
    shades: Sequence[Shade] = (),
    marks: Sequence[Mark] = (),
    y_text: Callable[[float], str] = signed,
    x_text: Callable[[float], str] = quantity,
    top: float | None = None,
) -> Markup | None:
    """A figure with all ``series``, or None if they have no points. ``top`` is a value that the y axis must reach."""
    series = [line for line in series if line.x]
    if not series:
        return None
    values = [value for line in series for value in line.extent] + ([] if top is None else [top])
    y_axis = log_axis(values) if log and min(values) > 0 else axis(values, zero=zero)
    x_axis = axis([place for line in series for place in line.x] + [shade.end for shade in shades], zero=True, fit=True)
    description = _description(title, unit, series, x_label, x_text, y_text)
    drawing = _drawing(description, series, x_axis, y_axis, shades, marks)
    plot = tag(
        "div",
        tag("div", *(_y_tick(tick, y_axis, y_text) for tick in y_axis.ticks), class_="ys", aria_hidden="true"),
        tag("div", drawing, *_captions(marks, x_axis), class_="canvas"),
        tag("div", *_x_ticks(x_axis, x_text), class_="xs", aria_hidden="true"),
        class_="plot",
    )
    below = tag("div", x_label, class_="x-label") if x_label else None
    caption = tag("figcaption", tag("strong", title), tag("span", unit, class_="unit") if unit else None)
    readout = _readout(series, x_axis, y_axis, x_label, y_text)
    numbers = _table(title, series, x_label, x_text, y_text)
    return tag("figure", caption, legend(series, shades), plot, below, readout, numbers, class_="chart")


def _drawing(
    description: str,
    series: Sequence[Series],
    x_axis: Axis,
    y_axis: Axis,
    shades: Sequence[Shade],
    marks: Sequence[Mark],
) -> Markup:
    """The SVG, from back to front."""
    return tag(
        "svg",
        tag("title", description),
        *(_shade(shade, x_axis) for shade in shades),
        _grid(y_axis),
        *(_rule(x_axis.place(mark.x)) for mark in marks),
        *(_band(line, x_axis, y_axis) for line in series if line.low and line.high),
        *(_path(line, x_axis, y_axis) for line in series),
        viewBox=f"0 0 {SIZE} {SIZE}",
        preserveAspectRatio="none",
        role="img",
        aria_label=description,
    )


def legend(series: Sequence[Series], shades: Sequence[Shade] = ()) -> Markup | None:
    """Names beside samples of their lines; a single line needs none, and a faint one goes with a strong one."""
    items = [tag("li", line.name, class_=f"{line.color} {line.kind}") for line in series if line.kind != "faint"]
    items += [tag("li", shade.label, class_="shade") for shade in shades[:1]]
    return tag("ul", *items, class_="legend") if len(items) > 1 else None


def _at(x: float, y: float) -> str:
    return f"{x * SIZE:.1f} {(1 - y) * SIZE:.1f}"


def _path(line: Series, x_axis: Axis, y_axis: Axis) -> Markup:
    points = [_at(x_axis.place(x), y_axis.place(y)) for x, y in zip(line.x, line.y, strict=True)]
    dots = line.kind == "dots" or len(points) == 1
    shape = "".join(f"M{point}h0" for point in points) if dots else "M" + "L".join(points)
    return tag("path", d=shape, class_=f"{line.color} {'dots' if dots else line.kind}")


def _band(line: Series, x_axis: Axis, y_axis: Axis) -> Markup:
    upper = [_at(x_axis.place(x), y_axis.place(y)) for x, y in zip(line.x, line.high or (), strict=True)]
    lower = [_at(x_axis.place(x), y_axis.place(y)) for x, y in zip(line.x, line.low or (), strict=True)]
    return tag("path", d="M" + "L".join([*upper, *reversed(lower)]) + "Z", class_=f"{line.color} band")


def _grid(y_axis: Axis) -> Markup:
    return tag("path", d="".join(f"M{_at(0, y_axis.place(tick))}H{SIZE}" for tick in y_axis.ticks), class_="grid")


def _rule(place: float) -> Markup:
    return tag("path", d=f"M{_at(place, 0)}V0", class_="mark")


def _shade(shade: Shade, x_axis: Axis) -> Markup:
    start, end = x_axis.place(shade.start), x_axis.place(shade.end)
    return tag("rect", x=f"{start * SIZE:.1f}", y=0, width=f"{(end - start) * SIZE:.1f}", height=SIZE, class_="shade")


def _captions(marks: Sequence[Mark], x_axis: Axis) -> list[Markup]:
    """Names of marks at the top of the plot, each left of the place it names if it is far to the right."""
    found = []
    for number, mark in enumerate(marks):
        place = x_axis.place(mark.x)
        side = f"right:{100 * (1 - place):.2f}%" if place > 0.6 else f"left:{100 * place:.2f}%"
        found.append(tag("span", mark.label, class_="caption", style=f"{side};top:{number * 1.25:.2f}em"))
    return found


def _y_tick(tick: float, y_axis: Axis, text: Callable[[float], str]) -> Markup:
    return tag("span", text(tick), style=f"top:{100 * (1 - y_axis.place(tick)):.2f}%")


def _x_ticks(x_axis: Axis, text: Callable[[float], str]) -> list[Markup]:
    return [x_tick(x_axis.place(tick), text(tick)) for tick in x_axis.ticks]


def x_tick(place: float, text: str) -> Markup:
    """A label under the plot, kept within it at both ends."""
    side = "first" if place < 0.03 else "last" if place > 0.95 else None
    return tag("span", text, style=f"left:{100 * place:.2f}%", class_=side)


def _readout(
    series: Sequence[Series], x_axis: Axis, y_axis: Axis, x_label: str, y_text: Callable[[float], str]
) -> Markup:
    """What the script shows under the pointer."""
    lines = [{"name": line.name, "color": line.color, "x": list(line.x), "y": list(line.y),
              "text": "percent" if y_text(0.5).endswith("%") else "number"} for line in series]  # fmt: skip
    y = {"low": y_axis.low, "high": y_axis.high, "log": y_axis.log}
    return data_script({"kind": "lines", "x": {"low": x_axis.low, "high": x_axis.high}, "y": y, "label": x_label,
                        "series": lines})  # fmt: skip


def _table(
    title: str,
    series: Sequence[Series],
    x_label: str,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
) -> Markup:
    """The chart's numbers at a dozen places, for those who cannot see it or want to quote it."""
    places = sorted({place for line in series for place in line.x})
    count = min(_TABLE_ROWS, len(places))
    chosen = [places[round(index * (len(places) - 1) / max(1, count - 1))] for index in range(count)]
    rows = [[x_text(place), *(_value_at(line, place, y_text) for line in series)] for place in chosen]
    return details("Numbers", table([x_label, *(line.name for line in series)], rows, title), class_="numbers")


def _value_at(line: Series, place: float, text: Callable[[float], str]) -> str:
    if not line.x[0] <= place <= line.x[-1]:
        return ""
    index = min(bisect_left(line.x, place), len(line.x) - 1)
    return text(line.y[index])


def _description(
    title: str,
    unit: str,
    series: Sequence[Series],
    x_label: str,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
) -> str:
    """One sentence a line for screen readers: where it starts and where it ends."""
    ends = [
        f"{line.name} goes from {y_text(line.y[0])} to {y_text(line.y[-1])} between {x_text(line.x[0])} and "
        f"{x_text(line.x[-1])} {x_label}".rstrip()
        for line in series
    ]
    return f"{title}{f' ({unit})' if unit else ''}. {'; '.join(ends)}."


def grid_of(charts: Sequence[Markup | None], class_: str = "charts") -> Markup | None:
    """Charts side by side where there is room; None if there is none."""
    shown = [chart for chart in charts if chart]
    return tag("div", join(shown), class_=class_) if shown else None

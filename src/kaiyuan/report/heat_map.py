"""Heat maps: one SVG path for every shade of a sequential scale, which the style sheet defines for light and dark."""

from __future__ import annotations

from collections.abc import Sequence

from kaiyuan.report.html import Markup, data_script, tag
from kaiyuan.report.line_chart import x_tick
from kaiyuan.report.numbers import quantity

LEVELS = 9


def level(value: float, top: float) -> int:
    """Which of the ``LEVELS`` shades (0 palest) stands for ``value`` on a scale from 0 to ``top``."""
    return max(0, min(LEVELS - 1, int(LEVELS * value / top)))


def heat_map(
    title: str,
    values: Sequence[Sequence[float]],
    *,
    row_name: str,
    columns: Sequence[float],
    column_unit: str,
    top: float,
    unit: str = "",
) -> Markup:
    """A figure of ``values`` [row][column], shaded from 0 to ``top``; values beyond take the last shade."""
    rows = len(values)
    step = max(1, rows // 4)
    labels = [tag("span", row, style=f"top:{100 * (row + 0.5) / rows:.2f}%") for row in range(0, rows, step)]
    readout = data_script({
        "kind": "heat", "row": row_name, "unit": unit, "columnUnit": column_unit, "columns": list(columns),
        "values": [[round(value, 2) for value in row] for row in values],
    })  # fmt: skip
    last = f"{quantity(columns[-1])} {column_unit}"
    plot = tag(
        "div",
        tag("div", *labels, class_="ys", aria_hidden="true"),
        tag("div", _drawing(_description(title, values, row_name, unit), values, top), class_="canvas"),
        tag("div", x_tick(0, "0"), x_tick(1, last), class_="xs", aria_hidden="true"),
        class_="plot heat",
    )
    return tag("figure", tag("figcaption", tag("strong", title)), plot, readout, class_="chart")


def _drawing(description: str, values: Sequence[Sequence[float]], top: float) -> Markup:
    """The SVG: one unit of its coordinates a cell, one path a shade."""
    paths: dict[int, list[str]] = {}
    for y, row in enumerate(values):
        for start, end, shade in _runs([level(value, top) for value in row]):
            paths.setdefault(shade, []).append(f"M{start} {y}H{end}V{y + 1}H{start}Z")
    return tag(
        "svg",
        tag("title", description),
        *(tag("path", d="".join(parts), class_=f"q{shade}") for shade, parts in sorted(paths.items())),
        viewBox=f"0 0 {len(values[0])} {len(values)}",
        preserveAspectRatio="none",
        role="img",
        aria_label=description,
    )


def _description(title: str, values: Sequence[Sequence[float]], row_name: str, unit: str) -> str:
    """One sentence for screen readers: the average, and the row that has the most."""
    means = [sum(row) / len(row) for row in values]
    most = max(range(len(means)), key=means.__getitem__)
    return (
        f"{title}: {len(values)} {row_name}s over {len(values[0])} places; mean {sum(means) / len(means):.2f}{unit}, "
        f"{row_name} {most} has the most, {means[most]:.2f}{unit} on average"
    )


def _runs(levels: Sequence[int]) -> list[tuple[int, int, int]]:
    """Stretches of equal shade as (start, end, shade)."""
    runs: list[tuple[int, int, int]] = []
    for column, shade in enumerate(levels):
        if runs and runs[-1][2] == shade:
            runs[-1] = (runs[-1][0], column + 1, shade)
        else:
            runs.append((column, column + 1, shade))
    return runs


def scale_key(low: str, middle: str, high: str) -> Markup:
    """The colour scale with names for its ends and its middle."""
    shades = tag("div", *(tag("i", class_=f"b{shade}") for shade in range(LEVELS)), class_="shades")
    names = tag("div", tag("span", low), tag("span", middle), tag("span", high), class_="names")
    return tag("div", shades, names, class_="key")

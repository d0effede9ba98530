"""Metrics of every step, made small enough to draw: thinned, smoothed, averaged over layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Line = Mapping[str, Any]
Curve = dict[str, list[float]]
"""``{"x": [...], "y": [...]}``"""

MOST_POINTS = 400
MOST_COLUMNS = 120
_ROUTER = ("recycled", "dropped", "entropy", "violation")


def curve(x: Sequence[float], y: Sequence[float | None]) -> Curve:
    """The points whose value is a finite number."""
    points = [(place, value) for place, value in zip(x, y, strict=True) if is_number(value)]
    return {"x": [place for place, _ in points], "y": [_short(value) for _, value in points]}


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: float | None) -> float:
    """Six significant digits: more cannot be seen."""
    return float(f"{value:.6g}")


def thinned(points: Curve, most: int = MOST_POINTS) -> Curve:
    """At most ``most`` points: of every stretch its lowest and its highest, so that no spike is lost."""
    count = len(points["x"])
    if count <= most:
        return points
    size = math.ceil(count / (most // 2))
    kept: list[int] = []
    for start in range(0, count, size):
        stretch = range(start, min(start + size, count))
        ends = {min(stretch, key=points["y"].__getitem__), max(stretch, key=points["y"].__getitem__)}
        kept += sorted(ends)
    return {"x": [points["x"][index] for index in kept], "y": [points["y"][index] for index in kept]}


def smoothed(points: Curve, window: int | None = None) -> Curve:
    """Centred moving average over ``window`` points; by default over a fortieth of all, but at least seven, or a third
    of very few. At the steep start the window is as long as it can be on both sides, at the end it looks back.
    """
    count = len(points["y"])
    half = (window or min(max(7, count // 40), count // 3)) // 2
    sums = [0.0]
    for value in points["y"]:
        sums.append(sums[-1] + value)
    means = []
    for index in range(count):
        before = min(half, index)
        after = min(before, count - 1 - index)
        means.append(_short((sums[index + after + 1] - sums[index - before]) / (before + after + 1)))
    return thinned({"x": points["x"], "y": means})


def cumulative_tokens(lines: Iterable[Line], start: float = 0) -> list[float]:
    """Tokens seen up to and including every step."""
    total, found = start, []
    for line in lines:
        total += line["tokens"]
        found.append(total)
    return found


def metric(lines: Sequence[Line], x: Sequence[float], name: str) -> Curve:
    """One metric over the steps that have it."""
    return curve(x, [line.get(name) for line in lines])


def router_curves(lines: Sequence[Line], x: Sequence[float]) -> dict[str, Any]:
    """What routers did: ``load`` [layer][expert][column] as a multiple of the fair share, ``columns`` (x of each), and
    for each of recycled, dropped, entropy, violation: mean, lowest and highest over layers.
    """
    found = [(place, line["router"]) for place, line in zip(x, lines, strict=True) if _is_whole(line.get("router"))]
    if not found:
        return {}
    places = [place for place, _ in found]
    routers = [router for _, router in found]
    curves: dict[str, Any] = {
        name: _over_layers(places, [router[name] for router in routers]) for name in _ROUTER if name in routers[0]
    }
    columns = _stretches(len(found), MOST_COLUMNS)
    curves["columns"] = [places[stretch[-1]] for stretch in columns]
    curves["load"] = _load_maps([router["load"] for router in routers], columns)
    return curves


def _is_whole(router: Mapping[str, Any] | None) -> bool:
    """Whether there are router metrics and all of them are numbers."""
    if not router:
        return False
    loads = [value for layer in router["load"] for value in layer]
    return all(map(is_number, loads)) and all(is_number(value) for name in _ROUTER for value in router.get(name, ()))


def _over_layers(x: Sequence[float], values: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    columns = _stretches(len(x), MOST_COLUMNS)

    def reduce(function: Callable[[list[float]], float]) -> list[float]:
        return [_short(function([value for step in stretch for value in values[step]])) for stretch in columns]

    def mean(found: list[float]) -> float:
        return sum(found) / len(found)

    return {"x": [x[stretch[-1]] for stretch in columns], "mean": reduce(mean), "low": reduce(min), "high": reduce(max)}


def _load_maps(loads: Sequence[Sequence[Sequence[float]]], columns: Sequence[range]) -> list[list[list[float]]]:
    """[layer][expert][column], each the mean over the column's steps times the number of experts."""
    return [
        [
            [
                round(sum(loads[step][layer][expert] for step in stretch) / len(stretch) * len(loads[0][layer]), 3)
                for stretch in columns
            ]
            for expert in range(len(loads[0][layer]))
        ]
        for layer in range(len(loads[0]))
    ]


def _stretches(count: int, most: int) -> list[range]:
    """``range(count)`` in at most ``most`` pieces of equal size, the last one possibly shorter."""
    size = max(1, math.ceil(count / most))
    return [range(start, min(start + size, count)) for start in range(0, count, size)]

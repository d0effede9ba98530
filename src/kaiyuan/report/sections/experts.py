"""What the routers did: load of every expert over training, and how much had to be recycled."""

from __future__ import annotations

import math

from kaiyuan.report.heat_map import heat_map, scale_key
from kaiyuan.report.html import Markup, tag
from kaiyuan.report.line_chart import Mark, Series, grid_of, line_chart
from kaiyuan.report.numbers import percent, signed
from kaiyuan.report.sections.layout import Data, absent, section
from kaiyuan.report.sections.training import boundaries

MOST_MAPS = 12
TOP = 2.0
"""The scale's end: twice the fair share."""


def experts(data: Data) -> Markup:
    router = (data["training"] or {}).get("router")
    if not router:
        return absent(data, "experts", "Experts", "pretrain")
    layers = _chosen(len(router["load"]))
    maps = [
        heat_map(f"Layer {layer}", router["load"][layer], row_name="expert", columns=router["columns"],
                 column_unit="tokens", top=TOP, unit="×")
        for layer in layers
    ]  # fmt: skip
    marks = boundaries(data["training"])
    count = len(router["load"][0])
    curves = [
        _chart("Recycled and dropped", {"recycled": "c1", "dropped": "c2"}, router, marks, unit="of all assignments"),
        _chart("Router entropy", {"entropy": "c3"}, router, marks, unit=f"nats, of log {count} = {math.log(count):.2f}",
               top=math.log(count)),
        _chart("Balance violation", {"violation": "c4"}, router, marks, unit="fullest expert over the mean, minus 1"),
    ]  # fmt: skip
    lead = (
        "Load of every specialised expert over training: the share of assignments that it computed, as a multiple of "
        "the fair share, after recycling. Curves: mean over layers, with the range over layers as a band."
    )
    left_out = len(router["load"]) - len(layers)
    note = tag("p", f"{len(layers)} of {len(router['load'])} layers are shown.", class_="note") if left_out else None
    key = scale_key("0", "1× (fair share)", "2× and more")
    return section(
        "experts",
        "Experts",
        lead,
        key,
        grid_of(maps, f"charts maps {_columns(len(maps))}"),
        note,
        grid_of(curves, "charts three"),
    )


def _chosen(count: int) -> list[int]:
    """All layers, or a dozen spread evenly from the first to the last."""
    if count <= MOST_MAPS:
        return list(range(count))
    return sorted({round(index * (count - 1) / (MOST_MAPS - 1)) for index in range(MOST_MAPS)})


def _columns(count: int) -> str:
    """The grid that leaves no gap in its last row, if there is one."""
    return "four" if count % 4 == 0 and count % 3 else "three"


def _chart(
    title: str, names: dict[str, str], router: Data, marks: list[Mark], *, unit: str = "", top: float | None = None
) -> Markup | None:
    """Means over layers with the range over layers as a band; ``names`` of the metrics with their colours."""
    found = {name: router[name] for name in names if name in router}
    lines = [
        Series(name, curve["x"], curve["mean"], names[name], low=curve["low"], high=curve["high"])
        for name, curve in found.items()
    ]
    is_share = "recycled" in names
    most = max((max(curve["high"]) for curve in found.values()), default=0.0)
    text = (lambda share: percent(share, 0 if most > 0.05 else 1)) if is_share else signed
    top = 0.01 if is_share and most < 0.01 else top
    return line_chart(title, lines, unit=unit, x_label="tokens", zero=True, marks=marks, y_text=text, top=top)

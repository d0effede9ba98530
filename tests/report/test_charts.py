from __future__ import annotations

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_checks import Element, read

from kaiyuan.report.heat_map import LEVELS, heat_map, level
from kaiyuan.report.line_chart import Mark, Series, Shade, line_chart
from kaiyuan.report.scale import axis, log_axis

VALUES = st.lists(st.floats(-1e9, 1e9).filter(lambda value: value == 0 or abs(value) > 1e-6), min_size=1, max_size=20)


@given(VALUES, st.booleans())
def test_a_linear_axis_holds_its_values_between_round_ticks(values: list[float], zero: bool) -> None:
    found = axis(values, zero=zero)
    slack = 1e-9 * (found.high - found.low)
    assert found.low - slack <= min(values) and max(values) <= found.high + slack
    assert 2 <= len(found.ticks) <= 8
    assert found.place(found.low) == 0 and found.place(found.high) == 1
    assert all(-1e-6 <= found.place(tick) <= 1 + 1e-6 for tick in found.ticks)
    steps = {f"{step:.3e}" for step in map(lambda a, b: b - a, found.ticks, found.ticks[1:])}
    assert all(re.match(r"(1|2|2\.5|5)\.?0*e", step) for step in steps)
    assert not zero or found.low <= 0 <= found.high


def test_a_flat_line_does_not_lie_on_the_upper_edge_unless_that_is_the_whole() -> None:
    assert axis([0.25, 0.2500001], zero=True).place(0.25) < 0.9
    assert axis([0.1, 0.25], zero=True).place(0.25) == 1
    assert axis([1.0, 1.0, 1.0], zero=True).high >= 1 and axis([0.99, 1.0], zero=True).high == 1


def test_a_fitted_axis_ends_at_its_values() -> None:
    found = axis([0, 3_325_952], fit=True)
    assert (found.low, found.high) == (0, 3_325_952)
    assert found.ticks == (0, 1e6, 2e6, 3e6)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20))
def test_a_logarithmic_axis_places_by_ratio(values: list[float]) -> None:
    found = log_axis(values)
    assert all(0 <= found.place(value) <= 1 for value in values)
    assert len(found.ticks) <= 7
    middle = math.sqrt(found.low * found.high)
    assert found.place(middle) == pytest.approx(0.5)
    assert all(found.low <= tick <= found.high for tick in found.ticks)


def chart(**more: object) -> Element:
    lines = [Series("one", [0, 5, 10], [0, 4, 2], "c1"), Series("two", [0, 10], [1, 1], "c2", "faint")]
    return read(line_chart("Title <1>", lines, unit="m", x_label="s", **more) or "").children[0]  # type: ignore[arg-type]


def test_points_are_where_their_values_are() -> None:
    figure = chart()
    (path,) = [path for path in figure.all("path") if path.attributes["class"] == "c1 line"]
    points = [tuple(map(float, point.split())) for point in re.split("[ML]", path.attributes["d"] or "")[1:]]
    assert points == [(0, 1000), (500, 0), (1000, 500)]
    places = [span.attributes["style"] for span in figure.all("div", "ys")[0].all("span")]
    assert [span.text for span in figure.all("div", "ys")[0].all("span")] == ["0", "1", "2", "3", "4"]
    assert places[0] == "top:100.00%" and places[-1] == "top:0.00%"


def test_shades_marks_and_bands_are_drawn() -> None:
    figure = chart(shades=[Shade(4, 6, "annealing")], marks=[Mark(5, "here")])
    (rect,) = figure.all("rect", "shade")
    assert (rect.attributes["x"], rect.attributes["width"]) == ("400.0", "200.0")
    assert figure.all("path", "mark")[0].attributes["d"] == "M500.0 1000.0V0"
    assert figure.all("span", "caption")[0].text == "here"
    line = Series("x", [0, 1], [1, 2], low=[0, 1], high=[2, 4])
    band = read(line_chart("t", [line]) or "").all("path", "band")[0].attributes["d"] or ""
    assert band == "M0.0 500.0L1000.0 0.0L1000.0 750.0L0.0 1000.0Z"


def test_a_chart_can_be_read_without_seeing_it() -> None:
    figure = chart()
    (svg,) = figure.all("svg")
    assert svg.attributes["role"] == "img" and svg.attributes["aria-label"] == svg.all("title")[0].text
    assert "one goes from 0 to 2 between 0 and 10 s" in svg.all("title")[0].text
    rows = [[cell.text for cell in row.children] for row in figure.all("tbody")[0].all("tr")]
    assert rows == [["0", "0", "1"], ["5", "4", "1"], ["10", "2", "1"]]
    readout = json.loads(figure.all("script")[0].text)
    assert readout["series"][0]["y"] == [0, 4, 2] and readout["y"]["high"] == 4


def test_a_single_point_is_a_dot_and_no_points_are_no_chart() -> None:
    assert read(line_chart("t", [Series("a", [3], [5])]) or "").all("path", "dots")
    assert line_chart("t", [Series("a", [], [])]) is None


@given(st.integers(1, 6), st.integers(1, 9), st.data())
def test_every_cell_of_a_heat_map_has_its_shade(rows: int, columns: int, data: st.DataObject) -> None:
    cell = st.floats(0, 3)
    values = data.draw(st.lists(st.lists(cell, min_size=columns, max_size=columns), min_size=rows, max_size=rows))
    figure = read(heat_map("t", values, row_name="expert", columns=list(range(columns)), column_unit="", top=2.0))
    painted = {}
    for path in figure.all("path"):
        for x, y, end in re.findall(r"M(\d+) (\d+)H(\d+)V\d+H\d+Z", path.attributes["d"] or ""):
            for column in range(int(x), int(end)):
                assert painted.setdefault((int(y), column), path.attributes["class"]) == path.attributes["class"]
    assert painted == {
        (row, column): f"q{min(LEVELS - 1, int(values[row][column] / 2 * LEVELS))}"
        for row in range(rows)
        for column in range(columns)
    }


def test_levels_go_from_palest_to_darkest() -> None:
    assert [level(value, 1.0) for value in (-1, 0, 0.5, 1, 7)] == [0, 0, LEVELS // 2, LEVELS - 1, LEVELS - 1]

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
from fake_run import router_line
from hypothesis import given
from hypothesis import strategies as st

from kaiyuan.report.curves import MOST_COLUMNS, curve, metric, router_curves, smoothed, thinned

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=300)


@given(VALUES, st.integers(2, 40))
def test_thinning_keeps_the_extremes(values: list[float], most: int) -> None:
    points = curve(list(range(len(values))), values)
    found = thinned(points, most)
    assert len(found["x"]) <= max(most, 2)
    assert (min(found["y"]), max(found["y"])) == (min(points["y"]), max(points["y"]))
    assert found["x"] == sorted(set(found["x"]))
    assert all(points["y"][int(x)] == y for x, y in zip(found["x"], found["y"], strict=True))


@given(VALUES, st.integers(1, 30))
def test_smoothing_is_a_moving_average(values: list[float], window: int) -> None:
    points = curve(list(range(len(values))), values)
    found, half, last = smoothed(points, window), window // 2, len(values) - 1
    for index in range(len(values)):
        before = min(half, index)
        after = min(before, last - index)
        mean = np.mean(points["y"][index - before : index + after + 1])
        assert found["y"][index] == pytest.approx(mean, rel=1e-5, abs=1e-6)


def test_only_finite_numbers_are_drawn() -> None:
    lines = [{"a": 1.0}, {"a": math.nan}, {}, {"a": math.inf}, {"a": True}, {"a": 2}]
    assert metric(lines, [10, 20, 30, 40, 50, 60], "a") == {"x": [10, 60], "y": [1, 2]}


def test_router_metrics_are_averaged_over_steps_and_layers() -> None:
    rng = Random(1)
    lines = [{"router": router_line(rng, 10 * step)} if step % 2 == 0 else {} for step in range(600)]
    found = router_curves(lines, list(range(600)))
    size = math.ceil(300 / MOST_COLUMNS)
    loads = np.array([line["router"]["load"] for line in lines[::2]])
    entropy = np.array([line["router"]["entropy"] for line in lines[::2]])
    assert len(found["columns"]) == 300 / size <= MOST_COLUMNS
    assert found["columns"][0] == 2 * (size - 1)
    for column in (0, 7, len(found["columns"]) - 1):
        part = slice(column * size, (column + 1) * size)
        expected = loads[part].mean(0) * 16
        assert np.array(found["load"])[:, :, column] == pytest.approx(expected, abs=1e-3)
        assert found["entropy"]["mean"][column] == pytest.approx(entropy[part].mean(), rel=1e-5)
        assert found["entropy"]["low"][column] == pytest.approx(entropy[part].min(), rel=1e-5)
        assert found["entropy"]["high"][column] == pytest.approx(entropy[part].max(), rel=1e-5)


def test_without_router_metrics_there_are_no_router_curves() -> None:
    assert router_curves([{"loss": 1.0}], [1.0]) == {}
    broken = router_line(Random(0), 0)
    broken["load"][1][3] = math.nan
    assert router_curves([{"router": broken}], [1.0]) == {}

"""Tables of runs: what is read, what is refused and how it is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaiyuan.errors import DataError
from kaiyuan.scaling.law import TrainingCost
from kaiyuan.scaling.runs import TrainingRun, group_by_budget, read_runs


def table(folder: Path, text: str, name: str = "runs.jsonl") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_both_formats_say_the_same(tmp_path: Path) -> None:
    lines = [{"active_parameters": 1e7, "tokens": 2_000, "loss": 3.5, "flops": 1e18, "name": "a"},
             {"loss": 2.5, "tokens": 4e9, "active_parameters": 20_000_000, "name": "b"}]  # fmt: skip
    jsonl = table(tmp_path, "\n\n".join(map(json.dumps, lines)) + "\n")
    rows = "name,loss, tokens,active_parameters,flops\r\na,3.5,2000,1e7,1e18\r\nb,2.5,4e9,20000000,\r\n"
    comma = table(tmp_path, "\ufeff" + rows, "runs.csv")
    cost = TrainingCost(6.0, 5.0)
    expected = [TrainingRun(1e7, 2000, 3.5, 1e18), TrainingRun(2e7, 4e9, 2.5, (6 * 2e7 + 5) * 4e9)]
    assert read_runs(jsonl, cost) == read_runs(comma, cost) == expected


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "line 2: not valid JSON"),
        ("[1]", "line 2: not a JSON object"),
        ("[" * 100_000, "line 2: not valid JSON"),
        ('{"tokens": 1, "loss": 1}', "line 2: active_parameters: missing"),
        ('{"active_parameters": true, "tokens": 1, "loss": 1}', "line 2: active_parameters: True is not a positive"),
        ('{"active_parameters": 1, "tokens": NaN, "loss": 1}', "line 2: tokens: nan is not a positive"),
        ('{"active_parameters": 1, "tokens": 1e999, "loss": 1}', "line 2: tokens: inf is not a positive"),
        ('{"active_parameters": 1, "tokens": 1, "loss": -1}', "line 2: loss: -1 is not a positive"),
        ('{"active_parameters": 1, "tokens": 1, "loss": "1"}', "line 2: loss: '1' is not a positive"),
        ('{"active_parameters": 1, "tokens": 1, "loss": 1, "flops": 0}', "line 2: flops: 0 is not a positive"),
        ('{"active_parameters": 1' + "0" * 400 + ', "tokens": 1, "loss": 1}', "line 2: active_parameters: 1000"),
        ('{"active_parameters": 1' + "0" * 5000 + ', "tokens": 1, "loss": 1}', "line 2: not valid JSON"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, problem: str) -> None:
    good = '{"active_parameters": 1, "tokens": 1, "loss": 1}\n'
    path = table(tmp_path, good + line + "\n" + good)
    with pytest.raises(DataError) as error:
        read_runs(path)
    assert str(path) in str(error.value) and problem in str(error.value)
    assert len(str(error.value)) < 500


def test_all_problems_at_once(tmp_path: Path) -> None:
    path = table(tmp_path, "active_parameters,tokens,loss\n1,x,\n1,2,3\n-1,2,3\n", "runs.csv")
    with pytest.raises(DataError) as error:
        read_runs(path)
    problems = [line for line in str(error.value).splitlines() if line.startswith("  - ")]
    assert problems == ["  - line 2: tokens: 'x' is not a positive number", "  - line 2: loss: missing",
                        "  - line 4: active_parameters: -1.0 is not a positive number"]  # fmt: skip


@pytest.mark.parametrize("name", ["runs.csv", "runs.jsonl"])
def test_no_table(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_runs(tmp_path / name)
    with pytest.raises(DataError, match="no runs"):
        read_runs(table(tmp_path, "\n", name))
    (tmp_path / name).write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match="cannot be read"):
        read_runs(tmp_path / name)
    with pytest.raises(DataError, match="cannot be read"):
        read_runs(tmp_path)


def run(flops: float, size: float = 1e7) -> TrainingRun:
    return TrainingRun(size, 1e9, 3.0, flops)


@given(
    st.lists(st.integers(0, 8), min_size=1, max_size=30),
    st.lists(st.floats(0.99, 1.01), min_size=30, max_size=30),
    st.randoms(use_true_random=False),
)
def test_budgets_are_found(steps: list[int], wobble: list[float], random: object) -> None:
    """Budgets a factor 1.45 apart and runs within 1% of them: every run comes to its own, whatever the order."""
    runs = [run(1e18 * 1.45**step * factor, 1e6 + number)
            for number, (step, factor) in enumerate(zip(steps, wobble, strict=False))]  # fmt: skip
    random.shuffle(runs)  # type: ignore[attr-defined]
    groups = group_by_budget(runs)
    assert len(groups) == len(set(steps)) and list(groups) == sorted(groups)
    assert sorted((item for group in groups.values() for item in group), key=repr) == sorted(runs, key=repr)
    for budget, group in groups.items():
        assert all(abs(item.flops / budget - 1) < 0.03 for item in group)
        assert [item.active_parameters for item in group] == sorted(item.active_parameters for item in group)
    given_budgets = group_by_budget(runs, [1e18 * 1.45**step for step in sorted(set(steps))])
    assert list(given_budgets.values()) == list(groups.values())


def test_runs_far_from_every_budget_are_refused() -> None:
    runs = [run(1e18), run(1.05e18), run(1.3e18, 2e7)]
    with pytest.raises(DataError, match=r"1\.3e\+18 FLOPs \(N 2e\+07.*nearest is 1e\+18"):
        group_by_budget(runs, [1e18, 2e18])
    assert len(group_by_budget(runs, [1e18, 2e18], tolerance=0.35)[1e18]) == 3


def test_budgets_that_run_into_one_another() -> None:
    with pytest.raises(DataError, match="list the budgets meant"):
        group_by_budget([run(1e18 * 1.08**step) for step in range(12)])

"""Checkpoints of many processes: any layout reads what another wrote, and the numbers go on as if nothing had been."""

from __future__ import annotations

from pathlib import Path

import parallel_runs
import pytest
import torch
from process_group import Group

from kaiyuan.training.parallel.layout import Layout

FIRST = {"steps": 3, "checkpoint_every": 2, "decay_to": 1.0, "final_lr": 1.0, "anneal_share": 0.0, "warmup": 0}
WHOLE = {**FIRST, "steps": 5}


@pytest.mark.parametrize(
    "second",
    [Layout(data_shard=4, expert=2), Layout(context=2, tensor=2), Layout(pipeline=2, pipeline_chunks=2), None],
    ids=str,
)
def test_a_run_goes_on_at_another_layout(groups: dict[int, Group], tmp_path: Path, second: Layout | None) -> None:
    """Three steps at one layout (saved after two), the rest at another, equal five steps of one process."""
    layout = second or Layout()
    parts, more = {"micro_batches": layout.pipeline}, (False, False, 4 * layout.pipeline_chunks)
    (expected,) = groups[1].run(parallel_runs.train, None, WHOLE | parts, False, None, True, None, *more)
    first = Layout(data_shard=2, expert=2)
    groups[2].run(parallel_runs.train, first, FIRST | parts, False, None, True, tmp_path, *more)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    world = 1 if second is None else second.size
    found = groups[world].run(parallel_runs.train, second, WHOLE | parts, False, None, True, tmp_path, *more)[0]
    assert found.losses == pytest.approx(expected.losses[2:], abs=1e-5)
    assert found.norms == pytest.approx(expected.norms[2:], rel=1e-5)
    for name, value in expected.weights.items():
        torch.testing.assert_close(found.weights[name], value, rtol=1e-5, atol=1e-5, msg=name)


def test_the_same_layout_goes_on_with_the_same_bits(groups: dict[int, Group], tmp_path: Path) -> None:
    layout = Layout(data_shard=2, expert=2)
    whole = groups[2].run(parallel_runs.train, layout, WHOLE)[0]
    groups[2].run(parallel_runs.train, layout, FIRST, False, None, True, tmp_path)
    found = groups[2].run(parallel_runs.train, layout, WHOLE, False, None, True, tmp_path)[0]
    assert found.losses == whole.losses[2:]
    for name, value in whole.weights.items():
        assert torch.equal(found.weights[name], value), name


def test_a_damaged_checkpoint_is_passed_over(groups: dict[int, Group], tmp_path: Path) -> None:
    layout = Layout(data_shard=2)
    whole = groups[2].run(parallel_runs.train, layout, {**WHOLE, "checkpoint_every": 1}, False, None, True, tmp_path)[0]
    newest = tmp_path / "checkpoints" / "step-00000004"
    file = sorted(newest.glob("shard-*"))[-1]
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - 100)
    found = groups[2].run(parallel_runs.train, layout, WHOLE, False, None, True, tmp_path)[0]
    assert found.losses == whole.losses[3:]


def test_one_process_may_begin_what_many_end(groups: dict[int, Group], tmp_path: Path) -> None:
    (expected,) = groups[1].run(parallel_runs.train, None, WHOLE)
    groups[1].run(parallel_runs.train, None, FIRST, False, None, True, tmp_path)
    found = groups[2].run(parallel_runs.train, Layout(data_shard=2), WHOLE, False, None, True, tmp_path)[0]
    assert found.losses == pytest.approx(expected.losses[2:], abs=1e-5)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_costs_a_checkpoint_and_no_more(groups: dict[int, Group], tmp_path: Path) -> None:
    found = groups[2].run(parallel_runs.train_on_a_full_disk, Layout(data_shard=2), tmp_path)[0]
    assert len(found.losses) == 5
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000003", "step-00000004"], "the first two found no room"

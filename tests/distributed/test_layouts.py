"""Every layout trains like one process: loss, gradient norm, recycled tokens, weights."""

from __future__ import annotations

from typing import Any

import parallel_runs
import pytest
import torch
from parallel_runs import Run
from process_group import Group

from kaiyuan.training.parallel.layout import Layout

_alone: dict[str, Run] = {}


def alone(groups: dict[int, Group], changes: dict[str, Any], **more: Any) -> Run:
    """The same run on one process."""
    key = repr((changes, more))
    if key not in _alone:
        (_alone[key],) = groups[1].run(parallel_runs.train, None, changes, *more.values())
    return _alone[key]


def compare(found: Run, expected: Run, stages: int = 1) -> None:
    assert found.losses == pytest.approx(expected.losses, abs=1e-5)
    assert found.norms == pytest.approx(expected.norms, rel=1e-5)
    assert [line["load"] for line in found.routing] == [line["load"] for line in expected.routing]
    assert max(max(line["recycled"]) for line in expected.routing) > 0.02, "nothing to compare"
    assert [line["recycled"] for line in found.routing] == [line["recycled"] for line in expected.routing]
    if stages == 1:  # else each stage sees its own layers alone
        for one, other in zip(found.recycled, expected.recycled, strict=True):
            assert torch.equal(one, other)
    assert found.weights.keys() == expected.weights.keys()
    for name, value in expected.weights.items():
        torch.testing.assert_close(found.weights[name], value, rtol=1e-5, atol=1e-5, msg=name)


LAYOUTS = [
    Layout(data_shard=2),
    Layout(data_shard=2, expert=2),
    Layout(data_shard=2, data_replicate=2),
    Layout(data_shard=4, expert=2),
    Layout(data_shard=2, data_replicate=2, expert=2),
    Layout(tensor=2),
    Layout(data_shard=2, tensor=2, expert=2),
    Layout(context=2),
    Layout(data_shard=2, context=2, expert=2),
    Layout(context=2, tensor=2),
]


PIPELINES = [
    Layout(pipeline=2),
    Layout(pipeline=2, data_shard=2, expert=2),
    Layout(pipeline=2, tensor=2),
    Layout(pipeline=2, context=2),
    Layout(pipeline=2, data_shard=2, expert=2, tensor=2),
]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("layout", PIPELINES, ids=str)
def test_a_pipeline_trains_like_one_process(groups: dict[int, Group], layout: Layout, tied: bool) -> None:
    changes = {"micro_batches": 2}
    found = groups[layout.size].run(parallel_runs.train, layout, changes, False, None, tied)[0]
    compare(found, alone(groups, changes, documents=False, dtype=None, tied=tied), layout.pipeline)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_layout_trains_like_one_process(groups: dict[int, Group], layout: Layout) -> None:
    found = groups[layout.size].run(parallel_runs.train, layout, {})[0]
    compare(found, alone(groups, {}))

"""Steps of the real program on one of many pretended ranks: what they send is what real ranks send, what they hold can
be worked out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import parallel_runs
import pytest
from process_group import Group

from kaiyuan.training.parallel.layout import Layout

LAYOUTS = {
    "replicas, experts": Layout(data_shard=2, data_replicate=2, expert=2),
    "heads, sequences": Layout(tensor=2, context=2),
    "stages": Layout(pipeline=2, data_shard=2),
    "chunks": Layout(pipeline=2, pipeline_chunks=2, data_shard=2),
}


@pytest.fixture(scope="module")
def pretended() -> Any:
    group = Group(1, pretended=4)
    yield group
    group.close()


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_traced_rank_sends_what_real_ranks_send(groups: dict[int, Group], pretended: Group, name: str) -> None:
    layout = LAYOUTS[name]
    settings = replace(parallel_runs.SETTINGS, micro_batches=2 * layout.pipeline)
    real: list[dict[str, float]] = groups[4].run(parallel_runs.booked, layout, settings)
    (trace,) = pretended.run(parallel_runs.traced, layout, settings)
    traced = {kind: found.sent for kind, found in trace.traffic.items() if kind != "once"}
    assert set(traced) == set(real[0]) - {"objects"}, "every rank is pretended to have the same objects"
    for kind, sent in traced.items():
        if kind == "experts":  # real loads are not quite even
            assert sum(rank[kind] for rank in real) / 4 == pytest.approx(sent, rel=0.25)
        else:
            assert sent == real[0][kind], kind

"""What a layout would cost: state at 256 ranks from the real program, traffic against what a real run sent."""

from __future__ import annotations

from typing import Any

import parallel_runs
import pytest
import torch
from parallel_runs import CONFIG
from process_group import Group

from kaiyuan import ModelConfig
from kaiyuan.training.parallel.layout import Layout
from kaiyuan.training.parallel.traffic import rank_state, traffic


def test_hunyuan_large_at_256_ranks() -> None:
    """389 billion parameters come to a 256th on each rank, give or take what tensor ranks repeat."""
    config = ModelConfig.preset("hunyuan-large")
    group = Group(1, pretended=256)
    try:
        for layout in (Layout(data_shard=256, expert=16), Layout(data_shard=64, expert=16, tensor=4)):
            (state,) = group.run(rank_state, config, layout)
            assert state.parameters == pytest.approx(config.parameters().total / 256, rel=0.002)
            assert state.state_bytes < 25e9
            assert state.largest < config.parameters().total / config.num_layers / 4, "experts stay divided"
        (replicated,) = group.run(rank_state, config, Layout(data_shard=64, data_replicate=4, expert=16))
        assert replicated.parameters == pytest.approx(4 * config.parameters().total / 256, rel=0.002)
    finally:
        group.close()


@pytest.mark.parametrize("layout", [Layout(data_shard=4, expert=2), Layout(tensor=2, context=2)], ids=str)
def test_traffic_is_what_a_run_sends(groups: dict[int, Group], layout: Layout) -> None:
    """Bytes of activations received in one step by all ranks, on average, as the collectives carried them."""
    runs: list[dict[str, Any]] = groups[4].run(parallel_runs.received, layout)
    expected = traffic(CONFIG, layout, rows=8, length=32, width=torch.float32.itemsize)
    for kind in ("routing", "tensor", "context"):
        assert sum(run[kind] for run in runs) / 4 == expected[kind], kind
    found = sum(run["experts"] for run in runs) / 4
    assert found == pytest.approx(expected["experts"], rel=0.25), "loads are not quite even"

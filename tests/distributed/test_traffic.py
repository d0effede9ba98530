"""What a layout would cost, from sizes alone: against the real program, traced at 256 ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import parallel_runs
import pytest
from process_group import Group

from kaiyuan import ModelConfig
from kaiyuan.scaling.layout_memory import layout_memory
from kaiyuan.training.parallel.layout import Layout
from kaiyuan.training.parallel.rank_state import rank_state
from kaiyuan.training.parallel.traffic import Work, total, traffic

SMALL = ModelConfig(
    vocab_size=1000, hidden_size=256, num_layers=4, num_attention_heads=8, num_kv_heads=4, head_dim=32,
    intermediate_size=704, num_experts=16,
)  # fmt: skip


@pytest.fixture(scope="module")
def pretended() -> Iterator[Group]:
    group = Group(1, pretended=256)
    yield group
    group.close()


def test_hunyuan_large_at_256_ranks(pretended: Group) -> None:
    """389 billion parameters come to a 256th on each rank, give or take what tensor ranks repeat."""
    config = ModelConfig.preset("hunyuan-large")
    for layout in (Layout(data_shard=256, expert=16), Layout(data_shard=64, expert=16, tensor=4)):
        (state,) = pretended.run(rank_state, config, layout)
        assert state.parameters == pytest.approx(config.parameters().total / 256, rel=0.002)
        assert state.state_bytes < 25e9
        assert state.largest < config.parameters().total / config.num_layers / 4, "experts stay divided"
    (replicated,) = pretended.run(rank_state, config, Layout(data_shard=64, data_replicate=4, expert=16))
    assert replicated.parameters == pytest.approx(4 * config.parameters().total / 256, rel=0.002)


@pytest.mark.parametrize(
    ("layout", "micro_batches", "recompute", "length"),
    [
        (Layout(data_shard=32, data_replicate=2, expert=8, tensor=2, pipeline=2), 4, "none", 512),
        (Layout(data_shard=64, expert=8, tensor=2, pipeline=2, pipeline_chunks=2), 4, "none", 512),
        (Layout(data_shard=64, expert=16, context=2, tensor=2), 2, "blocks", 512),
        (Layout(data_shard=16, expert=16, context=8, tensor=2), 1, "none", 2**18),
        (Layout(data_shard=256), 1, "experts", 512),
    ],
    ids=str,
)
def test_sizes_are_those_of_the_real_program(
    pretended: Group, layout: Layout, micro_batches: int, recompute: str, length: int
) -> None:
    """Every collective to a byte in a million (what is padded included), state to the byte, the fullest moment to a
    quarter: at 256K tokens anything that grows with their square would be many times as much.
    """
    config = parallel_runs.of_layout(SMALL, layout)
    work = Work(config, layout, layout.data_ranks * micro_batches, length, micro_batches, recompute)
    settings = replace(
        parallel_runs.SETTINGS, micro_batches=micro_batches, recompute=recompute,  # type: ignore[arg-type]
    )  # fmt: skip
    (trace,) = pretended.run(parallel_runs.traced, layout, settings, SMALL, work.rows, work.length)
    found = {kind: each.sent for kind, each in trace.traffic.items() if kind not in ("once", "sums")}
    planned = total(traffic(work))
    assert set(found) == set(planned)
    for kind, sent in planned.items():
        assert found[kind] == pytest.approx(sent, rel=1e-5), kind
    memory = layout_memory(work)
    assert trace.parameters == memory.parameters
    assert trace.moments == pytest.approx(memory.moments, rel=0.01), "and AdamW's counters"
    assert trace.peak == pytest.approx(memory.total, rel=0.25)

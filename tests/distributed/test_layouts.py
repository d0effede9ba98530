"""Every layout trains like one process: loss, gradient norm, recycled tokens, weights."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import parallel_runs
import pytest
import torch
from parallel_runs import SETTINGS, Run
from process_group import Group

from kaiyuan.errors import ConfigError
from kaiyuan.recipe import ParallelSection
from kaiyuan.training.parallel.layout import Layout

ROUTING = SETTINGS.routing
_alone: dict[str, Run] = {}


def alone(groups: dict[int, Group], changes: dict[str, Any], **more: Any) -> Run:
    """The same run on one process."""
    key = repr((changes, more))
    if key not in _alone:
        (_alone[key],) = groups[1].run(parallel_runs.train, None, changes, *more.values())
    return _alone[key]


def compare(found: Run, expected: Run, stages: int = 1, recycles: bool = True) -> None:
    assert found.losses == pytest.approx(expected.losses, abs=1e-5)
    assert found.norms == pytest.approx(expected.norms, rel=1e-5)
    assert [line["load"] for line in found.routing] == [line["load"] for line in expected.routing]
    assert not recycles or max(max(line["recycled"]) for line in expected.routing) > 0.02, "nothing to compare"
    assert [line["recycled"] for line in found.routing] == [line["recycled"] for line in expected.routing]
    if stages == 1 and recycles:  # else each stage sees its own layers alone
        for one, other in zip(found.recycled, expected.recycled, strict=True):
            assert torch.equal(one, other)
    assert found.weights.keys() == expected.weights.keys()
    for name, value in expected.weights.items():
        torch.testing.assert_close(found.weights[name], value, rtol=1e-5, atol=1e-5, msg=name)


EVERY = os.environ.get("KAIYUAN_LAYOUTS") == "all"
"""By default products of several kinds stand for their factors, to save time."""
LAYOUTS = [
    Layout(data_shard=2),
    Layout(data_replicate=2, data_shard=2, expert=2),
    Layout(data_shard=2, tensor=2, expert=2),
    Layout(context=2, tensor=2),
]
if EVERY:
    LAYOUTS += [
        Layout(data_shard=2, expert=2),
        Layout(data_replicate=2, data_shard=2),
        Layout(data_shard=4, expert=2),
        Layout(tensor=2),
        Layout(context=2),
        Layout(data_shard=2, context=2, expert=2),
        Layout(data_shard=2, context=2, tensor=2, expert=2),
        Layout(data_replicate=2, data_shard=4, expert=4),
    ]


VARIANTS = {
    "documents": ({}, {"documents": True}),
    "untied head": ({}, {"tied": False}),
    "dropped": ({"routing": replace(ROUTING, mode="drop")}, {}),
    "dropless": ({"routing": replace(ROUTING, mode="dropless")}, {}),
    "last go first": ({"routing": replace(ROUTING, overflow="position")}, {}),
    "micro-batches": ({"micro_batches": 2}, {}),
    "recomputed": ({"recompute": "blocks"}, {}),
}


@pytest.mark.parametrize("layout", [Layout(data_shard=2, context=2, expert=2), *[Layout(tensor=2)] * EVERY], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_train_like_one_process(groups: dict[int, Group], layout: Layout, variant: str) -> None:
    changes, more = VARIANTS[variant]
    options = {"documents": False, "dtype": None, "tied": True, **more}
    found = groups[layout.size].run(parallel_runs.train, layout, changes, *options.values())[0]
    compare(found, alone(groups, changes, **options), recycles="drop" not in variant)


def test_ranks_may_decide_for_themselves(groups: dict[int, Group]) -> None:
    """Each rank is then like one device with its rows: nothing is recycled that it has room for."""
    layout = Layout(data_shard=2, expert=2, decide="per rank")
    first, second = groups[2].run(parallel_runs.train, layout, {"steps": 1})
    whole = alone(groups, {"steps": 1})
    tokens = len(whole.recycled[0])
    assert [len(found) for found in (first.recycled[0], second.recycled[0])] == [tokens // 2, tokens // 2]
    shares = [float((run.recycled[0] >= 0).float().mean()) for run in (first, second)]
    assert first.routing[0]["recycled"][0] == pytest.approx(sum(shares) / 2, abs=1e-5)
    assert first.losses == pytest.approx(whole.losses, rel=0.02)


@pytest.mark.parametrize("documents", [False, True])
def test_no_tensor_of_a_divided_sequence_has_its_tokens_twice(groups: dict[int, Group], documents: bool) -> None:
    """Own tokens times all tokens would be a mask; at most a block of 128 queries meets all keys."""
    length, heads = 4096, parallel_runs.CONFIG.num_attention_heads
    block = heads * 128 * length
    assert block < length // 2 * length / 2
    found = groups[2].run(parallel_runs.largest_tensor, Layout(context=2), length, documents)
    assert max(found) == block


def test_a_rank_reads_its_own_rows_alone(groups: dict[int, Group]) -> None:
    """Ranks that hold parts of the same sequences read the same rows; together they read every row once."""
    first, second = [0, 1, 4, 5], [2, 3, 6, 7]
    found = groups[4].run(parallel_runs.own_rows, Layout(data_shard=2, tensor=2), 8, 2)
    assert found == [first, first, second, second]
    assert groups[4].run(parallel_runs.own_rows, Layout(data_shard=2, data_replicate=2), 4, 1) == [[0], [1], [2], [3]]


def test_a_model_is_made_in_parts(groups: dict[int, Group]) -> None:
    """A model that no rank has ever held whole has the very weights of one that was."""
    layout = Layout(data_shard=2, expert=2, tensor=2)
    found, expected = (
        groups[4].run(parallel_runs.train, layout, {"steps": 1}, False, None, True, None, False, meta)[0]
        for meta in (True, False)
    )
    assert found.losses == expected.losses
    assert all(torch.equal(found.weights[name], value) for name, value in expected.weights.items())


def test_mixed_precision_keeps_the_router_in_float32(groups: dict[int, Group]) -> None:
    dtype = torch.bfloat16
    found = groups[4].run(parallel_runs.train, Layout(data_shard=4, expert=2), {}, False, dtype)[0]
    expected = alone(groups, {}, documents=False, dtype=dtype)
    assert found.losses == pytest.approx(expected.losses, rel=0.01)
    assert found.norms == pytest.approx(expected.norms, rel=0.05)
    assert found.routing[0]["load"][0] == expected.routing[0]["load"][0], "the first layer's router saw the same bits"
    assert all(value.dtype == torch.float32 for value in found.weights.values())


def test_impossible_layouts_are_refused_in_one_line() -> None:
    config = parallel_runs.CONFIG
    for layout, reason in (
        (Layout(data_shard=3, expert=2), r"expert=2 takes its ranks from data_shard=3 and does not divide it"),
        (Layout(data_shard=8, expert=8), r"expert=8 does not divide the 4 experts of layer 0"),
        (Layout(tensor=4), r"tensor=4 does not divide the 2 key/value heads"),
        (Layout(context=3), r"sequences of 32 tokens cannot be cut into 6 equal parts"),
        (Layout(data_shard=16), r"a micro-batch of 8 sequences cannot be divided among 16 data ranks"),
        (Layout(pipeline=3), r"pipeline=3 stages for 2 groups of layers that share keys and values"),
        (Layout(pipeline=2, pipeline_chunks=2), r"pipeline=2 \* pipeline_chunks=2 stages for 2 groups of layers"),
        (Layout(pipeline_chunks=2), r"pipeline_chunks=2 divides the layers of a pipeline's ranks, and pipeline=1"),
    ):
        with pytest.raises(ConfigError, match=rf"^\[parallel\] {reason}[^\n]*$"):
            layout.check(config, 8, 32)
    with pytest.raises(ConfigError, match=r"takes micro-batches in rounds of pipeline=2, which does not divide 3$"):
        Layout(pipeline=2, pipeline_chunks=2).check(config.replace(num_layers=8), 6, 32, 3)
    with pytest.raises(ConfigError, match=r"^\[parallel\] data_shard=3 needs 3 processes, there are 4$"):
        Layout.of(ParallelSection(data_shard=3), 4)
    assert Layout.of(ParallelSection(tensor=2), 8).data_shard == 4


@pytest.mark.parametrize(
    ("pipeline", "chunks", "groups"), [(2, 1, 5), (16, 1, 126), (16, 7, 126), (3, 4, 17), (4, 2, 8)]
)
def test_ranks_of_a_pipeline_have_about_as_many_layers(pipeline: int, chunks: int, groups: int) -> None:
    """All layers once and in order, no pair cut, none of the ranks with over one pair more than another."""
    layout, layers = Layout(pipeline=pipeline, pipeline_chunks=chunks), 2 * groups - 1  # the last has no partner
    ranks = [layout.chunks(layers, 2, rank) for rank in range(pipeline)]
    in_order = [ranks[stage % pipeline][stage // pipeline] for stage in range(layout.stages)]
    assert [index for stage in in_order for index in stage] == list(range(layers))
    assert all(stage.start % 2 == 0 and len(stage) for stage in in_order)
    pairs = [sum(-(-len(chunk) // 2) for chunk in chunks) for chunks in ranks]
    assert max(pairs) - min(pairs) <= 1
    assert max(pairs) > pairs[-1] or groups % layout.stages == 0, "the loss takes time too"


PIPELINES = [
    (Layout(pipeline=2), True),
    (Layout(pipeline=2), False),
    (Layout(pipeline=2, data_shard=2, expert=2, tensor=2), True),
]
if EVERY:
    PIPELINES += [
        (Layout(pipeline=2, data_shard=2, expert=2), False),
        (Layout(pipeline=2, tensor=2), True),
        (Layout(pipeline=2, context=2), True),
        (Layout(pipeline=2, context=2, data_replicate=2), False),
    ]


@pytest.mark.parametrize(("layout", "tied"), PIPELINES, ids=str)
def test_a_pipeline_trains_like_one_process(groups: dict[int, Group], layout: Layout, tied: bool) -> None:
    changes = {"micro_batches": 2}
    found = groups[layout.size].run(parallel_runs.train, layout, changes, False, None, tied)[0]
    compare(found, alone(groups, changes, documents=False, dtype=None, tied=tied), layout.pipeline)


CHUNKS = [
    (Layout(pipeline=2, pipeline_chunks=2, data_shard=2, expert=2), True, 4, 8),
    (Layout(pipeline=4, pipeline_chunks=2), True, 8, 16),  # with ranks that are at neither end
]
if EVERY:
    CHUNKS += [
        (Layout(pipeline=2, pipeline_chunks=2), False, 2, 8),
        (Layout(pipeline=2, pipeline_chunks=4, tensor=2), True, 4, 16),
        (Layout(pipeline=4, data_shard=2), True, 4, 8),
    ]


@pytest.mark.parametrize(("layout", "tied", "micro_batches", "layers"), CHUNKS, ids=str)
def test_chunks_of_a_pipeline_train_like_one_process(
    groups: dict[int, Group], layout: Layout, tied: bool, micro_batches: int, layers: int
) -> None:
    """Interleaved 1F1B: every rank has several stages, between which are those of others."""
    assert len(layout.chunks(layers, 2, 1)) == layout.pipeline_chunks
    inputs = {"micro_batches": micro_batches}, False, None, tied, None, False, False, layers
    found = groups[layout.size].run(parallel_runs.train, layout, *inputs)[0]
    (expected,) = groups[1].run(parallel_runs.train, None, *inputs)
    compare(found, expected, layout.pipeline)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_layout_trains_like_one_process(groups: dict[int, Group], layout: Layout) -> None:
    found = groups[layout.size].run(parallel_runs.train, layout, {})[0]
    compare(found, alone(groups, {}))

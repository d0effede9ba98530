"""Layouts: links and bubble by brute force and known formulas, the search against a plain one, the command's text."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from kaiyuan.errors import ConfigError, KaiyuanError
from kaiyuan.model.config import ModelConfig
from kaiyuan.scaling.hardware import KINDS, LATENCY, find_kind
from kaiyuan.scaling.layout_memory import in_flight
from kaiyuan.scaling.layout_time import bubble_share, collective_time, members, step_time
from kaiyuan.scaling.layouts import find_layouts
from kaiyuan.scaling.layouts_text import describe_layouts, sequences
from kaiyuan.scaling.plan import number
from kaiyuan.training.parallel.layout import Layout
from kaiyuan.training.parallel.traffic import Sent, Work, total, traffic

H100 = KINDS["h100"]
MEASURED = ModelConfig(
    vocab_size=32_768, hidden_size=1536, num_layers=8, num_attention_heads=24, num_kv_heads=8, head_dim=64,
    intermediate_size=4096,
)  # fmt: skip


Passes = list[tuple[str, int, int]]
"""Forward or backward, stage, micro-batch."""


def one_forward_one_backward(ranks: int, parts: int, rank: int) -> Passes:
    warm = min(ranks - rank, parts)
    order = [("F", rank, part) for part in range(warm)]
    for part in range(parts):
        order.append(("B", rank, part))
        if warm + part < parts:
            order.append(("F", rank, warm + part))
    return order


def interleaved(ranks: int, parts: int, chunks: int, rank: int) -> Passes:
    """Rounds of as many micro-batches as ranks through each chunk in turn; backwards the chunks' order is the other."""

    def one(what: str, nth: int) -> tuple[str, int, int]:
        turn, place = divmod(nth, ranks)
        chunk = turn % chunks if what == "F" else chunks - 1 - turn % chunks
        return what, chunk * ranks + rank, turn // chunks * ranks + place

    warm = min((chunks - 1) * ranks + 2 * (ranks - 1 - rank), chunks * parts)
    order = [one("F", nth) for nth in range(warm)]
    for nth in range(chunks * parts):
        if warm + nth < chunks * parts:
            order.append(one("F", warm + nth))
        order.append(one("B", nth))
    return order


@pytest.mark.parametrize(
    ("ranks", "parts", "chunks"),
    [(1, 1, 1), (2, 2, 1), (4, 4, 1), (4, 7, 1), (8, 32, 1), (2, 2, 2), (4, 8, 2), (8, 32, 4)],
)
def test_the_bubble_is_that_of_a_schedule(ranks: int, parts: int, chunks: int) -> None:
    """Against 1F1B played out: forward passes take 1, backward passes 2."""
    ready: dict[tuple[str, int, int], int] = {}
    queues = [
        one_forward_one_backward(ranks, parts, rank) if chunks == 1 else interleaved(ranks, parts, chunks, rank)
        for rank in range(ranks)
    ]
    clocks, held, most = [0] * ranks, [0] * ranks, [0] * ranks
    while any(queues):
        for rank, queue in enumerate(queues):
            if not queue:
                continue
            what, stage, part = queue[0]
            needs = ("F", stage - 1, part) if what == "F" else ("B", stage + 1, part)
            if (what == "F" and stage == 0) or (what == "B" and stage == ranks * chunks - 1):
                needs = ("F", stage, part) if what == "B" else ("", 0, 0)
            if needs[0] and needs not in ready:
                continue
            start = max(clocks[rank], ready.get(needs, 0))
            clocks[rank] = ready[what, stage, part] = start + (1 if what == "F" else 2)
            held[rank] += 1 if what == "F" else -1
            most[rank] = max(most[rank], held[rank])
            queue.pop(0)
    assert bubble_share(ranks, parts, chunks) == pytest.approx(1 - 3 * chunks * parts / max(clocks))
    work = Work(MEASURED, Layout(pipeline=ranks, pipeline_chunks=chunks), parts, 4096, parts)
    assert [in_flight(work, rank) * chunks for rank in range(ranks)] == most


@pytest.mark.parametrize("chunks", [1, 2])
def test_the_bubble_of_a_step(chunks: int) -> None:
    layout = Layout(data_shard=2, pipeline=4 // chunks, pipeline_chunks=chunks)
    time = step_time(Work(MEASURED, layout, 64, 4096, 32), H100)
    without = time.total - time.update
    assert time.bubble / without == pytest.approx(bubble_share(layout.pipeline, 32, chunks), rel=0.02)


def test_who_is_on_which_host() -> None:
    """Against the ranks' coordinates, listed."""
    layout = Layout(data_shard=8, data_replicate=2, expert=4, tensor=2, context=2, pipeline=2)
    names = ("pipeline", "replicate", "shard", "context", "expert", "tensor")
    places = list(itertools.product(range(2), range(2), range(2), range(2), range(4), range(2)))
    for count in (1, 2, 3):
        for dims in itertools.combinations(names, count):
            mine = [
                rank for rank, place in enumerate(places)
                if all(value == 0 for name, value in zip(names, place, strict=True) if name not in dims)
            ]  # fmt: skip
            assert members(layout, dims) == (len(mine), len({rank // 8 for rank in mine}))


def test_seconds_of_a_gather() -> None:
    """A ring's bytes, (n - 1) / n of the whole, over the link that binds."""
    sent = Sent("weights", ("shard",), 1, 7 / 8 * 1e9)
    link, seconds = collective_time(sent, Layout(data_shard=8), H100)
    assert (link, seconds) == ("nvlink", pytest.approx(7 / 8 * 1e9 / (0.8 * 450e9) + 7 * LATENCY["node"]))
    link, seconds = collective_time(sent._replace(sent=15 / 16 * 1e9), Layout(data_shard=16), H100)
    steps = 2 * LATENCY["network"] + 14 * LATENCY["node"]
    assert (link, seconds) == ("network", pytest.approx(15 / 16 * 1e9 / (8 * 0.8 * 50e9) + steps))
    alone = Layout(data_shard=2, tensor=8)  # two hosts, one rank of a group on each
    link, seconds = collective_time(sent._replace(sent=0.5e9), alone, H100)
    assert (link, seconds) == ("network", pytest.approx(0.5e9 / (0.8 * 50e9) + 2 * LATENCY["network"]))


def test_bytes_of_weights_by_hand() -> None:
    """Even shards of a tiny model: two gathers in bfloat16 and one reduction in float32 of all but one's own part."""
    work = Work(MEASURED, Layout(data_shard=8, expert=8), 8, 4096)
    found = total(traffic(work))
    count = MEASURED.parameters()
    experts, router, root = count.experts / 8, count.router, count.embedding + 1536
    blocks = count.total - count.experts - count.router - root
    weights = 2 * 2 * blocks * 7 / 8 + 2 * root * 7 / 8 + 2 * 4 * router * 7 / 8
    assert found["weights"] == pytest.approx(weights, rel=1e-3), "two experts a rank are gathered from nobody"
    assert experts and found["gradients"] == pytest.approx(4 * (blocks + router + root) * 7 / 8, rel=1e-3)


@pytest.mark.parametrize(("rows", "mfu"), [(8, 0.417), (16, 0.457)])
def test_one_gpu_as_measured(rows: int, mfu: float) -> None:
    """The steps on one H100 in docs/lab-notes.md, within a twentieth."""
    time = step_time(Work(MEASURED, Layout(), rows, 4096), H100)
    tokens = rows * 4096
    assert MEASURED.flops(4096).training * tokens / time.total / 989e12 == pytest.approx(mfu, rel=0.05)


def test_layouts_are_all_that_the_trainer_takes() -> None:
    """Against every choice of seven numbers, small enough to try all."""
    config = ModelConfig.preset("1m").replace(num_layers=8)
    found = find_layouts(config, H100, 4, 16, 4096)
    expected = set()
    for *sizes, chunks in itertools.product((1, 2, 4), repeat=7):
        layout = Layout(*sizes, pipeline_chunks=chunks)
        try:
            layout.check(config, 16, 4096, 16 // layout.data_ranks)
        except ConfigError:
            continue
        if layout.size == 4:
            expected.add(layout)
    assert {each.work.layout for each in found.fitting} == expected
    assert all(each.fits for each in found.fitting) and not found.too_large
    times = [each.time.total for each in found.fitting]
    assert times == sorted(times)


def test_what_does_not_fit_and_what_binds() -> None:
    config = ModelConfig.preset("hunyuan-large")
    found = find_layouts(config, H100, 8, 8, 4096)
    assert not found.fitting and found.too_large, "389 billion parameters are 6.2 TB of state"
    found = find_layouts(ModelConfig.preset("1b"), H100, 8, 64, 4096)
    best = found.best
    assert best is not None and best.mfu() == max(each.mfu() for each in found.fitting)
    assert found.binds() in found.bounds() and min(found.bounds().values()) >= best.mfu() * (1 - 1e-9)


def test_the_text_and_the_record() -> None:
    text = describe_layouts("1b", "H100", 8, 1e11, 4096, 262_144)
    assert text.splitlines()[0] == "1b on 8 H100, 100B tokens" and text.isascii()
    for words in ("where memory goes", "where time goes", "What binds", "Why others do not fit", "[parallel] "):
        assert words in text
    record: dict[str, Any] = json.loads(describe_layouts("1b", "h100", 4, 1e11, 4096, 262_144, 4.0, as_json=True))
    first = record["layouts"][0]
    assert first["dollars"] == pytest.approx(first["days"] * 24 * 4 * 4)
    assert first["memory_total"] == pytest.approx(sum(first["memory"].values()))
    assert first["step_seconds"] == pytest.approx(sum(first["seconds"].values()))
    assert first["days"] == pytest.approx(1e11 / 262_144 * first["step_seconds"] / 86_400)
    assert "No layout fits" in describe_layouts("hunyuan-large", "h20", 2, 1e9, 4096, 32_768)


def test_bad_input() -> None:
    with pytest.raises(ConfigError, match=r"no kind of GPU 'b300'; there are: h100"):
        find_kind("b300")
    with pytest.raises(ConfigError, match="neither 'globally' nor 'per rank'"):
        describe_layouts("1b", "h100", 8, 1e9, 4096, 1e6, decide="nobody")
    with pytest.raises(ConfigError, match="holds no sequence"):
        describe_layouts("1b", "h100", 8, 1e9, 4096, 100)
    assert (sequences(8e6, 4096), sequences(1e6, 4096), sequences(3 * 4096, 4096)) == (2048, 256, 3)
    assert (number("7T"), number("1.5b"), number("8e6"), number("64k")) == (7e12, 1.5e9, 8e6, 64e3)
    for text in ("", "T", "seven", "nan", "-1", "1e30"):
        with pytest.raises(ConfigError, match="not a number of tokens"):
            number(text)
    with pytest.raises(SystemExit):
        from kaiyuan.cli import main

        main(["plan", "1b", "--json"])
    assert issubclass(ConfigError, KaiyuanError)

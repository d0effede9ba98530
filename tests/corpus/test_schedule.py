from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan.corpus.loader import MixturePhase, TokenLoader
from kaiyuan.corpus.schedule import follow, read_mixture, scheduled, used, within_epochs
from kaiyuan.corpus.shards import Shard
from kaiyuan.errors import ConfigError

LABELS = ("web", "books", "code", "synthetic")
WEIGHTS = st.dictionaries(st.sampled_from(LABELS), st.integers(1, 60), min_size=1)


def shards(size: int = 4000) -> dict[str, Shard]:
    return {
        label: Shard(label, np.arange(size, dtype=np.uint16), np.array([0, size]), eos_id=0, sha256=label)
        for label in LABELS
    }


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 150), WEIGHTS), min_size=1, max_size=4), st.integers(0, 5))
def test_every_beginning_of_the_stream_has_the_proportions(parts: list[tuple[int, dict]], seed: int) -> None:
    """With shuffle 1 each phase is, at any place of it, within one window of its ideal proportions."""
    phases, until = [], 0
    for length, weights in parts:
        until += length
        phases.append(MixturePhase(until, weights))
    source = TokenLoader(shards(), phases, 16, seed, shuffle=1)
    start = 0
    for phase in phases:
        had: Counter[str] = Counter()
        total = sum(phase.weights.values())
        for index in range(start, phase.until):
            had[source.sequence(index).label] += 1
            for label in LABELS:
                ideal = Fraction((index + 1 - start) * phase.weights.get(label, 0), total)
                assert abs(had[label] - ideal) < 1
        start = phase.until


def test_a_changed_world_size_serves_the_same_sequences() -> None:
    source = TokenLoader(shards(), [MixturePhase(64, {"web": 3, "books": 1})], 16, 1, shuffle=1)
    whole = source.batch(2, 8)[0]
    for world in (2, 4, 8):
        parts = [source.batch(2, 8, rank, world)[0] for rank in range(world)]
        assert np.array_equal(np.concatenate(parts), whole)


def test_the_order_of_labels_belongs_to_the_fingerprint() -> None:
    phases = [MixturePhase(64, {"web": 1, "books": 1})]
    found = {TokenLoader(shards(), phases, 16, 1, shuffle).fingerprint() for shuffle in (1, 64, 256)}
    assert len(found) == 3
    with pytest.raises(ConfigError, match="shuffle: 0 is not 1 or more"):
        TokenLoader(shards(), phases, 16, 1, 0)


def test_steps_and_annealing_follow_each_other() -> None:
    first, second, best = {"web": 1.0}, {"web": 1.0, "books": 1.0}, {"books": 1.0}
    assert scheduled(100, 80, first, {0.5: second}, best) == [
        MixturePhase(40, first), MixturePhase(80, second), MixturePhase(100, best)
    ]  # fmt: skip
    assert scheduled(100, 80, first, {}, {}) == [MixturePhase(100, first)]
    assert scheduled(100, 0, first, {}, best) == [MixturePhase(100, best)]
    assert scheduled(100, 100, first, {}, best) == [MixturePhase(100, first)]


@settings(max_examples=80, deadline=None)
@given(WEIGHTS, WEIGHTS, st.dictionaries(st.sampled_from(LABELS[:3]), st.floats(0.5, 3)))
def test_no_label_is_seen_more_often_than_allowed(one: dict, two: dict, caps: dict) -> None:
    phases = [MixturePhase(120, {**one, "synthetic": 1}), MixturePhase(200, {**two, "synthetic": 1})]
    have = shards(320)  # 20 windows a label
    windows = {label: Fraction(20) for label in have}
    source = TokenLoader(have, within_epochs(phases, windows, caps), 16, 1, shuffle=1)
    assert len(source) == 200
    had = Counter(source.sequence(index).label for index in range(200))
    parts = len(source.phases)
    for label, cap in caps.items():
        assert had[label] <= 20 * cap + parts
    free = TokenLoader(have, phases, 16, 1, shuffle=1)
    wanted = Counter(free.sequence(index).label for index in range(200))
    for label in LABELS:  # who is not capped gets no less than before
        if label not in caps:
            assert had[label] >= wanted[label] - parts - 2


def test_a_share_that_ends_goes_to_the_others() -> None:
    found = within_epochs(
        [MixturePhase(100, {"web": 2, "books": 1, "code": 1})], dict.fromkeys(LABELS, Fraction(10)), {"books": 1}
    )
    assert found == [MixturePhase(40, {"web": 2, "books": 1, "code": 1}), MixturePhase(100, {"web": 2, "code": 1})]
    with pytest.raises(ConfigError, match="from sequence 20 on nothing is left of books"):
        within_epochs([MixturePhase(100, {"books": 1})], {"books": Fraction(10)}, {"books": 2})
    with pytest.raises(ConfigError, match="no shards for poems"):
        within_epochs([MixturePhase(100, {"books": 1})], {"books": Fraction(10)}, {"poems": 2})


def test_a_change_in_the_middle_keeps_what_was(tmp_path: Path) -> None:
    path = tmp_path / "mixture.jsonl"
    old, new = [MixturePhase(100, {"web": 1.0})], [MixturePhase(100, {"books": 1.0})]
    assert follow(path, 0, old) == old
    assert follow(path, 30, old) == old and len(path.read_text().splitlines()) == 1
    changed = [MixturePhase(30, {"web": 1.0}), MixturePhase(100, {"books": 1.0})]
    assert follow(path, 30, new) == changed
    assert follow(path, 50, new) == changed  # killed and gone on: no record more
    assert [json.loads(line)["at"] for line in path.read_text().splitlines()] == [0, 30]
    before, after = (TokenLoader(shards(), phases, 16, 1) for phases in (old, changed))
    for index in range(30):
        assert before.sequence(index).label == after.sequence(index).label == "web"
    assert used(changed, 60) == [
        {"from": 0, "until": 30, "shares": {"web": 1.0}}, {"from": 30, "until": 60, "shares": {"books": 1.0}}
    ]  # fmt: skip


def test_a_mixture_file(tmp_path: Path) -> None:
    path = tmp_path / "mixture.toml"
    path.write_text("web = 2\nbooks = 0.5\n")
    assert read_mixture(path) == {"web": 2.0, "books": 0.5}
    path.write_text("web = 'much'\n")
    with pytest.raises(ConfigError, match="web: expected a number"):
        read_mixture(path)
    with pytest.raises(ConfigError, match=r"none\.toml: no such file"):
        read_mixture(tmp_path / "none.toml")

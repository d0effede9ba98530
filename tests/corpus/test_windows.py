from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan.corpus.shards import Shard
from kaiyuan.corpus.windows import LongWindows, PackedWindows
from kaiyuan.errors import DataError


def shard(label: str, sizes: list[int]) -> Shard:
    """Documents of ``sizes`` tokens; the tokens are numbered on, so that each tells where it is from."""
    offsets = np.cumsum([0, *sizes])
    tokens = np.arange(offsets[-1], dtype=np.uint32)
    return Shard(label, tokens, offsets, eos_id=0, sha256=f"{label}{sizes}")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 300), st.integers(0, 5), st.integers(0, 3))
def test_every_window_is_seen_once_an_epoch(length: int, extra: int, seed: int, epoch: int) -> None:
    """The inputs of an epoch's windows are distinct tokens, all but fewer than ``length`` of the shard's."""
    size = length + 1 + extra
    windows = PackedWindows(shard("web", [size]), length, seed)
    drawn = [windows.draw(epoch * windows.count + turn) for turn in range(windows.count)]
    inputs = np.concatenate([tokens[:-1] for tokens in drawn])
    assert len(set(inputs.tolist())) == len(inputs) == size - size % length
    for tokens in drawn:
        assert tokens.tolist() == [(int(tokens[0]) + step) % size for step in range(length + 1)]


BOOKS = shard("books", [400, 90, 333])


def test_epochs_differ_in_order_and_cuts() -> None:
    windows = PackedWindows(BOOKS, 16, seed=1)
    starts = [int(windows.draw(number)[0]) for number in range(4 * windows.count)]
    epochs = [starts[first : first + windows.count] for first in range(0, len(starts), windows.count)]
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert len({min(start % 16 for start in epoch) for epoch in epochs}) > 1
    other = PackedWindows(BOOKS, 16, seed=2)
    assert [int(other.draw(turn)[0]) for turn in range(other.count)] != epochs[0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=12), st.integers(1, 30), st.integers(0, 3))
def test_long_windows_lie_within_one_document(sizes: list[int], length: int, epoch: int) -> None:
    source = shard("books", sizes)
    windows = LongWindows(source, length, seed=4)
    assert windows.count == sum((size - 1) // length for size in sizes)
    per_document: Counter[int] = Counter()
    inputs: list[int] = []
    for turn in range(windows.count):
        tokens = windows.draw(epoch * windows.count + turn)
        document = int(np.searchsorted(source.offsets, tokens[0], side="right")) - 1
        assert tokens.tolist() == list(range(int(tokens[0]), int(tokens[0]) + length + 1))
        assert tokens[-1] < source.offsets[document + 1]
        per_document[document] += 1
        inputs += tokens[:-1].tolist()
    assert len(set(inputs)) == len(inputs)
    assert per_document == Counter({place: (size - 1) // length for place, size in enumerate(sizes) if size > length})


def test_a_shard_of_fewer_tokens_than_a_sequence() -> None:
    with pytest.raises(DataError, match=r"label 'web' has 16 tokens, fewer than one sequence of 17"):
        PackedWindows(shard("web", [16]), 16, seed=0)
    assert sorted(PackedWindows(shard("web", [17]), 16, seed=0).draw(0).tolist()) == list(range(17))

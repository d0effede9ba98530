from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan.corpus.permutation import Permutation, key_of, mix


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 700), st.integers(0, 2**64 - 1))
def test_permutation_is_a_bijection(size: int, key: int) -> None:
    permutation = Permutation(size, key)
    assert sorted(permutation(index) for index in range(size)) == list(range(size))


@settings(max_examples=100, deadline=None)
@given(st.integers(2**30, 2**62), st.integers(0, 2**64 - 1), st.data())
def test_permutation_of_a_huge_range(size: int, key: int, data: st.DataObject) -> None:
    indices = data.draw(st.lists(st.integers(0, size - 1), min_size=2, max_size=30, unique=True))
    images = [Permutation(size, key)(index) for index in indices]
    assert len(set(images)) == len(indices)
    assert all(0 <= image < size for image in images)


def test_permutation_refuses_what_is_outside() -> None:
    for index in (-1, 5):
        with pytest.raises(IndexError):
            Permutation(5, 0)(index)


@pytest.mark.parametrize("size", [2, 3, 5, 8, 10, 33])
def test_permutations_look_random(size: int) -> None:
    """Over many keys every element comes first, and last, about equally often (chi-square, 5 standard deviations)."""
    trials = 400 * size
    for place in (0, size - 1):
        counts = Counter(Permutation(size, key_of("test", size, trial))(place) for trial in range(trials))
        chi_square = sum((counts[value] - 400) ** 2 / 400 for value in range(size))
        assert chi_square < (size - 1) + 5 * (2 * (size - 1)) ** 0.5


def test_permutation_of_thousands_leaves_no_trace_of_order() -> None:
    images = np.array([Permutation(5000, 3)(index) for index in range(5000)])
    assert abs(np.corrcoef(images, np.arange(5000))[0, 1]) < 0.06
    assert abs(np.corrcoef(images[1:], images[:-1])[0, 1]) < 0.06


def test_mix_is_splitmix64() -> None:
    """The published first outputs of SplitMix64 from seed 1234567."""
    gamma = 0x9E3779B97F4A7C15
    outputs = [mix((1234567 + turn * gamma) % 2**64) for turn in range(3)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_keys_are_stable_and_differ() -> None:
    assert key_of(1, "a", 2) == int.from_bytes(hashlib.blake2b(b'[1, "a", 2]', digest_size=8).digest(), "little")
    assert len({key_of(1, "a"), key_of("1", "a"), key_of("a", 1), key_of(1, "a", 0)}) == 4

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan.corpus.mixture import MixturePhase, Stream, Turns, caps_by_label, spread, stream_shares, whole_counts
from kaiyuan.errors import ConfigError

COUNTS = st.lists(st.integers(1, 40), min_size=1, max_size=9).map(
    lambda counts: {Stream(f"label{index}"): count for index, count in enumerate(counts)}
)


@settings(max_examples=100, deadline=None)
@given(COUNTS)
def test_turns_stay_within_one_of_their_share_at_every_place(counts: dict[Stream, int]) -> None:
    turns, period = Turns(counts), sum(counts.values())
    had: Counter[Stream] = Counter()
    for place in range(2 * period + 1):
        assert turns.before(place) == {stream: had[stream] for stream in counts}
        assert all(abs(had[stream] - Fraction(place * count, period)) < 1 for stream, count in counts.items())
        had[turns[place]] += 1


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.floats(1e-6, 1e6), min_size=1))
def test_whole_counts_are_close_to_any_weights(weights: dict[str, float]) -> None:
    shares = stream_shares(MixturePhase(1, weights), set())
    assert sum(shares.values()) == 1
    counts = whole_counts(shares)
    assert min(counts.values()) >= 1
    total = sum(counts.values())
    for stream, share in shares.items():
        assert abs(counts[stream] / total - share) < 1e-3


def test_whole_counts_are_exact_where_they_can_be() -> None:
    shares = stream_shares(MixturePhase(1, {"a": 0.35, "b": 0.4, "c": 0.25}), set())
    assert whole_counts(shares) == {Stream("a"): 7, Stream("b"): 8, Stream("c"): 5}
    assert whole_counts(stream_shares(MixturePhase(1, {"a": 1, "b": 2, "c": 0}), set())) == {
        Stream("a"): 1,
        Stream("b"): 2,
    }


def test_long_share_goes_to_labels_with_long_documents() -> None:
    phase = MixturePhase(1, {"web": 2, "books": 1, "code": 1}, long_documents=0.25)
    assert stream_shares(phase, {"books", "code"}) == {
        Stream("web"): Fraction(3, 8),
        Stream("books"): Fraction(3, 16),
        Stream("code"): Fraction(3, 16),
        Stream("books", True): Fraction(1, 8),
        Stream("code", True): Fraction(1, 8),
    }


SIZES = {"web-en": 300, "web-zh": 100, "web-zh-best": 100, "books-zh": 400, "code": 50}


def test_patterns_share_their_weight_by_size() -> None:
    assert spread({"web-en": 0.3, "code": 0.7}, SIZES) == {"web-en": 0.3, "code": 0.7}
    assert spread({"unknown": 1.0}, SIZES) == {"unknown": 1.0}  # for check_phases to refuse
    assert spread({"*-zh*": 0.6, "web-*": 0.4}, SIZES) == pytest.approx(
        {"web-en": 0.24, "web-zh": 0.1 + 0.08, "web-zh-best": 0.1 + 0.08, "books-zh": 0.4}
    )
    with pytest.raises(ConfigError, match=r"no label with text matches poems-\*; there are books-zh, code"):
        spread({"poems-*": 1.0}, SIZES)


@given(st.dictionaries(st.sampled_from(["*", "web-*", "*-zh", "code", "web-en"]), st.floats(0, 10), min_size=1))
def test_patterns_lose_no_weight(weights: dict[str, float]) -> None:
    assert sum(spread(weights, SIZES).values()) == pytest.approx(sum(weights.values()))


def test_caps_of_patterns_hold_for_each_label() -> None:
    assert caps_by_label({"web-*": 4, "*-best": 2, "code": 1}, SIZES) == {
        "web-en": 4, "web-zh": 4, "web-zh-best": 2, "code": 1}  # fmt: skip

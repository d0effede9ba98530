from __future__ import annotations

from collections import Counter
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan.corpus.mixture import MixturePhase, Stream, Turns, stream_shares, whole_counts

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

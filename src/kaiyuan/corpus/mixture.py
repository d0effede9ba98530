"""How much of what: weights of the labels, phase by phase, and exactly whose turn it is at any place of a run."""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kaiyuan.errors import ConfigError, listing

MAX_PERIOD = 10_000


class Stream(NamedTuple):
    """Where a sequence is drawn from: a label's packed tokens or, for ``long``, the inside of its long documents."""

    label: str
    long: bool = False


@dataclass(frozen=True)
class MixturePhase:
    """The mixture of the sequences up to index ``until`` (exclusive), from where the phase before it ended.

    ``weights`` (label to weight) need not sum to 1. ``long_documents`` is the share of sequences that lie within a
    single document of at least a sequence's length, for long-context training (0.25 in the paper, section 2.3.3);
    they come from the labels that have such documents, in proportion to the weights, and the other sequences follow
    the weights.
    """

    until: int
    weights: Mapping[str, float]
    long_documents: float = 0.0


def spread(weights: Mapping[str, float], sizes: Mapping[str, int]) -> dict[str, float]:
    """``weights`` with what stands at a pattern (``web-*``, ``*-zh-best``) given to the labels that it matches, in
    proportion to their ``sizes``; a label that several keys name or match gets the sum. A ``ConfigError`` says which
    pattern matches nothing."""
    found: dict[str, float] = {}
    for key, weight in weights.items():
        shares = {key: 1}
        if _is_pattern(key):
            shares = {label: size for label, size in sizes.items() if fnmatchcase(label, key)}
        if not sum(shares.values()):
            raise ConfigError(f"mixture: no label with text matches {key}; there are {', '.join(sorted(sizes))}")
        for label, size in shares.items():
            found[label] = found.get(label, 0.0) + weight * size / sum(shares.values())
    return found


def caps_by_label(caps: Mapping[str, float], labels: Collection[str]) -> dict[str, float]:
    """Caps on epochs with patterns replaced by the labels that they match; of several caps the lowest holds."""
    found: dict[str, float] = {}
    for key, cap in caps.items():
        for label in [label for label in labels if fnmatchcase(label, key)] if _is_pattern(key) else [key]:
            found[label] = min(cap, found.get(label, cap))
    return found


def _is_pattern(key: str) -> bool:
    return any(letter in key for letter in "*?[")


def check_phases(phases: Sequence[MixturePhase], labels: Collection[str]) -> None:
    """A ``ConfigError`` that lists everything wrong with ``phases``, given the labels that there are."""
    problems = [] if phases else ["there is no phase"]
    last = 0
    for number, phase in enumerate(phases, 1):
        if phase.until <= last:
            problems.append(f"phase {number}: until {phase.until} is not after {last}, where it starts")
        last = max(last, phase.until)
        unknown = sorted(set(phase.weights) - set(labels))
        if unknown:
            known = ", ".join(sorted(labels))
            problems.append(f"phase {number}: no shards for {', '.join(unknown)}; there are {known}")
        if not all(math.isfinite(weight) and weight >= 0 for weight in phase.weights.values()):
            problems.append(f"phase {number}: weights must be 0 or more, not {dict(phase.weights)}")
        elif not any(phase.weights.values()):
            problems.append(f"phase {number}: no weight is above 0")
        if not 0.0 <= phase.long_documents <= 1.0:
            problems.append(f"phase {number}: long_documents {phase.long_documents} is not between 0 and 1")
    if problems:
        raise ConfigError(listing("the mixture cannot be used", problems))


def stream_shares(phase: MixturePhase, long_labels: Collection[str]) -> dict[Stream, Fraction]:
    """The exact share of each stream; ``long_labels`` are those with documents as long as a sequence."""
    weights = {label: Fraction(str(weight)) for label, weight in phase.weights.items() if weight > 0}
    long_weights = {label: weight for label, weight in weights.items() if label in long_labels}
    long_share = Fraction(str(phase.long_documents))
    if long_share and not long_weights:
        raise ConfigError(
            f"mixture: long_documents is {phase.long_documents}, but none of {', '.join(sorted(weights))} has "
            "a document as long as a sequence; shorten the sequences or set it to 0"
        )
    shares: dict[Stream, Fraction] = {}
    for part, share, long in ((weights, 1 - long_share, False), (long_weights, long_share, True)):
        for label, weight in part.items():
            shares[Stream(label, long)] = share * weight / sum(part.values())
    return {stream: share for stream, share in sorted(shares.items()) if share}


def whole_counts(shares: Mapping[Stream, Fraction], limit: int = MAX_PERIOD) -> dict[Stream, int]:
    """Whole numbers in the proportion of ``shares``: exactly, if their sum need not exceed ``limit``, else nearly.

    Nearly means: rounded to 1/``limit``, and nobody is rounded to nothing.
    """
    period = math.lcm(*(share.denominator for share in shares.values()))
    if period <= limit:
        return {stream: int(share * period) for stream, share in shares.items()}
    counts = {stream: max(1, round(share * limit)) for stream, share in shares.items()}
    divisor = math.gcd(*counts.values())
    return {stream: count // divisor for stream, count in counts.items()}


class Turns:
    """An endless, periodic order of turns in which each stream, at any time, is within one turn of its share.

    The chairman assignment problem (Tijdeman 1980): turn j of a stream that has k of D turns must fall between
    floor(jD/k) and ceil((j+1)D/k) - 1, and giving each place to whom it is most urgent for always succeeds (Steiner
    and Yeomans 1993). Only one period is stored, so that counts at any place cost O(log D).
    """

    def __init__(self, counts: Mapping[Stream, int]) -> None:
        self.streams = sorted(counts)
        self.period = sum(counts.values())
        self.order = _most_urgent_first([counts[stream] for stream in self.streams])
        self._places = [np.flatnonzero(self.order == index) for index in range(len(self.streams))]

    def __getitem__(self, place: int) -> Stream:
        return self.streams[self.order[place % self.period]]

    def before(self, place: int) -> dict[Stream, int]:
        """How many turns each stream has had before ``place``."""
        periods, rest = divmod(place, self.period)
        return {
            stream: periods * len(places) + int(np.searchsorted(places, rest))
            for stream, places in zip(self.streams, self._places, strict=True)
        }


def _most_urgent_first(counts: Sequence[int]) -> NDArray[np.int64]:
    """(period,): whose turn it is at each place of one period, by index into ``counts``."""
    period = sum(counts)
    order = np.empty(period, dtype=np.int64)
    waiting = [(0, index, 0) for index in range(len(counts))]  # (first place allowed, stream, its turn)
    ready: list[tuple[int, int, int]] = []  # (last place allowed, stream, its turn)
    for place in range(period):
        while waiting and waiting[0][0] <= place:
            _, index, turn = heapq.heappop(waiting)
            heapq.heappush(ready, (-(-(turn + 1) * period // counts[index]) - 1, index, turn))
        _, index, turn = heapq.heappop(ready)
        order[place] = index
        if turn + 1 < counts[index]:
            heapq.heappush(waiting, ((turn + 1) * period // counts[index], index, turn + 1))
    return order

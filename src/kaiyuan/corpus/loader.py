"""The loader whose position is one integer: sequence i is a function of i, the shards, the phases and the seed.

Nothing is consumed and nothing has to be saved but the step. A run can stop anywhere, go on with another number of
processes, or be looked at from any place, and the data are the same.
"""

from __future__ import annotations

import bisect
import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kaiyuan.corpus.mixture import MixturePhase, Stream, Turns, check_phases, stream_shares, whole_counts
from kaiyuan.corpus.permutation import key_of, mix
from kaiyuan.corpus.shards import Shard
from kaiyuan.corpus.windows import LongWindows, PackedWindows, Windows
from kaiyuan.errors import ConfigError
from kaiyuan.files import fingerprint

__all__ = ["BLOCK", "MixturePhase", "TokenLoader", "TokenSequence"]

BLOCK = 256
"""Sequences whose turns are shuffled together."""


@dataclass(frozen=True)
class TokenSequence:
    """One training sequence."""

    label: str
    tokens: NDArray[np.int64]
    """(sequence_length + 1,)"""
    long: bool = False
    """Whether it lies within a single document (``MixturePhase.long_documents``)."""


class TokenLoader:
    """Sequences of ``sequence_length`` + 1 tokens, mixed from ``shards`` (by label) as ``phases`` say.

    Turns are shuffled in blocks of ``shuffle`` sequences; at the end of every block each label has been drawn its
    share of times, give or take less than one: with 1, after every sequence. The draws of a label go through its
    tokens epoch by epoch, in a new random order each, and go on where they were when a phase ends. A ``ConfigError``
    or ``DataError`` says what is wrong with the phases or the shards.
    """

    def __init__(
        self,
        shards: Mapping[str, Shard],
        phases: Sequence[MixturePhase],
        sequence_length: int,
        seed: int,
        shuffle: int = BLOCK,
    ) -> None:
        if sequence_length < 1:
            raise ConfigError(f"sequence_length: {sequence_length} is not 1 or more")
        if shuffle < 1:
            raise ConfigError(f"shuffle: {shuffle} is not 1 or more")
        check_phases(phases, shards)
        self.shuffle = shuffle
        self.shards, self.phases = dict(shards), tuple(phases)
        self.sequence_length, self.seed = sequence_length, seed
        long = {label: LongWindows(shards[label], sequence_length, seed) for label in _labels_wanted_long(phases)}
        long_labels = {label for label, windows in long.items() if windows.count}
        self._turns = [Turns(whole_counts(stream_shares(phase, long_labels))) for phase in self.phases]
        self._windows: dict[Stream, Windows] = {
            stream: long[stream.label] if stream.long else PackedWindows(shards[stream.label], sequence_length, seed)
            for turns in self._turns
            for stream in turns.streams
        }
        self._starts = [0, *(phase.until for phase in self.phases[:-1])]
        self._drawn_before_phase = self._count_phases()
        self._block = functools.lru_cache(maxsize=8)(self._make_block)

    def __len__(self) -> int:
        """Number of sequences: where the last phase ends."""
        return self.phases[-1].until

    def sequence(self, index: int) -> TokenSequence:
        """Sequence ``index`` of the run, whatever was asked for before."""
        number = self._phase_at(index)
        block, place = divmod(index - self._starts[number], self.shuffle)
        stream, draw = self._block(number, block)[place]
        return TokenSequence(stream.label, self._windows[stream].draw(draw), stream.long)

    def batch(
        self, step: int, batch_size: int, rank: int = 0, world_size: int = 1
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
        """Inputs (B, T), targets (B, T) and labels of global batch ``step``, of ``batch_size / world_size`` rows.

        The batch is sequences ``step * batch_size`` to ``(step + 1) * batch_size - 1``; the rows of rank 0, 1, ...
        one after the other are the whole batch, for every ``world_size`` that divides it.
        """
        if batch_size < 1 or batch_size % world_size or not 0 <= rank < world_size:
            raise ConfigError(f"batch of {batch_size} sequences: no equal parts for rank {rank} of {world_size}")
        rows = batch_size // world_size
        return self.rows(step, batch_size, range(rank * rows, (rank + 1) * rows))

    def rows(
        self, step: int, batch_size: int, numbers: Sequence[int]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
        """The same for some rows of global batch ``step``, by their numbers in it; nothing else is read."""
        sequences = [self.sequence(step * batch_size + number) for number in numbers]
        tokens = np.stack([sequence.tokens for sequence in sequences])
        return tokens[:, :-1].copy(), tokens[:, 1:].copy(), [sequence.label for sequence in sequences]

    def epochs(self, index: int) -> dict[str, float]:
        """How often the tokens of each label have been seen before sequence ``index`` (1.0: once each, on average)."""
        if not 0 <= index <= len(self):
            raise IndexError(f"sequence {index} is not one of the {len(self):,} of this run")
        number = bisect.bisect_right(self._starts, index) - 1
        drawn = self._drawn_before_phase[number] + Counter(self._turns[number].before(index - self._starts[number]))
        epochs = dict.fromkeys(self.shards, 0.0)
        for stream, draws in drawn.items():
            epochs[stream.label] += draws * self.sequence_length / len(self.shards[stream.label].tokens)
        return epochs

    def fingerprint(self) -> str:
        """A hash of everything that decides the data: compare it when a run goes on, before trusting the step."""
        phases = [[phase.until, dict(phase.weights), phase.long_documents] for phase in self.phases]
        shards = {label: shard.sha256 for label, shard in self.shards.items()}
        shuffle = [] if self.shuffle == BLOCK else [self.shuffle]
        return fingerprint([1, shards, phases, self.sequence_length, self.seed, *shuffle])

    def _phase_at(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"sequence {index} is not one of the {len(self):,} of this run")
        return bisect.bisect_right(self._starts, index) - 1

    def _count_phases(self) -> list[Counter[Stream]]:
        drawn: list[Counter[Stream]] = [Counter()]
        for turns, phase, start in zip(self._turns, self.phases, self._starts, strict=True):
            drawn.append(drawn[-1] + Counter(turns.before(phase.until - start)))
        return drawn

    def _make_block(self, number: int, block: int) -> list[tuple[Stream, int]]:
        """Stream and number of the draw for each place of a block, in the order in which they are served."""
        turns, start = self._turns[number], self._starts[number]
        first, end = block * self.shuffle, min((block + 1) * self.shuffle, self.phases[number].until - start)
        key = key_of(self.seed, "block", start + first)
        shuffled = sorted(range(first, end), key=lambda place: mix(key ^ mix(place)))
        drawn = self._drawn_before_phase[number] + Counter(turns.before(first))
        served = []
        for place in shuffled:
            stream = turns[place]
            served.append((stream, drawn[stream]))
            drawn[stream] += 1
        return served


def _labels_wanted_long(phases: Sequence[MixturePhase]) -> set[str]:
    """Labels of which long documents may be wanted."""
    return {label for phase in phases if phase.long_documents for label, weight in phase.weights.items() if weight}

"""Supervised fine-tuning: conversations packed into rows, loss on the answers and the token that ends them (paper 3.1).

Shapes: B rows, T tokens of a row.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

import torch
from torch import Tensor

from kaiyuan.errors import DataError
from kaiyuan.model.transformer import Transformer
from kaiyuan.tokenizer.chat import ChatTokens
from kaiyuan.training.batch import Batch


@dataclass(frozen=True, eq=False)
class PackedRow:
    """One or more conversations, one after the other, then padding. All tensors are (T,)."""

    ids: Tensor
    """int32"""
    targets: Tensor
    """int32; the next token of the same conversation, the padding id where there is none."""
    weights: Tensor
    """float32; over 0 where the target is trained: text of an answer or the token that ends it."""
    documents: Tensor
    """int32; number of the conversation within the row; padding counts as one more."""


def pack(
    samples: Sequence[ChatTokens], length: int, pad_id: int, *, equal_conversations: bool = False
) -> list[PackedRow]:
    """Put samples into rows of ``length`` tokens, whole and without seeing each other.

    A trained token weighs 1; with ``equal_conversations`` it weighs 1 over the number of trained tokens of its
    conversation, so that long answers do not outweigh short ones. Raises ``DataError`` for a sample that is longer
    than a row or that has no token to train.
    """
    for index, sample in enumerate(samples):
        _check(sample, index, length)
    bins = best_fit([len(sample.ids) for sample in samples], length)
    return [_row([samples[index] for index in chosen], length, pad_id, equal_conversations) for chosen in bins]


def best_fit(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of ``sizes`` in bins of ``capacity``: largest first, each into the fullest bin that has room for it.

    Bins are kept by their room, so the time for a million samples is seconds, not hours. No size may be over
    ``capacity``.
    """
    bins: list[list[int]] = []
    bins_with: defaultdict[int, list[int]] = defaultdict(list)
    rooms: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        place = bisect_left(rooms, sizes[index])
        if place == len(rooms):
            room, number = capacity, len(bins)
            bins.append([])
        else:
            room = rooms[place]
            number = bins_with[room].pop()
            if not bins_with[room]:
                del rooms[place]
        bins[number].append(index)
        left = room - sizes[index]
        if not bins_with[left]:
            insort(rooms, left)
        bins_with[left].append(number)
    return bins


def _check(sample: ChatTokens, index: int, length: int) -> None:
    if len(sample.ids) > length:
        raise DataError(f"sample {index} has {len(sample.ids)} tokens, a row has {length}: raise sft.sequence_length")
    if not any(sample.trained_mask[1:]):
        raise DataError(f"sample {index} has no token to train: it needs an assistant message")


def _row(samples: Sequence[ChatTokens], length: int, pad_id: int, equal: bool) -> PackedRow:
    ids, targets, documents = (
        torch.full((length,), fill, dtype=torch.int32) for fill in (pad_id, pad_id, len(samples))
    )
    weights = torch.zeros(length)
    start = 0
    for number, sample in enumerate(samples):
        end = start + len(sample.ids)
        ids[start:end] = torch.tensor(sample.ids, dtype=torch.int32)
        targets[start : end - 1] = ids[start + 1 : end]
        trained = torch.tensor(sample.trained_mask[1:], dtype=torch.float32)
        weights[start : end - 1] = trained / trained.sum() if equal else trained
        documents[start:end] = number
        start = end
    return PackedRow(ids, targets, weights, documents)


class Rows(Protocol):
    """Further rows to train on, made when they are asked for."""

    per_epoch: int

    def row(self, index: int) -> PackedRow:
        """Row ``index`` of the whole training: those of epoch e begin at ``e * per_epoch``."""
        ...


class ChatSource:
    """Batches of packed rows and of ``plain`` ones, in a new order every epoch. A batch depends on the step alone.

    The last batch of an epoch has what is left, filled up to a ``multiple`` of rows by some that weigh nothing.
    """

    def __init__(
        self,
        rows: Sequence[PackedRow],
        batch_size: int,
        epochs: int,
        seed: int,
        plain: Rows | None = None,
        multiple: int = 1,
    ) -> None:
        if not rows:
            raise DataError("there are no samples to train on")
        self.rows, self.seed, self.plain, self.multiple = rows, seed, plain, multiple
        self.rows_an_epoch = len(rows) + (plain.per_epoch if plain else 0)
        self.batch_size = min(batch_size, self.rows_an_epoch)
        self.per_epoch = -(-self.rows_an_epoch // self.batch_size)
        self.steps = epochs * self.per_epoch
        """Steps of the whole training; the last one of an epoch may have fewer rows."""
        self._epoch, self._order = -1, list[int]()

    def batch(self, step: int, model: Transformer) -> Batch:
        epoch, number = divmod(step, self.per_epoch)
        chosen = self._order_of(epoch)[number * self.batch_size : (number + 1) * self.batch_size]
        batch = stack([self._row(epoch, index) for index in chosen])
        surplus = -len(chosen) % self.multiple
        if not surplus:
            return batch
        filled = batch.rows(torch.arange(len(chosen) + surplus) % len(chosen))
        filled.weights_BT[len(chosen) :] = 0.0
        return filled

    def _row(self, epoch: int, index: int) -> PackedRow:
        if self.plain is None or index < len(self.rows):
            return self.rows[index]
        return self.plain.row(epoch * self.plain.per_epoch + index - len(self.rows))

    def _order_of(self, epoch: int) -> list[int]:
        """The rows' order in an epoch, kept until another epoch is asked for."""
        if epoch != self._epoch:
            self._order = Random(f"sft {self.seed} {epoch}").sample(range(self.rows_an_epoch), self.rows_an_epoch)
            self._epoch = epoch
        return self._order


def stack(rows: Sequence[PackedRow]) -> Batch:
    """Rows of equal length as a batch (B, T)."""
    return Batch(
        torch.stack([row.ids for row in rows]).long(),
        torch.stack([row.targets for row in rows]).long(),
        torch.stack([row.weights for row in rows]),
        torch.stack([row.documents for row in rows]).long(),
    )

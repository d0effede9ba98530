"""Supervised fine-tuning: conversations packed into rows, loss on the answers and the token that ends them (paper 3.1).

Shapes: B rows, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch

from kaiyuan.errors import DataError
from kaiyuan.model.transformer import Transformer
from kaiyuan.tokenizer.chat import ChatTokens
from kaiyuan.training.batch import Batch


@dataclass(frozen=True)
class PackedRow:
    """``length`` positions of one or more conversations, one after the other, then padding."""

    ids: list[int]
    targets: list[int]
    """The next token of the same conversation; the padding id where there is none."""
    weights: list[float]
    """1 where the target is trained: text of an answer or the token that ends it."""
    documents: list[int]
    """Number of the conversation within the row; padding counts as one more."""


def pack(samples: Sequence[ChatTokens], length: int, pad_id: int) -> list[PackedRow]:
    """Put every sample into the first row that has room for it, longest first (first-fit decreasing).

    Samples are never cut and never see each other. Raises ``DataError`` for one that is longer than a row or that has
    no token to train.
    """
    rows: list[list[ChatTokens]] = []
    room: list[int] = []
    order = sorted(range(len(samples)), key=lambda index: (-len(samples[index].ids), index))
    for index in order:
        sample = samples[index]
        _check(sample, index, length)
        place = next((row for row, free in enumerate(room) if free >= len(sample.ids)), None)
        if place is None:
            place = len(rows)
            rows.append([])
            room.append(length)
        rows[place].append(sample)
        room[place] -= len(sample.ids)
    return [_row(row, length, pad_id) for row in rows]


def _check(sample: ChatTokens, index: int, length: int) -> None:
    if len(sample.ids) > length:
        raise DataError(f"sample {index} has {len(sample.ids)} tokens, a row has {length}: raise sft.sequence_length")
    if not any(sample.trained_mask[1:]):
        raise DataError(f"sample {index} has no token to train: it needs an assistant message")


def _row(samples: Sequence[ChatTokens], length: int, pad_id: int) -> PackedRow:
    row = PackedRow([], [], [], [])
    for number, sample in enumerate(samples):
        row.ids.extend(sample.ids)
        row.targets.extend([*sample.ids[1:], pad_id])
        row.weights.extend([*map(float, sample.trained_mask[1:]), 0.0])
        row.documents.extend([number] * len(sample.ids))
    missing = length - len(row.ids)
    row.ids.extend([pad_id] * missing)
    row.targets.extend([pad_id] * missing)
    row.weights.extend([0.0] * missing)
    row.documents.extend([len(samples)] * missing)
    return row


class ChatSource:
    """Batches of packed rows, in a new order every epoch. A batch depends on the step alone."""

    def __init__(self, rows: Sequence[PackedRow], batch_size: int, epochs: int, seed: int) -> None:
        if not rows:
            raise DataError("there are no samples to train on")
        self.rows, self.seed = rows, seed
        self.batch_size = min(batch_size, len(rows))
        self.per_epoch = -(-len(rows) // self.batch_size)
        self.steps = epochs * self.per_epoch

    def batch(self, step: int, model: Transformer) -> Batch:
        epoch, number = divmod(step, self.per_epoch)
        order = Random(f"sft {self.seed} {epoch}").sample(range(len(self.rows)), len(self.rows))
        chosen = [self.rows[index] for index in order[number * self.batch_size : (number + 1) * self.batch_size]]
        return stack(chosen)


def stack(rows: Sequence[PackedRow]) -> Batch:
    """Rows of equal length as a batch."""
    return Batch(
        torch.tensor([row.ids for row in rows]),
        torch.tensor([row.targets for row in rows]),
        torch.tensor([row.weights for row in rows]),
        torch.tensor([row.documents for row in rows]),
    )

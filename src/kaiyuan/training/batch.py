"""What a stage gives the trainer: batches, and a loss on them.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from kaiyuan.model.transformer import Features, Transformer


class Whole(NamedTuple):
    """A batch of which this process has its own rows alone."""

    rows: int
    weight: float
    """Sum of the weights of all targets."""


@dataclass
class Batch:
    """Rows of tokens with what to predict after each. ``extra`` holds per-row tensors that an objective needs."""

    ids_BT: Tensor
    targets_BT: Tensor
    weights_BT: Tensor
    """float32; how much each target counts, 0 for prompts and padding."""
    documents_BT: Tensor | None = None
    """int64 numbers of the documents packed in a row, or None if attention may cross them."""
    extra: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    """Numbers about how the batch was made, logged with the step."""
    group: int = 1
    """Rows that belong together, 2 for pairs: micro-batches do not part them."""
    whole: Whole | None = None
    """The batch that these rows are of, where other processes have its others."""

    @property
    def tokens(self) -> int:
        """Positions computed, padding included, by all processes together."""
        rows, length = self.ids_BT.shape
        return (rows if self.whole is None else self.whole.rows) * length

    @property
    def weight(self) -> Tensor:
        """Sum of the weights of all targets, also of those that other processes have: a float32 scalar."""
        return self.weights_BT.sum() if self.whole is None else self.weights_BT.new_tensor(self.whole.weight)

    def rows(self, part: slice | Tensor) -> Batch:
        """The same batch with only some rows, by a slice or by their numbers."""
        return self._map(lambda value: value[part])

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on ``device``. To a GPU from pinned memory: from other memory the copy would wait for it."""
        pin = torch.device(device).type == "cuda"
        return self._map(lambda value: (value.pin_memory() if pin else value).to(device, non_blocking=True))

    def clone(self) -> Batch:
        """The same in memory of its own."""
        return self._map(torch.clone)

    def copy_(self, other: Batch) -> None:
        """Take the rows of ``other``, of the same shape; neither may have more than rows of tokens."""
        assert other.documents_BT is None and not other.extra
        for mine, its in zip(self._rows(), other._rows(), strict=True):
            mine.copy_(its)

    def _rows(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.ids_BT, self.targets_BT, self.weights_BT

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(
            change(self.ids_BT),
            change(self.targets_BT),
            change(self.weights_BT),
            None if self.documents_BT is None else change(self.documents_BT),
            {name: change(value) for name, value in self.extra.items()},
            self.metrics,
            self.group,
            self.whole,
        )


class BatchSource(Protocol):
    """Where batches come from. A batch is a function of the step and of the weights alone, which makes training
    resumable.
    """

    def batch(self, step: int, model: Transformer) -> Batch: ...


@runtime_checkable
class RowSource(Protocol):
    """A ``BatchSource`` of ``batch_size`` rows a step that gives single ones, so that a process need not read all."""

    batch_size: int

    def share(self, step: int, numbers: Sequence[int]) -> Batch:
        """Some rows of the batch of ``step``, by their numbers in it, with its ``whole``."""
        ...


@dataclass
class Loss:
    """``total`` is what to minimise, already divided by the whole batch's weights; ``metrics`` are summed over
    micro-batches.
    """

    total: Tensor
    metrics: dict[str, Tensor]
    features: Features


class Objective(Protocol):
    """A loss. ``whole`` is the complete batch of which ``part`` is a micro-batch, so that parts add up to the
    whole's loss.

    For batches that are rows of tokens alone it must be a function of their tensors that reads no number back: a GPU
    captures such a step once and replays it (``step_graph``).
    """

    def __call__(self, model: Transformer, part: Batch, whole: Batch) -> Loss: ...

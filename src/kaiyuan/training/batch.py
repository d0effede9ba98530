"""What a stage gives the trainer: batches, and a loss on them.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from kaiyuan.model.transformer import Features, Transformer


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

    @property
    def tokens(self) -> int:
        """Positions computed, padding included."""
        return self.ids_BT.numel()

    def rows(self, part: slice | Tensor) -> Batch:
        """The same batch with only some rows, by a slice or by their numbers."""
        return self._map(lambda value: value[part])

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on ``device``. To a GPU from pinned memory: from other memory the copy would wait for it."""
        pin = torch.device(device).type == "cuda"
        return self._map(lambda value: (value.pin_memory() if pin else value).to(device, non_blocking=True))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(
            change(self.ids_BT),
            change(self.targets_BT),
            change(self.weights_BT),
            None if self.documents_BT is None else change(self.documents_BT),
            {name: change(value) for name, value in self.extra.items()},
            self.metrics,
            self.group,
        )


class BatchSource(Protocol):
    """Where batches come from. A batch is a function of the step and of the weights alone, which makes training
    resumable.
    """

    def batch(self, step: int, model: Transformer) -> Batch: ...


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
    """

    def __call__(self, model: Transformer, part: Batch, whole: Batch) -> Loss: ...

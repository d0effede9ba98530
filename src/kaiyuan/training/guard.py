"""The guard that keeps one bad batch from ruining a run: it refuses updates whose loss is not finite or far out of
line.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from kaiyuan.errors import TrainingError


@dataclass
class LossGuard:
    """Judges every step's loss and gradient norm before the update.

    A step is refused if either is not finite, or if the loss is more than ``tolerance`` robust standard deviations
    (1.4826 times the median absolute deviation) and at least ``margin`` nats over the median of the last ``window``
    accepted losses. After ``patience`` refusals in a row training stops with an error: then it is not one bad batch.
    """

    window: int = 64
    tolerance: float = 8.0
    margin: float = 0.5
    patience: int = 8
    recent: deque[float] = field(default_factory=deque)
    refused_in_a_row: int = 0
    refused: int = 0

    def accepts(self, step: int, loss: float, grad_norm: float) -> bool:
        """Whether to apply the update of ``step``; remembers the loss. ``TrainingError`` when patience is over."""
        reason = self._objection(loss, grad_norm)
        if reason is None:
            self.refused_in_a_row = 0
            self.recent.append(loss)
            while len(self.recent) > self.window:
                self.recent.popleft()
            return True
        self.refused += 1
        self.refused_in_a_row += 1
        if self.refused_in_a_row >= self.patience:
            raise TrainingError(
                f"step {step}: {reason}, {self.refused_in_a_row} steps in a row; go back to an earlier checkpoint "
                "with a lower learning rate, or look at the data of these steps"
            )
        return False

    def _objection(self, loss: float, grad_norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(grad_norm):
            return f"the gradient norm is {grad_norm}"
        if len(self.recent) < self.window:
            return None
        median = statistics.median(self.recent)
        spread = 1.4826 * statistics.median(abs(value - median) for value in self.recent)
        limit = median + max(self.tolerance * spread, self.margin)
        return f"the loss {loss:.3f} is over {limit:.3f} (median {median:.3f})" if loss > limit else None

    def state(self) -> dict[str, Any]:
        return {"recent": list(self.recent), "refused_in_a_row": self.refused_in_a_row, "refused": self.refused}

    def restore(self, state: dict[str, Any]) -> None:
        self.recent = deque(state["recent"])
        self.refused_in_a_row, self.refused = state["refused_in_a_row"], state["refused"]

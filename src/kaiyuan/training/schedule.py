"""The learning rate over a run: warm-up, a long gradual decay, a brief annealing at the end (paper 2.3.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Learning rate as a function of the step, in three phases.

    Linear from 0 over ``warmup`` steps, then a half cosine from ``peak`` down to ``decay_to * peak``, then over the
    last ``anneal_share`` of all steps linearly to ``final * peak`` (the paper: the concluding 5% of tokens, a tenth
    of the peak; it does not give the shape or the depth of the long decay).
    """

    peak: float
    steps: int
    warmup: int = 0
    decay_to: float = 0.4
    final: float = 0.1
    anneal_share: float = 0.05

    @property
    def anneal_start(self) -> int:
        """The first step of the annealing phase."""
        return self.steps - round(self.anneal_share * self.steps)

    def annealing(self, step: int) -> bool:
        return step >= self.anneal_start

    def __call__(self, step: int) -> float:
        """The rate of update ``step``, counted from 0; the first already moves, the last one ends at ``final``."""
        if step < self.warmup:
            return self.peak * (step + 1) / (self.warmup + 1)
        if self.annealing(step):
            progress = (step + 1 - self.anneal_start) / max(self.steps - self.anneal_start, 1)
            start = self.decay_to if self.anneal_start > self.warmup else 1.0
            return self.peak * (start + (self.final - start) * progress)
        progress = (step - self.warmup) / max(self.anneal_start - self.warmup, 1)
        return self.peak * (self.decay_to + (1 - self.decay_to) * (1 + math.cos(math.pi * progress)) / 2)

"""Which runs to do for isoFLOP curves: every budget on the rungs of the ladder around its expected best size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kaiyuan.errors import ConfigError, listing
from kaiyuan.model.presets import preset
from kaiyuan.scaling.law import PAPER_BUDGETS, PAPER_COST, PAPER_LAW, ScalingLaw, TrainingCost

LADDER = ("10m", "30m", "100m", "300m", "1b")
"""The presets in the range of the paper's own runs: 10M to 1B activated parameters."""


@dataclass(frozen=True)
class SweepRun:
    """One run to do. With a ``loss`` added, it is a line of the table that ``kaiyuan scale`` fits."""

    flops: float
    """The curve it belongs to."""
    preset: str
    active_parameters: int
    """Without the embedding."""
    tokens: int


def sweep_plan(
    budgets: Sequence[float] = PAPER_BUDGETS,
    sizes: Sequence[str] = LADDER,
    *,
    within: float = 10.0,
    law: ScalingLaw = PAPER_LAW,
    cost: TrainingCost = PAPER_COST,
) -> list[SweepRun]:
    """The runs for one isoFLOP curve per budget, on all presets of ``sizes`` up to ``within`` times larger or smaller
    than the best size that ``law`` expects.

    A ``ConfigError`` lists the budgets for which that leaves fewer than three sizes, or none on one side of the best:
    their curves would show no minimum.
    """
    known = sorted((preset(name).parameters().active_without_embedding, name) for name in sizes)
    runs, problems = [], []
    for budget in budgets:
        best = law.parameters(budget)
        near = [(size, name) for size, name in known if abs(math.log(size / best)) <= math.log(within)]
        if len(near) < 3 or not near[0][0] < best < near[-1][0]:
            names = ", ".join(name for _, name in near) or "none"
            problems.append(f"{budget:.3g} FLOPs: best near {best:.3g} parameters, sizes within {within:g} times that: "
                            f"{names}")  # fmt: skip
        runs += [SweepRun(budget, name, size, round(cost.tokens(budget, size))) for size, name in near]
    if problems:
        raise ConfigError(listing("these budgets need three sizes on both sides of the best", problems))
    return runs

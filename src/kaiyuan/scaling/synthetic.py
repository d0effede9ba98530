"""Tables of runs that obey a known law: not measurements, but what tests and examples need to know the answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kaiyuan.scaling.law import PAPER_BUDGETS, PAPER_COST, PAPER_LAW, ScalingLaw, TrainingCost
from kaiyuan.scaling.runs import TrainingRun


def synthetic_runs(
    law: ScalingLaw = PAPER_LAW,
    *,
    cost: TrainingCost = PAPER_COST,
    budgets: Sequence[float] = PAPER_BUDGETS,
    sizes: int = 7,
    spread: float = 4.0,
    noise: float = 0.003,
    seed: int = 0,
) -> list[TrainingRun]:
    """Runs whose loss is lowest at ``law.parameters`` of their budget; ``sizes`` a budget, from a ``spread``-th of
    the best size to ``spread`` times it, with normal ``noise`` (nats) on the loss.

    Only N_opt follows ``law``: D is what ``cost`` leaves for the budget. The loss is invented too: ``1.7 + 3000 *
    C ** -0.18`` at the minimum, and 0.05 nats more for every factor e of size squared.
    """
    generator = np.random.default_rng(seed)
    runs = []
    for budget in budgets:
        best = law.parameters(budget)
        for distance in np.linspace(-1, 1, sizes) * np.log(spread):
            size = best * float(np.exp(distance))
            loss = 1.7 + 3000 * budget**-0.18 + 0.05 * float(distance) ** 2 + noise * generator.standard_normal()
            runs.append(TrainingRun(size, cost.tokens(budget, size), float(loss), budget))
    return runs

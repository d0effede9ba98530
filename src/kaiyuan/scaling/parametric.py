"""The parametric loss ``L(N, D) = E + A / N^a + B / D^b`` of Hoffmann et al. (arXiv 2203.15556, approach 3).

It needs no runs of equal compute, and unlike the isoFLOP law it predicts the loss itself. As there, the Huber loss of
log residuals is minimised by L-BFGS; but the start is a grid over the two exponents alone, since for given exponents
the other three numbers follow from linear least squares.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kaiyuan.errors import DataError
from kaiyuan.scaling.isoflop import Array
from kaiyuan.scaling.law import PAPER_COST, Optimum, TrainingCost
from kaiyuan.scaling.runs import TrainingRun

_GRID = tuple(0.1 * step for step in range(1, 13))
_STARTS = 3


@dataclass(frozen=True)
class ParametricLaw:
    """``L(N, D) = irreducible + size_scale / N ** size_exponent + data_scale / D ** data_exponent``, in nats."""

    irreducible: float
    size_scale: float
    size_exponent: float
    data_scale: float
    data_exponent: float

    def loss(self, active_parameters: float, tokens: float) -> float:
        """L of N and D."""
        size = self.size_scale / active_parameters**self.size_exponent
        return self.irreducible + size + self.data_scale / tokens**self.data_exponent

    def optimum(self, flops: float, cost: TrainingCost = PAPER_COST) -> Optimum:
        """The N and D of lowest loss that ``flops`` pay for.

        Along a budget the loss falls until the optimum and rises after it, so bisection of its slope finds it.
        """
        low, high = 0.0, math.log(flops / cost.per_parameter)
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if self._slope(math.exp(middle), flops, cost) < 0 else (low, middle)
        size = math.exp(low)
        return Optimum(flops, size, cost.tokens(flops, size))

    def _slope(self, size: float, flops: float, cost: TrainingCost) -> float:
        """dL / d ln N along a budget."""
        share = cost.per_parameter * size / cost.flops_per_token(size)
        falling = self.size_exponent * self.size_scale / size**self.size_exponent
        rising = self.data_exponent * self.data_scale / cost.tokens(flops, size) ** self.data_exponent
        return rising * share - falling


def rms_error(law: ParametricLaw, runs: Sequence[TrainingRun]) -> float:
    """How far the law is from the runs' losses, in nats: the root of the mean square."""
    return math.sqrt(sum((law.loss(run.active_parameters, run.tokens) - run.loss) ** 2 for run in runs) / len(runs))


def fit_parametric(runs: Sequence[TrainingRun], *, delta: float = 1e-3) -> ParametricLaw:
    """The law that fits ``runs`` best; ``delta`` is where the Huber loss of log residuals turns linear.

    Needs at least six runs, and at least three different N and D each: fewer cannot tell five numbers and noise
    apart.
    """
    sizes, tokens = (len({getattr(run, name) for run in runs}) for name in ("active_parameters", "tokens"))
    if len(runs) < 6 or sizes < 3 or tokens < 3:
        raise DataError(f"the parametric law needs 6 runs with 3 sizes and 3 amounts of data; there are {len(runs)} "
                        f"with {sizes} and {tokens}")  # fmt: skip
    log_n, log_d, loss = (
        np.log([getattr(run, name) for run in runs]) for name in ("active_parameters", "tokens", "loss")
    )
    centre_n, centre_d = float(log_n.mean()), float(log_d.mean())
    x, y = log_n - centre_n, log_d - centre_d
    found = [_descend(start, x, y, loss, delta) for start in _starts(x, y, np.exp(loss))]
    error, (log_e, log_a, log_b, a, b) = min(found)
    log_a, log_b = log_a + a * centre_n, log_b + b * centre_d
    if not (error < math.inf and 0 < a < 10 and 0 < b < 10 and max(log_e, log_a, log_b) < 600):
        raise DataError("no parametric law fits: the loss does not fall with both model size and data as it should")
    return ParametricLaw(
        irreducible=math.exp(log_e),
        size_scale=math.exp(log_a),
        size_exponent=a,
        data_scale=math.exp(log_b),
        data_exponent=b,
    )


def _starts(x: Array, y: Array, loss: Array) -> list[tuple[float, ...]]:
    """The best few grid points as (ln E, ln A, ln B, a, b), all relative to the centred ``x`` and ``y``."""
    found = []
    for a, b in itertools.product(_GRID, _GRID):
        terms = np.stack([np.ones_like(x), np.exp(-a * x), np.exp(-b * y)], axis=1)
        scales = np.linalg.lstsq(terms / loss[:, None], np.ones_like(loss), rcond=None)[0]
        scales = np.maximum(scales, 1e-3 * loss.min())
        error = float(np.square(np.log(terms @ scales / loss)).sum())
        found.append((error, (*np.log(scales).tolist(), a, b)))
    return [start for _, start in sorted(found)[:_STARTS]]


def _descend(
    start: tuple[float, ...], x: Array, y: Array, log_loss: Array, delta: float
) -> tuple[float, tuple[float, ...]]:
    """(Huber loss, parameters) where L-BFGS ends."""
    import torch

    size, data, target = (torch.from_numpy(values) for values in (x, y, log_loss))
    point = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [point], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-15, history_size=20,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        log_e, log_a, log_b, a, b = point
        predicted = torch.logsumexp(torch.stack([log_e.expand_as(size), log_a - a * size, log_b - b * data]), dim=0)
        value = torch.nn.functional.huber_loss(predicted, target, delta=delta, reduction="sum") / delta**2
        value.backward()
        return value

    optimizer.step(closure)
    value = float(closure().detach())
    return (value if math.isfinite(value) else math.inf), tuple(point.tolist())

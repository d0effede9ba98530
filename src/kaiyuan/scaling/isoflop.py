"""The isoFLOP method of the paper (section 2.3.1, figure 3) and of Hoffmann et al. (arXiv 2203.15556, approach 2).

Runs of one compute budget form a curve: loss over model size. A parabola in log N gives each curve's best size; a
straight line through those in log-log space gives ``N_opt = N_c * C ** alpha``, and likewise ``D_opt``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kaiyuan.errors import DataError, listing
from kaiyuan.scaling.law import PowerLaw, ScalingLaw, TrainingCost
from kaiyuan.scaling.runs import TrainingRun

Array = NDArray[np.float64]

_STEEPEST = 5.0
"""An exponent beyond this is no power law but noise (the paper's are near 0.5)."""


@dataclass(frozen=True)
class Curve:
    """One budget's parabola: ``loss + curvature * (ln N - ln active_parameters) ** 2``, and the runs it fits."""

    flops: float
    runs: tuple[TrainingRun, ...]
    """By increasing N."""
    active_parameters: float
    """N at the minimum."""
    tokens: float
    """D at the minimum: the budget over the FLOPs per token that the runs have there."""
    loss: float
    """The parabola's lowest value."""
    curvature: float

    def loss_at(self, active_parameters: float) -> float:
        return self.loss + self.curvature * math.log(active_parameters / self.active_parameters) ** 2


@dataclass(frozen=True)
class IsoFlopFit:
    """What the runs say. ``resampled`` holds the law of every bootstrap draw; empty where no noise can be estimated."""

    curves: tuple[Curve, ...]
    law: ScalingLaw
    resampled: tuple[ScalingLaw, ...]
    warnings: tuple[str, ...]

    def interval(self, quantity: Callable[[ScalingLaw], float], confidence: float = 0.95) -> tuple[float, float] | None:
        """The percentile bootstrap interval of anything that follows from the law: an exponent, N_opt at a budget."""
        if not self.resampled:
            return None
        tail = 50 * (1 - confidence)
        low, high = np.percentile([quantity(law) for law in self.resampled], [tail, 100 - tail])
        return float(low), float(high)


def fit_curve(flops: float, runs: Sequence[TrainingRun]) -> Curve:
    """The parabola through one budget's runs.

    A ``DataError`` names the curve if it shows no best size: fewer than three sizes, or a minimum, of the parabola or
    of the runs themselves, that is not between the smallest and the largest model.
    """
    runs = tuple(sorted(runs, key=lambda run: run.active_parameters))
    sizes = _log_sizes(runs)
    name = f"curve {flops:.3g} FLOPs"
    distinct = len({run.active_parameters for run in runs})
    if distinct < 3:
        raise DataError(f"{name}: {distinct} model sizes, a parabola needs at least 3")
    centre = sizes.mean()
    curvature, slope, constant = np.polyfit(sizes - centre, [run.loss for run in runs], 2)
    if curvature <= 0:
        raise DataError(f"{name}: no minimum, its losses do not rise on both sides of any size")
    best = centre - slope / (2 * curvature)
    lowest_run = sizes[np.argmin([run.loss for run in runs])]
    if not sizes[0] < min(best, lowest_run) <= max(best, lowest_run) < sizes[-1]:
        end, add = (runs[-1], "larger") if max(best, lowest_run) >= sizes[-1] else (runs[0], "smaller")
        raise DataError(
            f"{name}: no interior minimum, the loss still falls at the last model "
            f"({end.active_parameters:.3g} parameters); add {add} ones"
        )
    tokens = float(_tokens_at(np.array([best]), flops, runs)[0])
    lowest = constant - slope**2 / (4 * curvature)
    return Curve(flops, runs, math.exp(best), tokens, float(lowest), float(curvature))


def _log_sizes(runs: Sequence[TrainingRun]) -> Array:
    return np.log([run.active_parameters for run in runs])


def _tokens_at(log_sizes: Array, flops: float, runs: Sequence[TrainingRun]) -> Array:
    """D for sizes on a curve. FLOPs per token are interpolated between the runs, linearly in N: exact for a cost of
    the paper's form, and whatever was counted stays true at the runs themselves.
    """
    known = [run.active_parameters for run in runs]
    return flops / np.interp(np.exp(log_sizes), known, [run.flops / run.tokens for run in runs])


def fit_power_law(x: Sequence[float], y: Sequence[float]) -> PowerLaw:
    """The least-squares line through ``(log x, log y)``; all values positive, at least two different x."""
    exponent, constant = _lines(np.log(x), np.log(y)[:, None])
    return _power_law(float(exponent[0]), float(constant[0]))


def _lines(x: Array, y: Array) -> tuple[Array, Array]:
    """Slope and intercept for each column of ``y`` (points, lines) over ``x`` (points,)."""
    offset = x - x.mean()
    slope = offset @ (y - y.mean(0)) / (offset @ offset)
    return slope, y.mean(0) - slope * x.mean()


def _power_law(exponent: float, log_coefficient: float) -> PowerLaw:
    """A ``DataError`` for what no power law of compute can be, instead of numbers out of range later."""
    if not (abs(exponent) < _STEEPEST and abs(log_coefficient) < 600):
        raise DataError(f"the curves' minima follow no power law: the exponent would be {exponent:.3g}")
    return PowerLaw(math.exp(log_coefficient), exponent)


def fit_cost(runs: Sequence[TrainingRun]) -> TrainingCost:
    """``C = (p N + t) D`` as the runs' own FLOPs have it: the paper's constants where these came from its form.

    Least squares of relative errors. A ``DataError`` if more parameters would cost less.
    """
    sizes = np.array([run.active_parameters for run in runs])
    per_token = np.array([run.flops / run.tokens for run in runs])
    terms = np.stack([sizes, np.ones_like(sizes)], axis=1) / per_token[:, None]
    scale = np.linalg.norm(terms, axis=0)
    slope, constant = np.linalg.lstsq(terms / scale, np.ones_like(sizes), rcond=None)[0] / scale
    if slope <= 0:
        raise DataError("the runs' FLOPs per token do not grow with their active parameters: check both columns")
    return TrainingCost(float(slope), max(0.0, float(constant)))


def fit_isoflop(groups: Mapping[float, Sequence[TrainingRun]], *, draws: int = 1000, seed: int = 0) -> IsoFlopFit:
    """Fit each budget's curve and the power laws through their minima.

    ``groups`` come from ``runs.group_by_budget``. Curves without an interior minimum are left out with a warning; a
    ``DataError`` tells all their problems if fewer than two remain.
    """
    curves, warnings = [], []
    for flops, runs in groups.items():
        try:
            curves.append(fit_curve(flops, runs))
        except DataError as error:
            warnings.append(str(error))
    if len(curves) < 2:
        problems = [*warnings, f"{len(curves)} usable curves in all"]
        raise DataError(listing("a scaling law needs at least two isoFLOP curves with a minimum", problems))
    budgets = [curve.flops for curve in curves]
    law = ScalingLaw(
        parameters=fit_power_law(budgets, [curve.active_parameters for curve in curves]),
        tokens=fit_power_law(budgets, [curve.tokens for curve in curves]),
    )
    resampled = _bootstrap(curves, draws, seed)
    if not resampled:
        warnings.append("no confidence intervals: they need curves with more than three runs and a clear minimum")
    return IsoFlopFit(tuple(curves), law, resampled, tuple(warnings))


def _bootstrap(curves: Sequence[Curve], draws: int, seed: int) -> tuple[ScalingLaw, ...]:
    """The law of each of ``draws`` noisy copies of the runs.

    Residuals of all curves are pooled and scaled up for the three numbers each parabola took from them. (Resampling
    the minima instead covered the truth in 87 to 91 instead of 91 to 95 of 100 trials, at a nominal 95.)
    """
    residuals = [np.array([run.loss - curve.loss_at(run.active_parameters) for run in curve.runs]) for curve in curves]
    pool = np.concatenate(residuals)
    freedom = len(pool) - 3 * len(curves)
    if freedom < 1:
        return ()
    pool = pool * math.sqrt(len(pool) / freedom)
    generator = np.random.default_rng(seed)
    minima = [_redrawn_minima(curve, pool, draws, generator) for curve in curves]
    sizes, tokens = np.stack([size for size, _ in minima]), np.stack([token for _, token in minima])
    clear = np.isfinite(sizes).all(0)
    if clear.sum() < draws / 2:
        return ()
    budgets = np.log([curve.flops for curve in curves])
    lines = zip(*_lines(budgets, sizes[:, clear]), *_lines(budgets, tokens[:, clear]), strict=True)
    laws = []
    for alpha, log_n, beta, log_d in lines:
        try:
            laws.append(ScalingLaw(_power_law(float(alpha), float(log_n)), _power_law(float(beta), float(log_d))))
        except DataError:
            continue
    return tuple(laws)


def _redrawn_minima(curve: Curve, pool: Array, draws: int, generator: np.random.Generator) -> tuple[Array, Array]:
    """Log N and log D at the minimum of ``draws`` curves with redrawn residuals; NaN where there is no minimum."""
    sizes = _log_sizes(curve.runs)
    fitted = np.array([curve.loss_at(run.active_parameters) for run in curve.runs])
    losses = fitted[:, None] + generator.choice(pool, (len(sizes), draws))
    curvature, slope, _ = np.polyfit(sizes - sizes.mean(), losses, 2)
    best = sizes.mean() - slope / (2 * np.where(curvature > 0, curvature, np.nan))
    tokens = np.log(_tokens_at(np.clip(best, sizes[0], sizes[-1]), curve.flops, curve.runs))
    return best, tokens

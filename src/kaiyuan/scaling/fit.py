"""``kaiyuan scale``: from a table of training runs to a scaling law, a picture of it, and what a budget should buy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from kaiyuan.errors import DataError
from kaiyuan.files import write_json, write_jsonl, write_text
from kaiyuan.model import presets
from kaiyuan.scaling.isoflop import IsoFlopFit, fit_cost, fit_isoflop
from kaiyuan.scaling.law import (
    PAPER_BUDGETS,
    PAPER_COST,
    PAPER_LAW,
    PowerLaw,
    ScalingLaw,
    TrainingCost,
    minimum_compute,
)
from kaiyuan.scaling.parametric import ParametricLaw, fit_parametric, rms_error
from kaiyuan.scaling.plan import DAY
from kaiyuan.scaling.runs import group_by_budget, read_runs
from kaiyuan.scaling.sweep import LADDER, SweepRun, sweep_plan
from kaiyuan.settings import Settings, load_settings

Flops = float


class FitSection(Settings):
    """The table to fit."""

    runs: str
    """A .jsonl or .csv file, relative to the recipe's folder."""
    budgets: list[Flops] | None = None
    """The curves' budgets in FLOPs; left out, they are found in the table."""
    tolerance: float = Field(default=0.1, gt=0, lt=1)
    """How far a run may be from its budget."""
    draws: int = Field(default=1000, ge=20, le=100_000)
    """Bootstrap draws for the confidence intervals."""
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _require_budgets(self.budgets)
        return self


class PlanSection(Settings):
    """The budget to plan for: ``flops``, or ``gpus`` for ``days`` at ``tflops`` each."""

    flops: Flops | None = Field(default=None, gt=0, lt=1e35)
    gpus: int | None = Field(default=None, ge=1, le=10_000_000)
    days: float | None = Field(default=None, gt=0, le=100_000)
    tflops: float = Field(default=350.0, gt=0, le=1e6)
    """What one GPU really reaches."""
    batch_over_critical: float = Field(default=0.0, ge=0, le=1000)
    """B / B_crit: what a batch near the critical one wastes, C_min = C / (1 + B / B_crit) (paper 2.3.1)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        machine = (self.gpus is not None, self.days is not None)
        if machine != ((True, True) if self.flops is None else (False, False)):
            raise ValueError("give either flops, or gpus and days")
        return self

    @property
    def compute(self) -> Flops:
        """What is spent: C."""
        if self.flops is not None:
            return self.flops
        assert self.gpus is not None and self.days is not None
        return self.gpus * self.days * DAY * self.tflops * 1e12


class SweepSection(Settings):
    """The runs to do for a table of one's own."""

    budgets: list[Flops] = list(PAPER_BUDGETS)
    sizes: list[str] = list(LADDER)
    """Presets."""
    within: float = Field(default=10.0, gt=1)
    """How many times larger or smaller than the expected best size a model may be."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _require_budgets(self.budgets)
        for name in self.sizes:
            if name not in presets.names():
                raise ValueError(f"sizes: no preset {name!r}; there are {', '.join(presets.names())}")
        return self


class ScaleRecipe(Settings):
    """What ``kaiyuan scale`` does. A plan without a fit follows the paper's law."""

    scale: FitSection | None = None
    plan: PlanSection | None = None
    sweep: SweepSection | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.scale is None and self.plan is None and self.sweep is None:
            raise ValueError("nothing to do: there is no section [scale], [plan] or [sweep]")
        return self


def _require_budgets(budgets: list[Flops] | None) -> None:
    for budget in budgets or []:
        if not (math.isfinite(budget) and 0 < budget < 1e35):
            raise ValueError(f"budgets: {budget} is not a number of FLOPs")
    if budgets == []:
        raise ValueError("budgets: the list is empty")


def load_scale_recipe(path: Path) -> ScaleRecipe:
    """Read a recipe; a ``ConfigError`` names the file and lists everything that is wrong with it."""
    return load_settings(ScaleRecipe, path)


@dataclass(frozen=True)
class Fits:
    """All that was fitted to one table."""

    isoflop: IsoFlopFit
    cost: TrainingCost
    """What the table's FLOPs follow."""
    parametric: ParametricLaw | None
    parametric_note: str
    """How well it fits, or why there is none."""


def run_scale(recipe: Path, out: Path | None = None) -> str:
    """Do what ``recipe`` says; returns the tables to print.

    Writes into ``out`` (default ``runs/<name of the recipe>``): ``fit.json`` and ``scaling.svg`` for [scale],
    ``plan.json`` for [plan], and for [sweep] ``sweep.jsonl``, whose lines become a table for [scale] once each has its
    ``loss``.
    """
    from kaiyuan.scaling.fit_text import render_scale

    wanted = load_scale_recipe(recipe)
    sweep = None
    if wanted.sweep is not None:
        sweep = sweep_plan(wanted.sweep.budgets, wanted.sweep.sizes, within=wanted.sweep.within)
    fits = None if wanted.scale is None else fit_table(wanted.scale, recipe.parent)
    best = None if wanted.plan is None else plan_budget(wanted.plan, fits)
    written = _write(out or Path("runs") / recipe.stem, fits, best, sweep)
    return render_scale(fits, best, sweep, written)


def fit_table(section: FitSection, folder: Path) -> Fits:
    """Fit the section's table, whose name is relative to ``folder``, in every way there is."""
    runs = read_runs(folder / section.runs)
    groups = group_by_budget(runs, section.budgets, section.tolerance)
    fit = fit_isoflop(groups, draws=section.draws, seed=section.seed)
    parametric = None
    try:
        parametric = fit_parametric(runs)
        note = f"It misses the table's losses by {rms_error(parametric, runs):.2g} nats (root mean square)."
    except DataError as error:
        note = str(error)
    return Fits(fit, fit_cost(runs), parametric, note)


def plan_budget(section: PlanSection, fits: Fits | None) -> dict[str, Any]:
    """What the budget should buy by every law there is.

    ``{"flops", "minimum_flops", "largest_budget_fitted", "laws": [{"name", "active_parameters", "tokens", "flops",
    ...}]}``. The fitted laws' tokens are what the budget pays for at the best size, so that a plan costs what it may;
    the fitted D_opt, which need not add up with N_opt far from the runs, is beside them as ``tokens_by_law``.
    """
    minimum = minimum_compute(section.compute, section.batch_over_critical)
    laws = [] if fits is None else _fitted_plans(fits, minimum)
    best = PAPER_LAW.optimum(minimum)
    laws.append(_planned("paper's law", best.active_parameters, best.tokens, PAPER_COST))
    largest = None if fits is None else max(curve.flops for curve in fits.isoflop.curves)
    return {"flops": section.compute, "minimum_flops": minimum, "largest_budget_fitted": largest, "laws": laws}


def _fitted_plans(fits: Fits, minimum: Flops) -> list[dict[str, Any]]:
    fit, cost = fits.isoflop, fits.cost
    size = fit.law.parameters(minimum)
    plans = [{
        **_planned("fitted isoFLOP law", size, cost.tokens(minimum, size), cost),
        "tokens_by_law": fit.law.tokens(minimum),
        "active_parameters_interval": fit.interval(lambda law: law.parameters(minimum)),
        "tokens_interval": fit.interval(lambda law: cost.tokens(minimum, law.parameters(minimum))),
    }]  # fmt: skip
    if fits.parametric is not None:
        best = fits.parametric.optimum(minimum, cost)
        loss = fits.parametric.loss(best.active_parameters, best.tokens)
        plans.append({**_planned("fitted parametric law", best.active_parameters, best.tokens, cost), "loss": loss})
    return plans


def _planned(name: str, size: float, tokens: float, cost: TrainingCost) -> dict[str, Any]:
    return {"name": name, "active_parameters": size, "tokens": tokens, "flops": cost.flops(size, tokens)}


def _write(folder: Path, fits: Fits | None, best: dict[str, Any] | None, sweep: list[SweepRun] | None) -> list[Path]:
    """Write what there is; returns the files."""
    from kaiyuan.scaling.picture import draw_fit

    written = []
    if fits is not None:
        write_json(folder / "fit.json", fits_as_json(fits))
        write_text(folder / "scaling.svg", draw_fit(fits.isoflop))
        written += [folder / "fit.json", folder / "scaling.svg"]
    if best is not None:
        write_json(folder / "plan.json", best)
        written.append(folder / "plan.json")
    if sweep is not None:
        write_jsonl(folder / "sweep.jsonl", map(asdict, sweep))
        written.append(folder / "sweep.jsonl")
    return written


def fits_as_json(fits: Fits) -> dict[str, Any]:
    """Everything found, without the bootstrap's single draws."""
    fit = fits.isoflop
    return {
        "law": {
            "parameters": _power_law(fit, lambda law: law.parameters),
            "tokens": _power_law(fit, lambda law: law.tokens),
        },
        "parametric": None if fits.parametric is None else asdict(fits.parametric),
        "parametric_note": fits.parametric_note,
        "cost": asdict(fits.cost),
        "curves": [asdict(curve) for curve in fit.curves],
        "warnings": list(fit.warnings),
    }


def _power_law(fit: IsoFlopFit, part: Callable[[ScalingLaw], PowerLaw]) -> dict[str, Any]:
    return {
        **asdict(part(fit.law)),
        "coefficient_interval": fit.interval(lambda law: part(law).coefficient),
        "exponent_interval": fit.interval(lambda law: part(law).exponent),
    }

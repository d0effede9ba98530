"""A fitted scaling law and the plan that follows from it, set out for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kaiyuan.progress import quantity
from kaiyuan.scaling.fit import Fits
from kaiyuan.scaling.isoflop import IsoFlopFit
from kaiyuan.scaling.law import PAPER_LAW, ScalingLaw
from kaiyuan.scaling.sweep import SweepRun
from kaiyuan.scaling.text import Section, render, scientific

_FAR = 10.0


def render_scale(
    fits: Fits | None, best: dict[str, Any] | None, sweep: Sequence[SweepRun] | None, written: Sequence[Path]
) -> str:
    """All that ``kaiyuan scale`` prints."""
    sections = []
    if sweep is not None:
        sections.append(_sweep(sweep))
    if fits is not None:
        sections += [_curves(fits.isoflop), _law(fits.isoflop), _parametric(fits)]
    if best is not None:
        sections.append(_plan(best))
    sections.append(Section("Written", [(str(path),) for path in written]))
    return render(sections)


def _sweep(sweep: Sequence[SweepRun]) -> Section:
    rows = [(scientific(run.flops), run.preset, quantity(run.active_parameters), quantity(run.tokens)) for run in sweep]
    note = f"{len(sweep)} runs, {scientific(sum(run.flops for run in sweep))} FLOPs in all"
    return Section("Runs for isoFLOP curves", rows, ("FLOPs", "preset", "active parameters", "tokens"), (note,))


def _curves(fit: IsoFlopFit) -> Section:
    rows = [
        (scientific(curve.flops), f"{len(curve.runs)}", quantity(curve.active_parameters), quantity(curve.tokens),
         f"{curve.loss:.4f}")
        for curve in fit.curves
    ]  # fmt: skip
    head = ("FLOPs", "runs", "best active parameters", "best tokens", "loss there")
    return Section("IsoFLOP curves", rows, head, [f"warning: {text}" for text in fit.warnings])


def _law(fit: IsoFlopFit) -> Section:
    def row(name: str, number: Callable[[ScalingLaw], float]) -> tuple[str, str, str, str]:
        return name, f"{number(fit.law):.4g}", _interval(fit.interval(number), "{:.4g}".format), \
            f"{number(PAPER_LAW):.4g}"  # fmt: skip

    rows = [
        row("N_opt = N_c C^alpha: alpha", lambda law: law.parameters.exponent),
        row("N_c", lambda law: law.parameters.coefficient),
        row("D_opt = D_c C^beta: beta", lambda law: law.tokens.exponent),
        row("D_c", lambda law: law.tokens.coefficient),
    ]
    return Section("Scaling law", rows, ("", "fitted", "95% interval", "paper"))


def _interval(found: Sequence[float] | None, text: Callable[[float], str]) -> str:
    return "" if found is None else f"{text(found[0])} to {text(found[1])}"


def _parametric(fits: Fits) -> Section:
    title, law = "Parametric law L(N, D) = E + A / N^a + B / D^b", fits.parametric
    if law is None:
        return Section(title, [], notes=[fits.parametric_note])
    row = [f"{value:.4g}" for value in (
        law.irreducible, law.size_scale, law.size_exponent, law.data_scale, law.data_exponent
    )]  # fmt: skip
    return Section(title, [row], ("E", "A", "a", "B", "b"), [fits.parametric_note])


def _plan(best: dict[str, Any]) -> Section:
    rows = [(
        law["name"],
        quantity(law["active_parameters"]), _interval(law.get("active_parameters_interval"), quantity),
        quantity(law["tokens"]), _interval(law.get("tokens_interval"), quantity),
        f"{law['loss']:.3f}" if "loss" in law else "", scientific(law["flops"]),
    ) for law in best["laws"]]  # fmt: skip
    head = ("", "active parameters", "95% interval", "tokens", "95% interval", "loss", "FLOPs")
    title = f"What to train with {scientific(best['flops'])} FLOPs"
    if best["minimum_flops"] != best["flops"]:
        title += f" (C_min {scientific(best['minimum_flops'])})"
    return Section(title, rows, head, _plan_notes(best))


def _plan_notes(best: dict[str, Any]) -> list[str]:
    notes = [
        f"Tokens are what the budget pays for at the best size; the fitted D_opt alone would say "
        f"{quantity(law['tokens_by_law'])}."
        for law in best["laws"] if "tokens_by_law" in law
    ]  # fmt: skip
    largest = best["largest_budget_fitted"]
    if largest is not None and best["minimum_flops"] > _FAR * largest:
        notes.append(f"{best['minimum_flops'] / largest:,.0f} times the largest budget fitted: the intervals hold only "
                     "if the law does that far out.")  # fmt: skip
    return notes

"""Tables of training runs: one line a run, as JSON Lines or CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaiyuan.errors import DataError, listing
from kaiyuan.scaling.law import PAPER_COST, TrainingCost

_LARGEST = 1e40
"""Far above any run, far below where squares and products leave floating point."""


@dataclass(frozen=True)
class TrainingRun:
    """One finished training run, as far as a scaling law is concerned."""

    active_parameters: float
    """N: activated parameters, without the embedding if the result is to be compared with the paper's (``law.py``)."""
    tokens: float
    loss: float
    """Held-out loss at the end, in nats per token."""
    flops: float


def read_runs(path: Path, cost: TrainingCost = PAPER_COST) -> list[TrainingRun]:
    """The runs in ``path`` (.csv with a heading line, anything else JSON Lines).

    Columns: ``active_parameters``, ``tokens``, ``loss`` and optionally ``flops``, which ``cost`` gives where absent;
    others are ignored. A ``DataError`` lists every line that cannot be used.
    """
    rows = _csv_rows if path.suffix.lower() == ".csv" else _jsonl_rows
    problems: list[str] = []
    runs = []
    for number, row in rows(path):
        if isinstance(row, str):
            problems.append(f"line {number}: {row}")
            continue
        found = [f"line {number}: {problem}" for problem in _row_problems(row)]
        problems += found
        if not found:
            runs.append(_run(row, cost))
    if problems:
        raise DataError(listing(f"{path} cannot be used", problems))
    if not runs:
        raise DataError(f"{path}: no runs in it")
    return runs


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a table ({type(error).__name__})") from None


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """(line number, row), or (line number, what is wrong with it)."""
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, f"not valid JSON ({error})"
            continue
        yield number, row if isinstance(row, dict) else "not a JSON object"


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    reader = csv.DictReader(io.StringIO(_text(path)), skipinitialspace=True, strict=True)
    try:
        for row in reader:
            yield reader.line_num, {name: _number(cell) for name, cell in row.items() if name and cell}
    except csv.Error as error:
        yield reader.line_num, f"not valid CSV ({error})"


def _number(cell: Any) -> Any:
    """A cell's number; the cell itself where it is none (columns of names are nobody's mistake)."""
    try:
        return float(cell)
    except (TypeError, ValueError):
        return cell


def _row_problems(row: Mapping[str, Any]) -> list[str]:
    problems = []
    for name in ("active_parameters", "tokens", "loss", "flops"):
        value = row.get(name)
        if value is None:
            if name != "flops":
                problems.append(f"{name}: missing")
        elif not _is_usable(value):
            problems.append(f"{name}: {value!r:.40} is not a positive number")
    return problems


def _is_usable(value: object) -> bool:
    """Whether ``value`` is a positive number that computations can bear."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value < _LARGEST and math.isfinite(value)


def _run(row: Mapping[str, Any], cost: TrainingCost) -> TrainingRun:
    parameters, tokens, loss = (float(row[name]) for name in ("active_parameters", "tokens", "loss"))
    flops = row.get("flops")
    return TrainingRun(parameters, tokens, loss, cost.flops(parameters, tokens) if flops is None else float(flops))


def group_by_budget(
    runs: Sequence[TrainingRun], budgets: Sequence[float] | None = None, tolerance: float = 0.1
) -> dict[float, list[TrainingRun]]:
    """Runs by compute budget, both in increasing order; one entry for each curve.

    With ``budgets`` (FLOPs) every run belongs to the nearest, which it must meet within ``tolerance`` (0.1: 10%).
    Without, a new budget begins wherever sorted FLOPs grow by more than ``tolerance``, and a budget is its runs'
    geometric mean. A ``DataError`` says which runs belong nowhere, or that the budgets run into one another.
    """
    ordered = sorted(runs, key=lambda run: (run.flops, run.active_parameters))
    groups = _clusters(ordered, tolerance) if budgets is None else _nearest(ordered, budgets, tolerance)
    return {budget: sorted(group, key=lambda run: run.active_parameters) for budget, group in sorted(groups.items())}


def _nearest(runs: Sequence[TrainingRun], budgets: Sequence[float], tolerance: float) -> dict[float, list[TrainingRun]]:
    groups: dict[float, list[TrainingRun]] = {budget: [] for budget in budgets}
    strays = []
    for run in runs:
        budget = min(groups, key=lambda known: abs(math.log(run.flops / known)))
        if abs(math.log(run.flops / budget)) > math.log1p(tolerance):
            strays.append(f"{run.flops:.3g} FLOPs (N {run.active_parameters:.3g}, D {run.tokens:.3g}): nearest is "
                          f"{budget:.3g}")  # fmt: skip
        groups[budget].append(run)
    if strays:
        raise DataError(listing(f"runs more than {tolerance:.0%} from every budget", strays))
    return groups


def _clusters(runs: Sequence[TrainingRun], tolerance: float) -> dict[float, list[TrainingRun]]:
    clusters: list[list[TrainingRun]] = []
    for run in runs:
        if not clusters or run.flops > clusters[-1][-1].flops * (1 + tolerance):
            clusters.append([])
        clusters[-1].append(run)
    groups = {}
    for cluster in clusters:
        low, high = cluster[0].flops, cluster[-1].flops
        if high > low * (1 + tolerance) ** 2:
            raise DataError(f"budgets from {low:.3g} to {high:.3g} FLOPs run into one another: list the budgets meant")
        mean = math.exp(sum(math.log(run.flops) for run in cluster) / len(cluster))
        groups[float(f"{mean:.12g}")] = cluster
    return groups

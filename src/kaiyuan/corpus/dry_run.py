"""What cleaning would take from a sample: by filter and language, with examples, in the terminal; nothing is kept."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kaiyuan.corpus.assemble import assemble
from kaiyuan.corpus.cleaning import CleanStore
from kaiyuan.corpus.pipeline import REJECTED
from kaiyuan.corpus.stage import contamination_index, sources_of
from kaiyuan.corpus.work import Store, Unit, plan, run_units
from kaiyuan.files import read_jsonl
from kaiyuan.recipe import Recipe

UNITS_OF_A_SOURCE = 8
"""From so many places of a source, evenly spaced, documents are taken."""


def dry_run(recipe: Recipe, documents: int = 2000, examples: int = 2, console: Console | None = None) -> None:
    """Read and clean about ``documents`` documents of the recipe's sources and show what goes and why.

    The work is done in a temporary folder that is removed; the run's folder is not touched.
    """
    console = console or Console(highlight=False)
    section = recipe.corpus
    with tempfile.TemporaryDirectory(prefix="kaiyuan-dry-run-") as place:
        folder = Path(place)
        units = sampled(plan(sources_of(section)), documents)
        read = Store(folder / "read")
        run_units(units, read, workers=section.workers)
        store = CleanStore(folder / "cleaned", read, section.cleaning(), contamination_index(recipe, folder))
        cleaning = store.units(units)
        run_units(cleaning, store, workers=section.workers, label="cleaning")
        report = assemble(store, cleaning, folder / "out")
        _show(console, report, _examples(folder / "out" / REJECTED, examples))


def sampled(units: Sequence[Unit], documents: int) -> list[Unit]:
    """Some units of each source with a limit each; about ``documents`` in all, as many of each source."""
    by_source: dict[int, list[Unit]] = defaultdict(list)
    for unit in units:
        by_source[unit.origin].append(unit)
    found: list[Unit] = []
    for mine in by_source.values():
        step = max(1, -(-len(mine) // UNITS_OF_A_SOURCE))
        some = mine[::step]
        limit = max(1, documents // (len(by_source) * len(some)))
        for unit in some:
            source = unit.source.model_copy(update={"limit": min(limit, unit.source.limit or limit)})
            found.append(replace(unit, number=len(found), origin=len(found), source=source))
    return found


def _examples(path: Path, count: int) -> dict[str, list[dict[str, Any]]]:
    """The first rejected documents of each kind."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in read_jsonl(path):
        kind = row["reason"].split(":")[0]
        if len(found[kind]) < count:
            found[kind].append(row)
    return found


def _show(console: Console, report: dict[str, Any], examples: dict[str, list[dict[str, Any]]]) -> None:
    counts = report["documents"]
    languages = sorted({name for rows in report["filters"].values() for name in rows})
    table = Table(title="What goes", title_justify="left")
    table.add_column("filter")
    table.add_column("documents", justify="right")
    table.add_column("of all", justify="right")
    for language in languages:
        table.add_column(language, justify="right")
    for kind, rows in report["filters"].items():
        gone = sum(row["documents"] for row in rows.values())
        cells = [f"{rows[name]['documents']:,}" if name in rows else "" for name in languages]
        table.add_row(escape(kind), f"{gone:,}", f"{gone / max(counts['read'], 1):.1%}", *cells)
    if report["filters"]:
        console.print(table)
    for kind, rows in examples.items():
        console.print(f"\n[bold]{escape(kind)}[/bold]")
        for row in rows:
            detail = row["reason"].partition(": ")[2]
            console.print(f"  {escape(detail)}  [dim]{escape(row['source'])} {escape(row['place'])}[/dim]")
            console.print(f"    {escape(row['sample'][:160])}", style="italic")
    console.print()
    for line in _summary(report):
        console.print(line)


def _summary(report: dict[str, Any]) -> Iterator[str]:
    counts = report["documents"]
    kept = counts["train"] + counts["heldout"]
    share = kept / max(counts["read"], 1)
    yield f"{counts['read']:,} documents looked at, {kept:,} would stay ({share:.1%}); nothing was written"
    for what, name in (("lines of furniture taken out", "furniture"), ("personal data replaced", "pii")):
        if report[name]:
            yield f"{what}: " + ", ".join(f"{kind} {count:,}" for kind, count in report[name].items())
    yield "In the whole corpus there are more duplicates and shared lines than in a sample."

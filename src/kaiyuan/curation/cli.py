"""``kaiyuan curate``: its subcommands import what they need when they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

curate = typer.Typer(help="Data for SFT and DPO: extract, check, grade, label, build versions.", no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of curation.")]


@curate.command()
def extract(
    folder: Folder, sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Files, folders, globs.")]
) -> None:
    """Find instructions with answers in documents, code and chat logs.

    Example: kaiyuan curate extract data/mine faq.md chats.jsonl src/
    """
    from kaiyuan.curation.command import extract_into

    print(extract_into(folder, sources))


@curate.command()
def check(
    folder: Folder,
    near: Annotated[float, typer.Option(min=0.2, max=1, help="Similarity from which two instructions are one.")] = 0.8,
) -> None:
    """Let the rules decide about every candidate; of near-duplicate instructions the best stays.

    Example: kaiyuan curate check data/mine
    """
    from kaiyuan.curation.command import check_folder

    print(check_folder(folder, near))


Config = typer.Option("--config", metavar="FILE", help="Endpoints and roles; see docs/sft-data.md.")
DryRun = Annotated[bool, typer.Option("--dry-run", help="Send nothing; print calls, tokens and cost.")]
Limit = Annotated[int, typer.Option(min=0, help="Samples to ask about, chosen by their hashes; 0 for all.")]


@curate.command()
def grade(folder: Folder, config: Annotated[Path, Config], limit: Limit = 0, dry_run: DryRun = False) -> None:
    """Have a critique model put what passed the rules into four tiers. Run it again to go on.

    Example: kaiyuan curate grade data/mine --config judges.toml --dry-run
    """
    from kaiyuan.curation.command import grade_folder

    print(grade_folder(folder, config, limit, dry_run))


@curate.command()
def label(
    folder: Folder,
    config: Annotated[Path | None, Config] = None,
    scorer: Annotated[Path | None, typer.Option(metavar="DIR", help="A scorer instead of a model.")] = None,
    min_confidence: Annotated[float, typer.Option(min=0, max=1, help="A scorer that is less sure says nothing.")] = 0.5,
    every: Annotated[bool, typer.Option("--all", help="By a model: also what has a label of somebody else.")] = False,
    limit: Limit = 0,
    dry_run: DryRun = False,
) -> None:
    """Give instructions without a label one of the taxonomy's, by a model or a scorer.

    Example: kaiyuan curate label data/mine --config judges.toml --limit 5000

    Example: kaiyuan curate label data/mine --scorer runs/topics
    """
    from kaiyuan.curation.command import label_by_scorer, label_folder

    if (config is None) == (scorer is None):
        raise typer.BadParameter("give either --config or --scorer")
    if config is not None:
        print(label_folder(folder, config, limit, dry_run, every))
    elif scorer is not None:
        print(label_by_scorer(folder, scorer, min_confidence))


@curate.command()
def teach(
    folder: Folder,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write the scorer.")] = Path("runs/topics"),
) -> None:
    """Train a scorer from a folder's labels, for label --scorer.

    Example: kaiyuan curate teach data/mine --out runs/topics
    """
    from kaiyuan.curation.command import teach_scorer

    print(teach_scorer(folder, out))


@curate.command()
def pairs(
    folder: Folder,
    files: Annotated[list[Path] | None, typer.Argument(metavar="[FILE]...", help="Pairs to take in.")] = None,
) -> None:
    """Check preference pairs for DPO: duplicates, contradictions, whether length gives the choice away, labels.

    Example: kaiyuan curate pairs data/mine pairs.jsonl
    """
    from kaiyuan.curation.command import check_pair_files

    print(check_pair_files(folder, files or []))


@curate.command()
def build(
    folder: Folder,
    name: Annotated[str, typer.Option(help="Of the version.")],
    settings: Annotated[Path | None, typer.Option(help="TOML: critique, min_grade, [balance], [pairs], seed.")] = None,
    at: Annotated[int | None, typer.Option(min=0, help="Only the first decisions of the log.")] = None,
) -> None:
    """Make a data set of the candidates that are kept, balanced by label.

    Example: kaiyuan curate build data/mine --name v1 --settings v1.toml
    """
    from kaiyuan.curation.command import build_version

    print(build_version(folder, name, settings, at))


@curate.command()
def diff(folder: Folder, old: str, new: str) -> None:
    """Say which samples two versions do not share, and why.

    Example: kaiyuan curate diff data/mine v1 v2
    """
    from kaiyuan.curation.build import diff as difference

    print(difference(folder, old, new))


@curate.command()
def trace(folder: Folder, sample: Annotated[str, typer.Argument(metavar="HASH", help="Or its beginning.")]) -> None:
    """Say every decision about a sample: who, when, which version, why.

    Example: kaiyuan curate trace data/mine 4f0c9a
    """
    from kaiyuan.curation.command import trace_sample

    print(trace_sample(folder, sample))


def review(
    folder: Folder,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any free one.")] = 8100,
    samples: Annotated[int, typer.Option(min=1, help="Samples to show.")] = 200,
    double: Annotated[float, typer.Option(min=0, max=1, help="Share of them that two people see.")] = 0.25,
) -> None:
    """Judge samples on a page of this machine, by keys, blind.

    Example: kaiyuan review data/mine
    """
    from kaiyuan.curation.review import Plan
    from kaiyuan.serving.review.app import review as serve
    from kaiyuan.serving.review.desk import Desk

    desk = Desk(folder, Plan(samples=samples, double_share=double))
    try:
        serve(desk, port)
    finally:
        desk.close()

"""The data card of a corpus: Markdown with a head in YAML, in the form that data set hubs read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from kaiyuan.progress import quantity

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
          (10**8, "10M<n<100M"), (10**9, "100M<n<1B"))  # fmt: skip


def data_card(name: str, report: dict[str, Any], survey: dict[str, Any], settings: dict[str, Any]) -> str:
    """``report`` and ``survey`` of the stage, ``settings`` of its section; says nothing that is not in them."""
    return "\n".join((*_head(name, report, survey), *_body(name, report, survey, settings))) + "\n"


def _head(name: str, report: dict[str, Any], survey: dict[str, Any]) -> Iterator[str]:
    languages = sorted({row["language"] for row in survey["groups"] if row["language"] not in ("code", "und")})
    count = report["documents"]["train"]
    yield from ("---", f"pretty_name: {json.dumps(name, ensure_ascii=False)}", "task_categories:", "- text-generation")
    yield "language:"
    yield from (f"- {language}" for language in languages)
    yield "size_categories:"
    yield f"- {next((text for limit, text in _SIZES if count < limit), 'n>1B')}"
    yield "configs:"
    yield from ("- config_name: default", "  data_files:", "  - split: train", "    path: train.jsonl",
                "  - split: test", "    path: heldout.jsonl", "---", "")  # fmt: skip


def _body(name: str, report: dict[str, Any], survey: dict[str, Any], settings: dict[str, Any]) -> Iterator[str]:
    counts = report["documents"]
    yield f"# {name}"
    yield ""
    yield (f"A corpus for the training of language models, made by kaiyuan: {counts['train']:,} documents to train on, "
           f"{counts['heldout']:,} held out, of {counts['read']:,} read.")  # fmt: skip
    yield from ("", "## Sources", "", "| Source | language | licence | documents | size |", "|---|---|---|---:|---:|")
    yield from _table(survey, ("source", "language", "licence"))
    yield from ("", "## Labels", "", "| Label | language | documents | size |", "|---|---|---:|---:|")
    yield from _table(survey, ("label", "language"))
    yield from ("", "## What was taken out", "", "| Filter | documents |", "|---|---:|")
    yield from (f"| {_cell(kind)} | {count:,} |" for kind, count in report["rejected"].items())
    if report["pii"]:
        found = ", ".join(f"{kind} {count:,}" for kind, count in report["pii"].items())
        yield from ("", f"Personal data replaced by placeholders: {found}.")
    elif settings.get("anonymize"):
        yield from ("", "Personal data were looked for and none were found.")
    else:
        yield from ("", "Personal data were not looked for.")
    yield from ("", "## Fields", "", "Each line is a JSON object: `id` (hash of the text), `text`, `source`, "
                "`language`, `label`, and where known `title`, `url`, `licence`, `date` and more.")  # fmt: skip
    if survey["scores"]:
        yield "`extra.scores` holds the probabilities that a scorer gave; they are no human judgement."
    yield from ("", "## Limits", "", "Filters and scorers err in both directions. Licences are what the sources state; "
                "where none is stated, rights have to be cleared before the text is passed on.")  # fmt: skip
    yield from (
        "",
        "## Settings",
        "",
        "```json",
        json.dumps(settings, ensure_ascii=False, indent=1, sort_keys=True),
        "```",
    )


def _table(survey: dict[str, Any], keys: tuple[str, ...]) -> Iterator[str]:
    documents: Counter[tuple[str, ...]] = Counter()
    sizes: Counter[tuple[str, ...]] = Counter()
    for row in survey["groups"]:
        missing = "made by the run" if row["split"] == "generated" else "not stated"
        key = tuple(_cell(row[name]) or missing for name in keys)
        documents[key] += row["documents"]
        sizes[key] += row["bytes"]
    for key in sorted(documents):
        yield f"| {' | '.join(key)} | {documents[key]:,} | {quantity(sizes[key])}B |"


def _cell(text: str) -> str:
    """On one line, without what would end a cell."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")

"""The report of a run: report.html, one file that works offline, and report.json with the numbers behind it."""

from __future__ import annotations

from pathlib import Path

from kaiyuan.report.data import report_data

__all__ = ["report_data", "write_report"]


def write_report(run: Path) -> Path:
    """Write ``report.html`` and ``report.json`` into the run folder ``run``; returns the path of the former.

    A run whose stages are not all there gets a report that says which are missing. A ``DataError`` names a file that
    is damaged, or the folder if there is none.
    """
    from kaiyuan.errors import DataError
    from kaiyuan.files import read_json, write_json, write_text
    from kaiyuan.report.page import page

    run = Path(run)
    if not run.is_dir():
        raise DataError(f"{run}: no such run folder")
    data = report_data(run)
    if data["recipe"] is None and set(data["stages"].values()) == {"missing"}:
        raise DataError(f"{run}: not a run folder: there is neither a recipe.json nor the folder of a stage in it")
    if (run / "corpus" / "survey.json").exists() and data["counts"]["corpus"]:
        from kaiyuan.report.corpus_page import corpus_page

        tokens = (data["counts"]["tokenizer"] or {}).get("shards")
        counted = read_json(run / "corpus" / "survey.json")
        phases = read_json(path) if (path := run / "pretrain" / "mixture.json").exists() else None
        length = ((data["recipe"] or {}).get("pretrain") or {}).get("sequence_length", 0)
        about = corpus_page(data["name"], data["counts"]["corpus"], counted, tokens, "corpus/", phases, length)
        write_text(run / "corpus.html", about)
    write_json(run / "report.json", data)
    write_text(run / "report.html", page(data))
    return run / "report.html"

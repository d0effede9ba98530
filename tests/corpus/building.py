"""A corpus made of documents in memory, by the way that a run takes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kaiyuan.corpus.assemble import assemble
from kaiyuan.corpus.cleaning import CleaningUnit, CleanStore
from kaiyuan.corpus.pipeline import CorpusSettings
from kaiyuan.corpus.sources import Document, Source
from kaiyuan.corpus.work import Store, plan, run_units


def prepared(
    documents: Iterable[Document], folder: Path, settings: CorpusSettings, contamination: Path | None = None,
    *, read_bytes: int = 2**27, unit_bytes: int = 2**24, key: Path | None = None,
) -> tuple[CleanStore, list[CleaningUnit]]:  # fmt: skip
    """Documents read into ``folder``, and the units of cleaning that they make."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({**document.row(), "extra": None}, ensure_ascii=False) for document in documents]
    (folder / "in.jsonl").write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    read = Store(folder / "read")
    units = plan([Source(path=str(folder / "in.jsonl"), keep=["score"], max_dead_share=1)], unit_bytes=read_bytes)
    run_units(units, read)
    store = CleanStore(folder / "cleaned", read, settings, contamination, key)
    return store, store.units(units, unit_bytes)


def build(
    documents: Iterable[Document], out: Path, settings: CorpusSettings, contamination: Path | None = None,
    *, workers: int = 1, **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """The whole corpus in ``out``; returns its report."""
    store, units = prepared(documents, out.parent / f"{out.name}.work", settings, contamination, **options)
    run_units(units, store, workers=workers, label="cleaning")
    return assemble(store, units, out)

"""The corpus stage over files of several formats: dead letters, counts by source, and units that outlive a change."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from kaiyuan.corpus.sources import demo_documents
from kaiyuan.corpus.stage import DEAD, UNITS, training_documents
from kaiyuan.files import read_json, read_jsonl
from kaiyuan.recipe import load_recipe
from kaiyuan.run import execute

RECIPE = """
[run]
name = "test"
[corpus]
demo = false
workers = 1
files = [{files}]
"""


def test_files_of_several_formats_become_a_corpus(tmp_path: Path):
    texts = [document.text[:1500] for document in demo_documents() if document.language == "en"][:40]
    lines = [json.dumps({"text": text, "url": f"http://site/{n}"}) for n, text in enumerate(texts[:30])]
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress("\n".join([*lines, "{broken"]).encode()))
    (tmp_path / "notes").mkdir()
    for n, text in enumerate(texts[30:]):
        (tmp_path / "notes" / f"{n}.md").write_text(f"---\nlicense: CC0-1.0\n---\n{text}")
    names = [str(tmp_path / "rows.jsonl.gz"), str(tmp_path / "notes")]
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(files=", ".join(map(json.dumps, names))))
    run = tmp_path / "run"
    folder = execute(load_recipe(path), run, only="corpus")
    report = read_json(folder / "report.json")
    assert report["documents"]["read"] == 40
    assert [report["sources"][name]["documents"] for name in names] == [30, 10]
    (dead,) = read_jsonl(folder / DEAD)
    assert (dead["place"], dead["source"]) == ("rows.jsonl.gz:31", "rows")
    assert dead["reason"].startswith("not valid JSON")
    documents = {document.title or document.url: document for document in training_documents(folder)}
    assert all(d.licence == "CC0-1.0" for d in documents.values() if d.source == "notes")
    assert all(d.place for d in documents.values())
    assert list(read_jsonl(folder / "pii.jsonl")) == []
    assert (run / "pii.key").stat().st_mode & 0o077 == 0 and not (folder / "pii.key").exists()
    before = {file: file.stat().st_mtime_ns for file in (run / UNITS).rglob("*.json*")}
    execute(load_recipe(path, ["corpus.min_chars=100"]), run, only="corpus", overwrite=True)
    assert before == {file: file.stat().st_mtime_ns for file in (run / UNITS).rglob("*.json*")}

"""The corpus stage over files of several formats: dead letters, counts by source, and units that outlive a change."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from kaiyuan.corpus.scores import load_scorer
from kaiyuan.corpus.scores.demo_set import demo_labels
from kaiyuan.corpus.sources import demo_documents
from kaiyuan.corpus.stage import DEAD, UNITS, training_documents
from kaiyuan.errors import KaiyuanError
from kaiyuan.files import read_json, read_jsonl, write_jsonl
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


def test_a_scorer_is_trained_first_and_its_best_text_gets_a_label(tmp_path: Path):
    texts = [document.text[:1500] for document in demo_documents() if document.language == "en"][:40]
    write_jsonl(tmp_path / "rows.jsonl", ({"text": text} for text in texts))
    labels = [row.row() for row in demo_labels(most=40)]
    write_jsonl(tmp_path / "labels.jsonl", labels)
    path, run = tmp_path / "recipe.toml", tmp_path / "run"
    path.write_text(
        RECIPE.format(files=json.dumps(str(tmp_path / "rows.jsonl")))
        + 'mix_by = ["quality"]\nbest_share = 0.2\n[corpus.scorer]\n'
        + f'labels = {{ file = "{tmp_path / "labels.jsonl"}" }}\n'
        + 'scorer = { bits = 12, dimensions = ["quality"], calibration = "platt" }\n'
    )
    folder = execute(load_recipe(path), run, only="corpus")
    report, scorer = read_json(folder / "report.json"), load_scorer(folder / "scorer" / "scorer")
    assert report["scorer"]["labels"] == str(tmp_path / "labels.jsonl")
    assert "AUC" in report["scorer"]["dimensions"]["quality"]
    rows = list(read_jsonl(folder / "train.jsonl"))
    assert [row["extra"]["scores"] for row in rows] == scorer.score([row["text"] for row in rows])
    best = [row["extra"]["scores"]["quality"] for row in rows if row["label"] == "web-best"]
    assert 6 <= len(best) <= 10
    assert min(best) >= max(row["extra"]["scores"]["quality"] for row in rows if row["label"] == "web")
    assert 'href="scorer/report.html"' in (folder / "report.html").read_text()
    assert (folder / "scorer" / "report.html").exists()
    write_jsonl(tmp_path / "labels.jsonl", labels[1:])
    with pytest.raises(KaiyuanError, match=r"labels\.jsonl"):
        execute(load_recipe(path), run, only="corpus")

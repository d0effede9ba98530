"""Cleaning as units of work: killed and gone on with by others, on a cluster, within little memory; shared lines."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from building import build, prepared
from test_pipeline import chinese, document, english, rows

from kaiyuan.corpus.assemble import NOT_ENOUGH, assemble
from kaiyuan.corpus.cleaning import CleanStore, score
from kaiyuan.corpus.filters import View
from kaiyuan.corpus.pipeline import CorpusSettings
from kaiyuan.corpus.sources import Document
from kaiyuan.corpus.work import Store, run_units
from kaiyuan.files import read_jsonl

FILES = ("train.jsonl", "heldout.jsonl", "rejected.jsonl")
SIZES = {"read_bytes": 20_000, "unit_bytes": 6000}


def corpus() -> list[Document]:
    rng = random.Random(11)
    documents = [document(english(rng)) for _ in range(60)] + [document(chinese(rng), "zh") for _ in range(60)]
    documents += [document(f"{original.text} Soon, more.", original.language) for original in documents[::3]]
    documents += documents[1::7]
    documents = [replace(doc, url=f"http://site/{number % 90}") for number, doc in enumerate(documents)]
    rng.shuffle(documents)
    return [
        *documents,
        document("Short."),
        document("Ein kleiner Satz auf Deutsch, der nicht hierher gehört. " * 3, "de"),
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    build(corpus(), out, CorpusSettings(held_out_share=0.2))
    return out


def same(one: Path, other: Path) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in FILES)


@pytest.mark.parametrize("workers", [1, 2])
def test_units_and_workers_make_no_difference(whole: Path, workers: int, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(corpus(), out, CorpusSettings(held_out_share=0.2), workers=workers, **SIZES)
    assert len(list((tmp_path / "out.work" / "cleaned").rglob("*.records"))) > 10
    # Places differ with the units that were read, and with them ties between equal texts; what is kept does not.
    for name in FILES[:2]:
        found, expected = ([{**row, "place": ""} for row in read_jsonl(folder / name)] for folder in (out, whole))
        assert sorted(row["id"] for row in found) == sorted(row["id"] for row in expected)


def test_order_of_documents_makes_no_difference(whole: Path, tmp_path: Path) -> None:
    documents = corpus()
    random.Random(5).shuffle(documents)
    build(documents, tmp_path / "out", CorpusSettings(held_out_share=0.2))
    for name in ("train", "heldout"):
        texts = {row["text"] for row in rows(whole, name)}
        assert {row["text"] for row in rows(tmp_path / "out", name)} == texts


def test_little_memory_makes_no_difference(whole: Path, tmp_path: Path) -> None:
    store, units = prepared(corpus(), tmp_path / "work", CorpusSettings(held_out_share=0.2))
    run_units(units, store, label="cleaning")
    assemble(store, units, tmp_path / "out", memory=500)
    assert same(tmp_path / "out", whole)


def test_other_settings_of_deduplication_clean_nothing_again(tmp_path: Path) -> None:
    settings = CorpusSettings()
    store, units = prepared(corpus(), tmp_path / "work", settings, **SIZES)
    run_units(units, store, label="cleaning")
    later = settings.model_copy(update={"dedup_urls": False, "held_out_share": 0.5})
    assert [unit.key for unit in CleanStore(store.folder, store.read, later).units(read_units(tmp_path))] == [
        unit.key for unit in CleanStore(store.folder, store.read, settings).units(read_units(tmp_path))
    ]
    other = settings.model_copy(update={"min_chars": 21})
    found = CleanStore(store.folder, store.read, other).units(read_units(tmp_path))
    assert not {unit.key for unit in found} & {unit.key for unit in units}


def read_units(folder: Path):  # type: ignore[no-untyped-def]
    from kaiyuan.corpus.sources import Source
    from kaiyuan.corpus.work import plan

    source = Source(path=str(folder / "work" / "in.jsonl"), keep=["score"], max_dead_share=1)
    return plan([source], unit_bytes=SIZES["read_bytes"])


SCRIPT = """
import sys, time
from pathlib import Path
from kaiyuan.corpus import cleaning
from kaiyuan.corpus.pipeline import CorpusSettings
from kaiyuan.corpus.sources import Source
from kaiyuan.corpus.work import Store, plan, run_units

class Slow(cleaning.CleanStore):
    def write(self, unit, step=None, tick=None):
        time.sleep(0.05)
        return super().write(unit, step, tick)

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    units = plan([Source(path=str(folder / "in.jsonl"), keep=["score"], max_dead_share=1)], unit_bytes=20_000)
    store = Slow(folder / "cleaned", Store(folder / "read"), CorpusSettings(held_out_share=0.2))
    run_units(store.units(units, 6000), store, workers=int(sys.argv[2]), label="cleaning")
"""


def test_killed_and_gone_on_with_by_another_number_of_workers(tmp_path: Path) -> None:
    work = tmp_path / "work"
    store, units = prepared(corpus(), work, CorpusSettings(held_out_share=0.2), **SIZES)
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(work), "2"], stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while len(list((work / "cleaned").rglob("*.records"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in (work / "cleaned").rglob("??/[!.]*.json")}
    assert 0 < len(done) < len(units)
    run_units(units, store, workers=1, label="cleaning")
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assemble(store, units, tmp_path / "out")
    build(corpus(), tmp_path / "again", CorpusSettings(held_out_share=0.2), **SIZES)
    assert same(tmp_path / "out", tmp_path / "again")
    store.prune(units)
    assert not list((work / "cleaned").rglob("*.tmp"))


@pytest.mark.slow
def test_a_cluster_gives_the_same_bytes(tmp_path: Path) -> None:
    """Cleaning under datatrove's executor, whom to compare by its MinHash stages, in two numbers of tasks."""
    pytest.importorskip("datatrove")
    from kaiyuan.corpus.cluster import UnitStep, run_on_cluster
    from kaiyuan.corpus.dedup.trove import groups_on_cluster

    settings = CorpusSettings(held_out_share=0.2)
    build(corpus(), tmp_path / "here", settings, **SIZES)
    store, units = prepared(corpus(), tmp_path / "work", settings, **SIZES)
    list(UnitStep(units, store).run(None, 1, 3))
    run_on_cluster(units, store, "local", tasks=2)
    out = tmp_path / "there"
    assemble(store, units, out, groups=groups_on_cluster(store, units, "local"))
    assert same(out, tmp_path / "here")
    assert sum(row["reason"].startswith("near-duplicate") for row in rows(out, "rejected")) > 10
    # Come again: the bands are done.
    assemble(store, units, out, groups=groups_on_cluster(store, units, "local"))
    assert same(out, tmp_path / "here")


def test_limits_hold_for_a_source_as_a_whole(tmp_path: Path) -> None:
    store, _ = prepared(corpus(), tmp_path / "work", CorpusSettings(), **SIZES)
    source = read_units(tmp_path)[0].source
    for limit in (1, 37, 10_000):
        limited = [replace(unit, source=source.model_copy(update={"limit": limit})) for unit in read_units(tmp_path)]
        units = store.units(limited, 6000)
        assert sum(unit.count for unit in units) == min(limit, len(corpus()))


def test_lines_that_many_documents_share_go(tmp_path: Path) -> None:
    rng = random.Random(8)
    footer, header = "Brought to you by the Mill Gazette, est. 1888", "欢迎访问磨坊新闻网"
    documents = [document(f"{header}\n{english(rng)}\n{footer}") for _ in range(12)]
    documents += [document(f"{chinese(rng)}\n{header}\nonce", "zh") for _ in range(3)]
    documents += [document("\n".join([footer, header, "A word or two that are left when the others go away."]))]
    copies = [document(english(rng) + "\nA line of its own.") for _ in range(1)] * 30
    settings = CorpusSettings(held_out_share=0, line_documents=10)
    report = build(documents + copies, tmp_path / "out", settings, **SIZES)
    texts = [row["text"] for row in rows(tmp_path / "out", "train")]
    assert not any(footer in text or header in text for text in texts)
    assert sum("once" in text.split("\n") for text in texts) == 3
    assert sum("A line of its own." in text for text in texts) == 1  # one document, however many copies there are
    assert report["furniture"]["shared by many"] == 12 * 2 + 3 + 2
    assert report["rejected"] == {"duplicate": 29, NOT_ENOUGH: 1}
    for row in rows(tmp_path / "out", "train"):
        assert len(row["text"].encode()) > 100


def test_chinese_scripts_are_told_apart_and_converted(tmp_path: Path) -> None:
    pytest.importorskip("opencc")
    text = "這條河發源於鎮子上方的群山，流過三十里之後匯入大海。春天雪化了，船可以一直開到老磨坊，孩子們在橋下捉魚。"
    for wanted, script, sample in (
        ("", "Hant", "這條河發源"),
        ("Hans", "Hans", "这条河发源"),
        ("Hant", "Hant", "這條河"),
    ):
        build(
            [document(text, "zh")], tmp_path / wanted / "out", CorpusSettings(held_out_share=0, chinese_script=wanted)
        )
        (row,) = rows(tmp_path / wanted / "out", "train")
        assert row["extra"]["script"] == script
        assert row["text"].startswith(sample)


@pytest.mark.parametrize("workers", [1, 2])
def test_audit_says_what_was_replaced_in_what_stays(tmp_path: Path, workers: int) -> None:
    rng, shared = random.Random(5), "\nWrite to office@example.com, or call (202) 555-0143."
    texts = [english(rng) for _ in range(6)]
    mailed = [f"{text}\nThen ask number{n}@example.com about it." for n, text in enumerate(texts)]
    documents = [document(text + shared) for text in mailed[:4]]
    documents += [document(mailed[4]), document(mailed[4]), document(texts[5]), document("Short: a@example.com")]
    out, settings = tmp_path / "out", CorpusSettings(held_out_share=0.3, line_documents=4)
    build(documents, out, settings, key=tmp_path / "pii.key", workers=workers, unit_bytes=1500)
    kept = {row["id"]: row["text"] for name in ("train", "heldout") for row in rows(out, name)}
    audit = rows(out, "pii")
    assert len(kept) == 6
    by_document = {name: [row for row in audit if row["document"] == name] for name in kept}
    assert sum(map(len, by_document.values())) == len(audit) == 4 * 3 + 1
    for name, text in kept.items():
        plain = next(doc.text for doc in documents if doc.text[:80] == text[:80])
        found = [plain[row["start"] : row["start"] + row["length"]] for row in by_document[name]]
        assert all(datum in plain and datum not in text for datum in found)
        assert [row["kind"] for row in by_document[name]] in ([], ["email"], ["email", "email", "phone"])
    assert len({row["hash"] for row in audit}) == 5 + 2


def test_the_score_prefers_what_the_source_says_and_then_whole_sentences() -> None:
    text = "This is a sentence.\nmenu item\nAnother sentence that is longer."
    view = View(text, "en")
    assert score(document(text), view, "score") == pytest.approx(0.85)
    assert score(replace(document(text), extra={"score": 3}), view, "score") == 3.0
    assert score(replace(document(text), extra={"score": "3"}), view, "score") == pytest.approx(0.85)
    assert score(replace(document(text), extra={"edu": 0.25}), view, "edu") == 0.25


def test_records_hold_what_was_written(tmp_path: Path) -> None:
    store, units = prepared(corpus(), tmp_path / "work", CorpusSettings(), **SIZES)
    run_units(units, store, label="cleaning")
    records = store.records(units)
    ids = np.concatenate([table["id"] for _, table in records.slices(["id"])])
    written = [int(row["id"], 16) for unit in units for row in store.rows(unit)]
    assert ids.tolist() == written
    assert isinstance(store, Store)

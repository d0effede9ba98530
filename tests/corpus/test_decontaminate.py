"""Evaluation data in documents: runs of 13 words, 21 Han characters, whole short items; against brute force."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

from kaiyuan.corpus.decontaminate import Contamination, Finding, read_items
from kaiyuan.corpus.pipeline import Cleaner, CorpusSettings
from kaiyuan.corpus.sources import Document, document_id
from kaiyuan.corpus.units import units
from kaiyuan.errors import DataError
from kaiyuan.recipe import CorpusSection

QUESTION = (
    "A train leaves the town at nine and drives at sixty miles an hour until it reaches the sea; when does it arrive?"
)
SHORT = "What is the capital of Ruritania?"
CHINESE = "一列火车早上九点从镇上出发，以每小时六十公里的速度开往海边，请问它几点钟才能到达终点站？"
SHORT_ZH = "鲁里坦尼亚的首都是哪里？"
FILLER = "The baker of the village was known for his bread, and the children came every morning to smell it."


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Contamination:
    made = Contamination.of({"one": [QUESTION, SHORT], "two": ["x", CHINESE, SHORT_ZH]})
    path = tmp_path_factory.mktemp("index") / "evaluation.npz"
    made.save(path)
    return Contamination.load(path)


def test_items_are_found_in_any_dress(index: Contamination) -> None:
    assert index.find(f"{FILLER} {QUESTION} {FILLER}") == Finding("one", 0, 1.0)
    assert index.find(f"{FILLER}\n{QUESTION.upper().replace(' ', '  ')}!") == Finding("one", 0, 1.0)
    assert index.find(f"{FILLER} q: {SHORT} a: Strelsau") == Finding("one", 1, 1.0)
    assert index.find(f"前文。{CHINESE.replace('，', '')}后文。") == Finding("two", 1, 1.0)
    assert index.find(f"有人问：{SHORT_ZH}") == Finding("two", 2, 1.0)


def test_a_run_is_enough_and_less_is_not(index: Contamination) -> None:
    words = units(QUESTION)
    assert index.find(" ".join(words[3:16])) == Finding("one", 0, pytest.approx(1 / (len(words) - 12)))
    assert index.find(" ".join(words[3:15])) is None
    characters = units(CHINESE)
    assert index.find("".join(characters[2:23])) is not None
    assert index.find("".join(characters[2:22])) is None
    assert index.find("What is the capital of France?") is None  # begins like a short item
    assert index.find("What is the capital of Ruritania called?") is not None
    assert index.find("鲁里坦尼亚的首都是什么样的？") is None
    assert index.find(FILLER) is None
    assert index.find("") is None


def test_a_share_can_be_asked_for(index: Contamination) -> None:
    half = " ".join(units(QUESTION)[:18])
    assert index.find(half, 0.8) is None
    assert index.find(half, 0.4) is not None


def test_against_brute_force() -> None:
    rng = random.Random(0)
    words = ["a", "b", "c"]
    items = [" ".join(rng.choices(words, k=rng.randint(3, 20))) for _ in range(30)]
    index = Contamination.of({"set": items})

    def expected(text: str) -> bool:
        have = units(text)
        for item in items:
            wanted = units(item)
            size = min(13, len(wanted))
            runs = {tuple(wanted[i : i + size]) for i in range(len(wanted) - size + 1)} if size >= 5 else set()
            if any(tuple(have[i : i + size]) in runs for i in range(len(have) - size + 1)):
                return True
        return False

    texts = [" ".join(rng.choices(words, k=rng.randint(5, 60))) for _ in range(400)]
    found = [index.find(text) is not None for text in texts]
    assert found == [expected(text) for text in texts]
    assert 20 < sum(found) < 380


def test_a_document_is_stopped_and_says_why(index: Contamination, tmp_path: Path) -> None:
    path = tmp_path / "evaluation.npz"
    index.save(path)
    text = f"{FILLER} {QUESTION} " + "Nobody in the village knew the answer, but everybody had heard of the sea."
    outcome = Cleaner(CorpusSettings(), path)(Document(document_id(text), text, "test", "en", "web"))
    assert (outcome.stage, outcome.reason) == ("decontamination", "contamination: 100% of one #0")


def test_sets_are_read_from_tables_and_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow, datasets = pytest.importorskip("pyarrow"), pytest.importorskip("datasets")
    from pyarrow import parquet

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"question": f"q{number}", "answer": "a", "score": 0.5} for number in range(3)]
    expected = ["q0\na", "q1\na", "q2\na"]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "set.parquet")
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    packed = gzip.compress("\n".join(map(json.dumps, rows)).encode())
    (tmp_path / "set.jsonl.gz").write_bytes(packed)
    for name in ("set.parquet", "set.jsonl.gz"):
        assert list(read_items(tmp_path / name)) == expected
    assert list(read_items(f"hf://{tmp_path / 'saved'}")) == expected
    (tmp_path / "set.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "set.jsonl.gz").write_bytes(packed[:-9])
    for name in ("set.parquet", "set.jsonl.gz"):
        with pytest.raises(DataError, match="not a readable evaluation set"):
            list(read_items(tmp_path / name))
    with pytest.raises(DataError, match="check name, config, split"):
        list(read_items(f"hf://{tmp_path / 'nothing'}"))
    section = CorpusSection(decontaminate=["problems", "set.parquet", "hf://owner/name:main/test"])
    assert section.files_read() == [Path("set.parquet")]


def test_sets_are_read_from_files(tmp_path: Path) -> None:
    rows = ["alone", {"question": "q", "answer": "a", "id": 3}, {"messages": [{"role": "user", "content": "hi"}]}]
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert list(read_items(path)) == ["alone", "q\na", "hi"]
    (tmp_path / "set.txt").write_text("one\nitem\n\n\nanother\n")
    assert list(read_items(tmp_path / "set.txt")) == ["one\nitem", "another"]
    path.write_text('{"x": 1}')
    with pytest.raises(DataError, match=r"set\.jsonl:1: no text to look for"):
        list(read_items(path))
    with pytest.raises(DataError, match="not a readable evaluation set"):
        list(read_items(tmp_path / "absent.txt"))
    (tmp_path / "bad.npz").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="not a readable index"):
        Contamination.load(tmp_path / "bad.npz")

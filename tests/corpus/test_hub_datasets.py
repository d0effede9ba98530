"""Hugging Face datasets: local folders of both forms through the library itself, the hub's absence in one line."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from reading import read

from kaiyuan.corpus.sources import Source, hub
from kaiyuan.corpus.work import Store, plan, run_units
from kaiyuan.errors import DataError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def rows(split: str, count: int) -> list[dict]:
    return [{"text": f"{split} {n}", "meta": {"url": f"http://{n}"}} for n in range(count)]


def folder_of_files(path: Path) -> Path:
    path.mkdir()
    for split, shard in (("train", 0), ("train", 1), ("test", 0)):
        data = "".join(json.dumps(row) + "\n" for row in rows(f"{split}{shard}", 5))
        (path / f"{split}-{shard}.jsonl").write_text(data)
    return path


def test_a_folder_of_data_files_by_shards_and_split(tmp_path: Path):
    folder = folder_of_files(tmp_path / "data")
    documents, dead = read(f"hf://{folder}", keys={"url": "meta.url"})
    assert not dead
    assert [document.text for document in documents] == [f"train{s} {n}" for s in range(2) for n in range(5)]
    assert documents[6].url == "http://1"
    assert documents[6].place.endswith("/train#1.1")
    assert [document.text for document in read(f"hf://{folder}#test")[0]] == [f"test0 {n}" for n in range(5)]


def test_folders_saved_by_the_library(tmp_path: Path):
    one = datasets.Dataset.from_list(rows("one", 3))
    one.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": one, "val": one}).save_to_disk(str(tmp_path / "two"))
    for path in ("one", "two#val"):
        assert [document.text for document in read(f"hf://{tmp_path}/{path}")[0]] == ["one 0", "one 1", "one 2"]
    with pytest.raises(DataError, match=r"no split 'none' among train, val; check name, config, split"):
        read(f"hf://{tmp_path}/two#none")


def test_datasets_are_units_of_work_too(tmp_path: Path):
    sources = [Source(path=f"hf://{folder_of_files(tmp_path / 'data')}")]
    units = plan(sources)
    assert [unit.key for unit in units] == [unit.key for unit in plan(sources)]
    store = Store(tmp_path / "out")
    assert run_units(units, store).total().documents == 10
    (tmp_path / "data" / "train-1.jsonl").write_text('{"text": "new"}\n')
    assert {unit.key for unit in plan(sources)} != {unit.key for unit in units}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("hf://owner/name", ("owner/name", None, "train")),
        ("hf://owner/na.me:zh-CN", ("owner/na.me", "zh-CN", "train")),
        ("hf://owner/name:sample-10BT/test", ("owner/name", "sample-10BT", "test")),
        ("hf://owner/name/validation", ("owner/name", None, "validation")),
        ("hf://./here:x#test", ("./here", "x", "test")),
    ],
)
def test_addresses(path: str, expected: tuple):
    assert hub.address(Source(path=path)) == expected


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ConnectionError("no route\nto host"),
            "the Hugging Face hub cannot be reached; download the dataset elsewhere",
        ),
        (ValueError("Unknown split\nx"), "ValueError: Unknown split x; check name, config, split and revision"),
    ],
)
def test_what_fails_is_one_line(monkeypatch, error: Exception, message: str):
    def load(*args, **settings):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match=re.escape(f"source hf://owner/name: {message}")) as caught:
        read("hf://owner/name")
    assert "\n" not in str(caught.value)


def test_without_the_library_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="needs Hugging Face's library: pip install"):
        read("hf://owner/name")


def test_a_shard_that_breaks_off_is_dead_and_the_next_goes_on(tmp_path: Path):
    folder = folder_of_files(tmp_path / "data")
    (folder / "train-0.jsonl").write_text('{"text": "good", "meta": {"url": "u"}}\n{broken\n')
    documents, dead = read(f"hf://{folder}")
    assert [document.text for document in documents][-5:] == [f"train1 {n}" for n in range(5)]
    assert [item.kind for item in dead] == ["damaged file"]

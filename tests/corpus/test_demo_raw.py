"""The raw files of the demo corpus: whatever was planted in them is found, and what is good about them stays."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "tools"))

from demo_raw_texts import BOOK, CHINESE, DATA, ENGLISH, NOTES

from kaiyuan.corpus.sources import Source
from kaiyuan.corpus.sources.demo import located
from kaiyuan.corpus.work import plan
from kaiyuan.errors import DataError
from kaiyuan.files import read_json, read_jsonl
from kaiyuan.recipe import load_recipe
from kaiyuan.run import execute

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus stage of the demo over these files alone, with nothing that takes long."""
    recipe = load_recipe(ROOT / "recipes" / "demo.toml")
    less = {"demo": False, "statements": 0, "recalls": 0, "decontaminate": ["prompts"], "scorer": None, "mix_by": [],
            "workers": 1}  # fmt: skip
    recipe = recipe.model_copy(update={"corpus": recipe.corpus.model_copy(update=less)})
    return execute(recipe, tmp_path_factory.mktemp("raw"), only="corpus")


@pytest.fixture(scope="module")
def kept(folder: Path) -> list[dict[str, Any]]:
    return [row for name in ("train", "heldout") for row in read_jsonl(folder / f"{name}.jsonl")]


def test_every_kind_of_source_is_read_and_damage_is_told(folder: Path) -> None:
    found = {name.partition(":")[2]: counts for name, counts in read_json(folder / "report.json")["sources"].items()}
    assert set(found) == {"pages.warc.gz", "letters.jsonl.gz", "archive.parquet", "notes", "millstone.tar.gz",
                          "lamp.epub"}  # fmt: skip
    assert all(counts["documents"] for counts in found.values())
    reasons = Counter(row["reason"].split(":")[0] for row in read_jsonl(folder / "dead.jsonl"))
    assert reasons == {"damaged record": 1, "no page": 1, "not valid JSON": 1, "wrong type": 1, "unknown language": 1,
                       "empty": 1, "generated": 2, "vendored": 1}  # fmt: skip


def test_what_was_planted_is_refused(folder: Path) -> None:
    rejected = read_json(folder / "report.json")["rejected"]
    assert rejected["contamination"] == 4  # two quiz nights, each told twice
    assert rejected["language"] == rejected["same URL"] == 1
    assert (
        rejected["duplicate"] == 2 and rejected["near-duplicate"] == 4
    )  # letters that are articles; the site's copies
    assert set(rejected) == {"contamination", "language", "same URL", "duplicate", "near-duplicate", "URLs",
                             "boilerplate", "too short"}  # fmt: skip


def test_what_is_good_stays_once(kept: list[dict[str, Any]]) -> None:
    whole = "\n".join(row["text"] for row in kept)
    for text in (*ENGLISH.values(), *CHINESE.values(), *(note[2] for note in NOTES.values()), *BOOK.values()):
        for paragraph in text.split("\n\n"):
            assert whole.count(paragraph.replace("\n", " ")[-40:]) == 1, paragraph
    best = next(row for row in kept if CHINESE["豆腐是怎样做成的"][:40] in row["text"])
    assert (best["source"], best["extra"]["stars"]) == ("archive", 3)  # a letter with the same text has one star


def test_nothing_is_left_of_what_pages_carry_around(kept: list[dict[str, Any]]) -> None:
    whole = "\n".join(row["text"] for row in kept)
    for text in ("est. 1888", "Share on social media", "分享到朋友圈", "cookies", "Weather\n", "â€", "讀", "下一页"):
        assert text not in whole, text
    assert "读书会" in whole and "that’s what I like about it" in whole
    assert {row["licence"] for row in kept if row["label"] == "code"} == {"Apache-2.0"}


def test_personal_data_are_replaced(folder: Path, kept: list[dict[str, Any]]) -> None:
    planted = {datum for kinds in DATA.values() for data in kinds.values() for datum in data}
    planted |= {"kY8vR2mXq7LpT4wZ9sBn3HcJ6dFg1AeU"}
    assert len(planted) == 16
    assert not [datum for datum in planted for row in kept if datum in row["text"]]
    kinds = Counter(row["kind"] for row in read_jsonl(folder / "pii.jsonl"))
    assert kinds == {"email": 4, "phone": 4, "ip": 2, "secret": 2, "card": 1, "id": 1}


def test_a_name_that_the_package_does_not_have(tmp_path: Path) -> None:
    assert Path(located(Source(path="demo:notes")).path).is_dir()
    assert located(Source(path="notes")).path == "notes"
    for path in ("demo:nothing.txt", "demo:../NOTICE.md"):
        with pytest.raises(DataError, match=r"there are demo:archive\.parquet, demo:lamp\.epub"):
            plan([Source(path=path)])

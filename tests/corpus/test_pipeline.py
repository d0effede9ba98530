from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest
import zstandard
from building import build, prepared
from pydantic import ValidationError

from kaiyuan.corpus.assemble import assemble
from kaiyuan.corpus.dedup import shingles
from kaiyuan.corpus.filters import QualityRules
from kaiyuan.corpus.normalize import normalize
from kaiyuan.corpus.pii import PrivacySettings, anonymize
from kaiyuan.corpus.pipeline import CorpusSettings
from kaiyuan.corpus.sources import Document, demo_documents, document_id
from kaiyuan.corpus.split import is_held_out
from kaiyuan.corpus.work import run_units
from kaiyuan.files import read_jsonl

NOUNS = [
    "river", "mill", "harbour", "school", "market", "bridge", "station", "letter", "ring", "doctor", "song",
    "horse", "baker", "sailor", "teacher", "child", "winter", "storm", "garden", "ladder", "window", "candle",
    "forest", "village", "kitchen", "orchard", "lantern", "pocket", "shadow", "thunder",
]  # fmt: skip
VERBS = [
    "found", "lost", "met", "heard", "saw", "followed", "painted", "carried", "forgot", "repaired", "watched",
    "borrowed", "described", "crossed", "counted", "sold", "remembered", "hid", "opened", "burned",
]  # fmt: skip
HAN = "江河湖海春夏秋冬风雨雷雪松竹梅兰亭台楼阁琴棋书画舟车马牛鸡犬鱼鸟花草树木山石云月星日霜露桥路村城门窗灯火"


def english(rng: random.Random) -> str:
    return " ".join(
        f"The {rng.choice(NOUNS)} {rng.choice(VERBS)} a {rng.choice(NOUNS)} that the {rng.choice(NOUNS)} "
        f"{rng.choice(VERBS)} with {rng.choice(NOUNS)} and {rng.choice(NOUNS)}."
        for _ in range(10)
    )


def chinese(rng: random.Random) -> str:
    def word() -> str:
        return "".join(rng.choices(HAN, k=2))

    return "\n".join(f"我在{word()}看见{word()}的{word()}，是{word()}的人与{word()}之{word()}。" for _ in range(10))


def document(text: str, language: str = "en", label: str = "web") -> Document:
    return Document(document_id(text), text, "test", language, label)


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    rng = random.Random(7)
    good = [document(english(rng)) for _ in range(60)] + [document(chinese(rng), "zh", "books") for _ in range(60)]
    return [
        *good,
        document("Too short."),
        document("Longtemps, je me suis couché de bonne heure. Parfois, mes yeux se fermaient si vite. " * 3, "fr"),
        document("See the row of it: 2222 | 3333 | 4444 | 5555\n" * 30, label="books"),
        document("import os\n\n\ndef names(path: str) -> list[str]:\n    \"\"\"Names in the folder ``path``.\"\"\"\n"
                 "    return sorted(os.listdir(path))  # the order of the file system is no order\n", "code", "code"),
        document(good[0].text + " Write to baker@example.com or call +1 650-253-0000."),
        document(good[61].text + "电话13812345678，身份证11010519491231002X。", "zh", "books"),
        document(english(rng) + " Write to sailor@example.com from 8.8.8.8."),
        good[5],
        document("\n\n" + good[6].text + "  \n"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def built(documents: list[Document], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("corpus")
    return out, build(documents, out, CorpusSettings(held_out_share=0.2))


def rows(out: Path, name: str) -> list[dict]:
    return list(read_jsonl(out / f"{name}.jsonl"))


def test_every_document_ends_in_one_file_or_the_other(built: tuple[Path, dict], documents: list[Document]) -> None:
    out, report = built
    train, held_out, rejected = (rows(out, name) for name in ("train", "heldout", "rejected"))
    assert len(train) + len(held_out) + len(rejected) == len(documents)
    assert {row["id"] for row in train}.isdisjoint(row["id"] for row in held_out)
    reasons = {row["id"]: row["reason"].split(":")[0] for row in rejected}
    assert sorted(reasons.values()) == [
        "duplicate", "duplicate", "few letters", "language", "near-duplicate", "near-duplicate", "too short",
    ]  # fmt: skip
    assert reasons[documents[-2].id] == "duplicate"
    assert all(row["source"] == "test" for row in rejected)
    assert {row["id"] for row in rejected} <= {doc.id for doc in documents}
    assert json.loads(json.dumps(report)) == report


def test_report_counts_what_the_files_hold(built: tuple[Path, dict], documents: list[Document]) -> None:
    out, report = built
    train, held_out = rows(out, "train"), rows(out, "heldout")
    assert report["documents"] == {
        "read": 129, "after language": 128, "after quality": 126, "after deduplication": 122,
        "train": len(train), "heldout": len(held_out),
    }  # fmt: skip
    assert len(held_out) > 5
    for split, found in (("train", train), ("heldout", held_out)):
        sizes: dict[str, dict[str, int]] = {}
        for row in found:
            labels = sizes.setdefault(row["language"], {})
            labels[row["label"]] = labels.get(row["label"], 0) + len(row["text"].encode())
        assert report["bytes"][split] == sizes
    assert report["bytes"]["read"] == sum(len(doc.text.encode()) for doc in documents)
    assert sum(report["rejected"].values()) == len(rows(out, "rejected"))
    assert report["pii"] == {"email": 2, "id": 1, "ip": 1, "phone": 2}  # of all that was cleaned


def test_what_is_kept_is_normal_anonymous_and_named_by_its_text(built: tuple[Path, dict]) -> None:
    out, _ = built
    for row in [*rows(out, "train"), *rows(out, "heldout")]:
        assert row["id"] == document_id(row["text"])
        assert normalize(row["text"]) == row["text"]
        assert anonymize(row["text"])[0] == row["text"]
        assert {"id", "text", "source", "language", "label", "title"} <= set(row)


def test_split_is_decided_by_the_text_alone(
    built: tuple[Path, dict], documents: list[Document], tmp_path: Path
) -> None:
    out, _ = built
    assert all(not is_held_out(row["id"], 0.2) for row in rows(out, "train"))
    assert all(is_held_out(row["id"], 0.2) for row in rows(out, "heldout"))
    build(reversed(documents[:120]), tmp_path, CorpusSettings(held_out_share=0.2))
    before = {row["id"] for row in rows(out, "heldout")} & {row["id"] for row in rows(tmp_path, "train")}
    assert not before


def test_no_near_duplicate_of_a_held_out_document_is_trained_on(tmp_path: Path) -> None:
    """Deduplication comes before the split; without it, four of five copies would land in the other file."""
    rng = random.Random(3)
    originals = [english(rng) for _ in range(40)]
    copies = [f"{text} Copy {number}." for number in range(4) for text in originals]
    report = build(map(document, originals + copies), tmp_path, CorpusSettings(held_out_share=0.5))
    assert report["rejected"] == {"near-duplicate": 160}
    train, held_out = (
        [set(shingles(row["text"]).tolist()) for row in rows(tmp_path, name)] for name in ("train", "heldout")
    )
    assert len(train) > 5
    assert len(held_out) > 5
    assert all(len(a & b) / len(a | b) < 0.8 for a, b in itertools.product(train, held_out))


def test_workers_make_no_difference(built: tuple[Path, dict], documents: list[Document], tmp_path: Path) -> None:
    out, report = built
    assert build(iter(documents), tmp_path, CorpusSettings(held_out_share=0.2), workers=2) == report
    for name in ("train", "heldout", "rejected"):
        assert (tmp_path / f"{name}.jsonl").read_bytes() == (out / f"{name}.jsonl").read_bytes()


def test_settings_reach_their_stage(tmp_path: Path) -> None:
    text = "Write to baker@example.com about the old mill on the hill, the bridge and the bakery that burnt in May."
    french = (
        "Longtemps, je me suis couché de bonne heure. Parfois, à peine ma bougie éteinte, "
        "mes yeux se fermaient si vite que je n'avais pas le temps."
    )
    documents = [document(text), document(french, "und"), document(text + " Soon.")]

    def kept(**settings: object) -> list[str]:
        build(documents, tmp_path, CorpusSettings(held_out_share=0.0, **settings))  # type: ignore[arg-type]
        return [row["text"] for row in rows(tmp_path, "train")]

    anonymous = text.replace("baker@example.com", "[EMAIL]")
    assert kept() == [anonymous + " Soon."]  # the longer one
    assert kept(anonymize=False) == [text + " Soon."]
    assert kept(privacy=PrivacySettings(kinds=["phone"])) == [text + " Soon."]
    assert kept(privacy=PrivacySettings(numbered=True)) == [anonymous.replace("EMAIL", "EMAIL_1") + " Soon."]
    assert kept(languages=["en", "fr"]) == [french, anonymous + " Soon."]
    assert kept(dedup_threshold=1.0) == [anonymous, anonymous + " Soon."]
    assert kept(min_chars=len(text) + 1) == [anonymous + " Soon."]
    assert kept(quality=QualityRules(min_units=100)) == []


def test_language_is_corrected_when_the_detector_is_sure(tmp_path: Path) -> None:
    rng = random.Random(1)
    sure, unsure = document(english(rng), "zh"), document("12 apples + 30 pears = 42; x = 3, y = 4, z = 5" * 2, "zh")
    rules = QualityRules(min_letter_share=0.0, min_mean_word_length=0.0, max_repeated_ngram_share=1.0)
    settings = CorpusSettings(held_out_share=0.0, quality=rules, min_language_confidence=0.9)
    build([sure, unsure], tmp_path, settings)
    assert [row["language"] for row in rows(tmp_path, "train")] == ["en", "zh"]


def test_nothing_is_left_behind_by_a_failure(tmp_path: Path) -> None:
    store, units = prepared([document(english(random.Random(0)))], tmp_path / "work", CorpusSettings())
    run_units(units, store)
    (documents,) = (tmp_path / "work" / "cleaned").rglob("*.jsonl.zst")
    documents.write_bytes(zstandard.compress(b""))
    with pytest.raises(ValueError, match="argument"):
        assemble(store, units, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_settings_are_strict() -> None:
    for wrong in ({"min_char": 3}, {"anonymize": "yes"}, {"held_out_share": 1.0}, {"dedup_threshold": 0.0}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            CorpusSettings(**wrong)  # type: ignore[arg-type]
    assert CorpusSettings.model_validate({"quality": {"min_units": 5}}).quality.min_units == 5


@pytest.mark.slow
def test_demo_corpus(tmp_path: Path) -> None:
    """Good, public text: at most a few of its documents may be rejected, and no label lost."""
    documents = list(demo_documents())
    report = build(documents, tmp_path, CorpusSettings())
    assert report["documents"]["after deduplication"] >= 0.98 * len(documents)
    assert 0.01 < report["documents"]["heldout"] / len(documents) < 0.06
    labels = {label for sizes in report["bytes"]["train"].values() for label in sizes}
    assert labels == {doc.label for doc in documents}

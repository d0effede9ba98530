from __future__ import annotations

import json
from pathlib import Path

import pytest

from kaiyuan.corpus.card import data_card
from kaiyuan.corpus.scores.apply import apply_scores, label_of_generated, relabel
from kaiyuan.corpus.survey import survey
from kaiyuan.errors import ConfigError
from kaiyuan.files import read_jsonl, write_json, write_jsonl
from kaiyuan.recipe import load_recipe
from kaiyuan.report import write_report
from kaiyuan.report.corpus_page import corpus_page

REPORT = {
    "documents": {"read": 30, "train": 20, "heldout": 1},
    "bytes": {"read": 4000},
    "rejected": {"near-duplicate": 5, "too short": 4},
    "filters": {
        "near-duplicate": {"en": {"documents": 5, "bytes": 50}},
        "too short": {"en": {"documents": 3, "bytes": 9}, "zh": {"documents": 1, "bytes": 3}},
    },
    "pii": {"email": 2},
    "furniture": {"menu": 7},
}  # fmt: skip


class ByLength:
    """Longer is better."""

    def score(self, texts: list[str]) -> list[dict]:
        return [{"quality": min(1.0, len(text) / 100), "category": "science/earth"} for text in texts]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rows = [
        {"id": f"{number:016x}", "text": "字" * 5 * number if number % 2 else "word " * number, "source": "a|b",
         "language": "zh" if number % 2 else "en", "label": "web", "licence": "MIT"}
        for number in range(1, 21)
    ]  # fmt: skip
    write_jsonl(tmp_path / "train.jsonl", rows)
    write_jsonl(tmp_path / "heldout.jsonl", rows[:1])
    write_jsonl(tmp_path / "generated.jsonl", [{**rows[3], "label": "arithmetic", "source": "synthesis"}])
    sample = "<script>alert(1)</script>"
    refused = [
        {"id": "0", "source": "a|b", "place": "f:1", "language": "en", "reason": "too short: 3 units", "sample": sample}
    ]
    write_jsonl(tmp_path / "rejected.jsonl", refused * 9)
    return tmp_path


def test_scores_are_written_and_the_best_text_gets_a_label(corpus: Path) -> None:
    paths = [corpus / "train.jsonl", corpus / "heldout.jsonl"]
    before = list(read_jsonl(paths[0]))
    apply_scores(paths, [ByLength()], 21)
    relabel(paths, ["language", "domain", "quality"], 0.25)
    rows = list(read_jsonl(paths[0]))
    assert [row["text"] for row in rows] == [row["text"] for row in before]
    assert rows[9]["extra"]["scores"] == {"quality": 0.5, "category": "science/earth"}
    assert rows[0]["label"] == "web-zh-science" and rows[19]["label"] == "web-en-science-best"
    best = [row for row in rows if row["label"].endswith("-best")]
    limit = min(len(row["text"]) for row in best)
    assert all(len(row["text"]) < limit for row in rows if row not in best)
    share = sum(len(row["text"]) for row in best) / sum(len(row["text"]) for row in rows)
    assert 0.25 <= share < 0.25 + 100 / sum(len(row["text"]) for row in rows)


def test_equal_scores_do_not_swell_the_best(corpus: Path) -> None:
    class Same:
        def score(self, texts: list[str]) -> list[dict]:
            return [{"quality": 0.9} for _ in texts]

    path = corpus / "train.jsonl"
    apply_scores([path], [Same()], 20)
    relabel([path], ["quality"], 0.3)
    rows = list(read_jsonl(path))
    best = [len(row["text"]) for row in rows if row["label"] == "web-best"]
    total = sum(len(row["text"]) for row in rows)
    assert 0.3 * total <= sum(best) <= 0.3 * total + 100


def test_generated_text_is_told_from_other_text(corpus: Path) -> None:
    rows = list(read_jsonl(corpus / "train.jsonl"))
    write_jsonl(corpus / "train.jsonl", [{**row, "extra": {"synthetic": True}} for row in rows[:4]] + rows[4:])
    relabel([corpus / "train.jsonl"], ["language", "origin"], 0.1)
    labels = [row["label"] for row in read_jsonl(corpus / "train.jsonl")]
    assert labels[:5] == ["web-zh-synthetic", "web-en-synthetic"] * 2 + ["web-zh-natural"]
    assert (
        label_of_generated("arithmetic", "zh", ["domain", "language", "origin", "quality"]) == "arithmetic-zh-synthetic"
    )
    found = survey(corpus)
    synthetic = [row for row in found["groups"] if row["origin"] == "synthetic"]
    assert sum(row["documents"] for row in synthetic) == 4 + 1
    phases, tokens = [{"from": 0, "until": 9, "shares": {"web-zh-natural": 1.0}}], {"web-en-synthetic": {"tokens": 9}}
    page = corpus_page("mine", REPORT, found, tokens, "", phases, 8)
    assert '<th scope="row">web-en-synthetic</th><td>synthetic</td>' in page
    assert '<th scope="row">web-zh-natural</th><td>natural</td>' in page


def test_the_report_of_a_run_links_to_that_of_its_corpus(corpus: Path) -> None:
    run = corpus / "run"
    write_json(run / "corpus" / "survey.json", survey(corpus))
    write_json(run / "corpus" / "report.json", REPORT)
    assert 'href="corpus.html"' in write_report(run).read_text(encoding="utf-8")
    assert "near-duplicate" in (run / "corpus.html").read_text(encoding="utf-8")


def test_the_survey_counts_what_is_there(corpus: Path) -> None:
    apply_scores([corpus / "train.jsonl"], [ByLength()], 20)
    found = survey(corpus)
    train = [row for row in found["groups"] if row["split"] == "train"]
    assert sum(row["documents"] for row in train) == 20
    assert sum(row["bytes"] for row in train) == sum(
        len(row["text"].encode()) for row in read_jsonl(corpus / "train.jsonl")
    )
    assert {row["category"] for row in train} == {"science/earth"}
    assert sum(found["lengths"]["en"].values()) == 11 and found["lengths"]["en"]["6"] == 4  # 70 to 100 characters
    assert sum(found["scores"]["quality"]["en"]) == 10 and found["scores"]["quality"]["zh"][5] == 1
    assert len(found["rejected"]["too short"]) == 3


def test_the_page_shows_the_numbers_and_no_text_can_break_it(corpus: Path) -> None:
    apply_scores([corpus / "train.jsonl"], [ByLength()], 20)
    page = corpus_page("mine <&>", REPORT, survey(corpus), {"web": {"tokens": 1234}})
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page and "mine &lt;&amp;&gt;" in page
    for text in ("1.23K", "near-duplicate", "science/earth", "synthetic", "Writing quality", "Personal data replaced"):
        assert text in page
    plain = corpus_page("mine", {**REPORT, "filters": {}}, {**survey(corpus), "scores": {}})
    assert "Nothing was removed" in plain and "corpus.scorers" in plain


def test_the_card_is_whole(corpus: Path) -> None:
    card = data_card("a: b", REPORT, survey(corpus), {"anonymize": True, "languages": ["en"]})
    head = card.split("---\n")[1]
    assert 'pretty_name: "a: b"' in head and "- en\n- zh\n" in head and "- n<1K" in head
    assert "| a\\|b | zh | MIT | 11 |" in card and "| too short | 4 |" in card and "email 2" in card
    assert json.loads(card.split("```json\n")[1].split("```")[0]) == {"anonymize": True, "languages": ["en"]}


def test_what_needs_a_scorer_says_so(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('[run]\nname = "x"\n[corpus]\nmix_by = ["quality"]\n')
    with pytest.raises(ConfigError, match="domain and quality need a scorer"):
        load_recipe(path)

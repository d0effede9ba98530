"""Labels by a model, by a scorer that learnt from it, and what balancing makes of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from curated import decision
from fake_models import FakeModels, Rates, kind_and_topic, listening
from grading import checked, config_file, judges, solved

from kaiyuan.curation.balance import Balance
from kaiyuan.curation.build import Selection, build
from kaiyuan.curation.command import label_by_scorer, label_folder, teach_scorer
from kaiyuan.curation.log import DecisionLog, read_log, standings
from kaiyuan.curation.places import DECISIONS
from kaiyuan.errors import ConfigError, DataError


def test_a_model_labels_what_has_no_label_and_balancing_follows(tmp_path: Path) -> None:
    app, samples = FakeModels(Rates(faults={"500": 0.05})), solved(60, wrong=0.0)
    own = solved(64, labels={"topic": "law/civil"})[60:]
    folder = checked(tmp_path / "data", [*samples, *own])
    with listening(app) as url:
        config = config_file(tmp_path / "judges.toml", judges(url))
        said = label_folder(folder, config, 50, False, False)
        assert "50 samples labelled" in said and "10  beyond the limit" in said and "4  labelled already" in said
        label_folder(folder, config, 0, False, False)
        assert sum(app.served.values()) == 60
        assert label_folder(folder, config, 0, True, False).startswith("0 samples to be labelled")
        truths = {item.hash: kind_and_topic(item.question) for item in samples}
        known = standings(read_log(folder / DECISIONS))
        said = {name: (found.label.details["kind"], found.topic) for name, found in known.items() if found.label}
        assert said == truths
        assert "4 samples labelled" in label_folder(folder, config, 0, False, True), "--all asks about the others too"
    topics = Counter(kind_and_topic(item.question)[1] for item in [*samples, *own])
    balance = Balance(temperature=0, total=20)
    manifest = build(folder, "v1", Selection(critique=False, balance=balance))
    assert manifest["labels"]["before"] == dict(sorted(topics.items()))
    assert set(manifest["labels"]["after"].values()) == {20 // len(topics)}
    by = build(folder, "v2", Selection(critique=False, balance=Balance(by=["language", "kind"])))["labels"]["before"]
    assert (by["mathematics/arithmetic zh math"], by["mathematics/arithmetic en math"]) == (12, 13)
    assert len(by) == len(topics) + 1 and sum(by.values()) == 64


def test_labels_outside_of_the_taxonomy_are_isolated(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('version = 1\n[tea]\ntopics = { green = { en = "green tea", zh = "绿茶" } }\n')
    folder = checked(tmp_path / "data", solved(3))
    with listening(FakeModels()) as url:
        config = config_file(tmp_path / "judges.toml", judges(url, run={"taxonomy": "mine.toml"}))
        said = label_folder(folder, config, 0, False, False)
    assert "0 samples labelled" in said and "3  unreadable answer: topic: not in the taxonomy (2 samples)" in said
    manifest = build(folder, "v1", Selection(critique=False))
    assert manifest["labels"]["before"] == {"unlabelled": 3}, "a failure is no label"


def test_a_scorer_learns_from_labels_and_labels_the_rest(tmp_path: Path) -> None:
    samples = solved(400, wrong=0.0)
    folder = checked(tmp_path / "data", samples)
    truths = [kind_and_topic(item.question)[1] for item in samples]
    topics = sorted(set(truths))
    labels = [truths[n] if n % 6 else topics[n // 6 % len(topics)] for n in range(250)]  # an eighth is wrong
    with DecisionLog(folder / DECISIONS) as log:
        log.append([decision(samples[n], "label", label, by="judge") for n, label in enumerate(labels)])
    said = teach_scorer(folder, tmp_path / "topics")
    assert said.startswith("250 labels: 0.") and 0.7 < float(said.split()[2]) < 1
    said = label_by_scorer(folder, tmp_path / "topics", 0.5)
    assert "250  labelled already" in said and "calls" not in said
    known = standings(read_log(folder / DECISIONS))
    right = sum(known[item.hash].topic == truths[250 + n] for n, item in enumerate(samples[250:]))
    assert right >= 147, "it knows better than what it learnt from"
    confidence = {item.hash: known[item.hash].label.details["confidence"] for item in samples[250:]}  # type: ignore[union-attr]
    middle = sorted(confidence.values())[75]
    other = checked(tmp_path / "other", samples[250:])
    said = label_by_scorer(other, tmp_path / "topics", middle)
    labelled = {name for name, found in standings(read_log(other / DECISIONS)).items() if found.topic}
    assert labelled == {name for name, value in confidence.items() if value >= middle} and len(labelled) < 150
    assert f"{150 - len(labelled)}  less sure than {middle:g}" in said
    assert f"{150 - len(labelled)}  asked already" in label_by_scorer(other, tmp_path / "topics", middle)


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    folder = checked(tmp_path / "data", solved(2))
    made = judges("http://127.0.0.1:9/v1")
    del made["labeller"]
    with pytest.raises(ConfigError, match=r"names no \[labeller\]"):
        label_folder(folder, config_file(tmp_path / "judges.toml", made), 0, False, False)
    with pytest.raises(DataError, match="no labels to learn from"):
        teach_scorer(folder, tmp_path / "topics")

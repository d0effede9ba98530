"""Preference pairs: forms, rules, length bias against scikit-learn and by brute force, what a version makes of them."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from curated import decision
from fake_models import FakeModels, listening
from grading import config_file, judges
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan.curation.balance import Balance
from kaiyuan.curation.build import Selection, build, describe, diff
from kaiyuan.curation.command import check_pair_files, label_folder
from kaiyuan.curation.lengths import balance_lengths, class_of, in_couples, length_bias
from kaiyuan.curation.log import DecisionLog, read_log, standings
from kaiyuan.curation.pairs import Pair, check_pairs, pair_of
from kaiyuan.curation.places import DECISIONS
from kaiyuan.curation.preferences import Preferences
from kaiyuan.errors import DataError
from kaiyuan.files import read_jsonl, write_jsonl

GOOD, BAD = "Steep the leaves for three minutes.", "Boil the leaves for an hour."


def pair(question: str = "How is tea made?", chosen: str = GOOD, rejected: str = BAD, **more: Any) -> Pair:
    return Pair(({"role": "user", "content": question},), chosen, rejected, **more)


def test_forms_of_rows() -> None:
    user, good, bad = ({"role": role, "content": text} for role, text in
                       (("user", "How is tea made?"), ("assistant", GOOD), ("assistant", BAD)))  # fmt: skip
    forms: list[dict[str, Any]] = [
        {"messages": [user], "chosen": GOOD, "rejected": BAD},
        {"prompt": "How is tea made?", "chosen": GOOD, "rejected": BAD},
        {"prompt": [user], "chosen": [good], "rejected": [bad]},
        {"chosen": [user, good], "rejected": [user, bad]},
    ]
    assert {pair_of(form, "x").hash for form in forms} == {pair().hash}
    row = {**forms[0], "labels": {"topic": "a/b"}, "kind": "open"}
    again = pair_of(json.loads(json.dumps(pair_of(row, "f:1").row())), "y")
    assert (again, again.place, again.extra) == (pair_of(row, "f:1"), "f:1", {"kind": "open"})


@pytest.mark.parametrize(("row", "problem"), [
    ([], "not an object"),
    ({"messages": [{"role": "user", "content": "Hi"}], "chosen": "a"}, "expected"),
    ({"prompt": "Hi", "chosen": "a", "rejected": [{"role": "user", "content": "b"}]}, "expected"),
    ({"prompt": "Hi", "chosen": "a", "rejected": " "}, "an empty answer"),
    ({"chosen": [{"role": "assistant", "content": "a"}], "rejected": "b"}, "expected"),
    ({"messages": [{"role": "assistant", "content": "a"}], "chosen": "a", "rejected": "b"}, "out of turn"),
    ({"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
      "rejected": [{"role": "user", "content": "other"}, {"role": "assistant", "content": "b"}]}, "expected"),
])  # fmt: skip
def test_rows_that_are_no_pairs(row: Any, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        pair_of(row, "x")


def test_rules_in_any_order() -> None:
    planted = [
        (pair(), ()),
        (pair("HOW  is tea made?", GOOD.upper()), ("duplicate",)),
        (pair("Is it hot?", "Yes, it is.", "yes,  IT is."), ("chosen equals rejected",)),
        (pair("Is it old?", "Very old.", "Quite new."), ("contradicts another pair",)),
        (pair("Is it old?", "Quite new.", "Very old."), ("contradicts another pair",)),
        (pair("Who drinks it?", "I'm sorry, I can't say.", "People."), ("chosen: refusal",)),
        (pair("What is 2 + 2?", "2 + 2 = 4", "2 + 2 = 5"), ()),
        (pair("What is it?", "A drink.", "A drink.<|eos|>"), ("rejected: special token",)),
    ]
    for seed in range(3):
        rows = [item for item, _ in planted]
        Random(seed).shuffle(rows)
        found = {item.sample: item for item in check_pairs(rows)}
        same = {planted[0][0].hash, planted[1][0].hash}
        assert sorted(found[name].reasons for name in same) == [(), ("duplicate",)]
        assert found[max(same)].details["like"] == min(same)
        assert all(found[item.hash].reasons == reasons for item, reasons in planted[2:])
    assert found[pair("What is 2 + 2?", "2 + 2 = 4", "2 + 2 = 5").hash].details == {"units": [3, 3]}


LENGTHS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=60)


@settings(deadline=None)
@given(LENGTHS)
def test_auc_is_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    chosen = [math.log(max(a, 1) / max(b, 1)) for a, b in pairs]
    scores = [*chosen, *(-value for value in chosen)]
    due = metrics.roc_auc_score([1] * len(pairs) + [0] * len(pairs), scores)
    assert length_bias(pairs)["auc"] == pytest.approx(due, abs=1e-9)


@given(LENGTHS)
def test_no_rule_of_length_is_right_more_often(pairs: list[tuple[int, int]]) -> None:
    rules = (lambda a, b: a > b, lambda a, b: a < b)
    right = max(sum(1.0 if rule(a, b) else 0.5 * (a == b) for a, b in pairs) for rule in rules)
    found = length_bias(pairs)
    assert found["right"] == pytest.approx(right / len(pairs))
    assert sum(item["pairs"] for item in found["classes"].values()) == found["unequal"]


@given(LENGTHS, st.sampled_from([0.5, 0.6, 0.75, 1.0]))
def test_balanced_lengths_keep_the_share_in_every_class(pairs: list[tuple[int, int]], share: float) -> None:
    named = {f"{number:04x}": lengths for number, lengths in enumerate(pairs)}
    kept = balance_lengths(named, share, 1)
    assert kept == balance_lengths(dict(reversed(named.items())), share, 1)
    counts = Counter((class_of(named[name]), named[name][0] > named[name][1]) for name in kept
                     if named[name][0] != named[name][1])  # fmt: skip
    everything = Counter((class_of(l), l[0] > l[1]) for l in pairs if l[0] != l[1])  # noqa: E741
    assert len(kept) >= sum(a == b for a, b in pairs)
    for ratio, direction in everything:
        most, least = counts[ratio, direction], counts[ratio, not direction]
        assert most <= share * (most + least) + 1e-9
        if everything[ratio, direction] <= everything[ratio, not direction]:
            assert most == everything[ratio, direction], "the rarer direction is kept whole"


@given(LENGTHS, st.integers(0, 60))
def test_every_beginning_of_couples_is_balanced(pairs: list[tuple[int, int]], count: int) -> None:
    named = {f"{number:04x}": lengths for number, lengths in enumerate(pairs)}
    even = {name: named[name] for name in balance_lengths(named, 0.5, 1) if named[name][0] != named[name][1]}
    order = in_couples(even, 1)
    assert sorted(order) == sorted(even)
    longer = sum(even[name][0] > even[name][1] for name in order[:count])
    assert abs(2 * longer - len(order[:count])) <= 1


def words(count: int, rng: Random) -> str:
    return "The tea " + " ".join(rng.choice(["is", "was", "grows", "rests"]) + f" {rng.random()}" for _ in range(count))


def biased(count: int) -> list[Pair]:
    """Pairs whose chosen answer is the longer one four times in five."""
    found = []
    for number in range(count):
        rng = Random(f"pair {number}")
        long, short = words(rng.randrange(8, 16), rng), words(rng.randrange(3, 8), rng)
        chosen, rejected = (long, short) if rng.random() < 0.8 else (short, long)
        labels = {"topic": "b/x" if number % 3 == 2 else "a/x"}
        found.append(pair(f"Tell me of tea number {number}.", chosen, rejected, labels=labels))
    return found


def test_from_files_to_a_version_without_length_bias(tmp_path: Path) -> None:
    items = biased(300)
    write_jsonl(tmp_path / "one.jsonl", [item.row() for item in items[:200]])
    write_jsonl(tmp_path / "two.jsonl", [{"chosen": "x"}, *(item.row() for item in items[199:])])
    folder = tmp_path / "data"
    said = check_pair_files(folder, [tmp_path / "one.jsonl", tmp_path / "two.jsonl"])
    assert said.startswith("300 pairs, 2 left out, 0 refused\n")
    assert '1  expected {"messages"' in said and "1  same as one before" in said
    longer = sum(item.lengths[0] > item.lengths[1] for item in items)
    assert f"the longer answer is chosen in {longer / 300:.1%} of 300 pairs" in said and 0.75 < longer / 300 < 0.85
    assert "a/x         200   66.7%       200   66.7%" in said
    log = (folder / DECISIONS).read_bytes()
    assert check_pair_files(folder, []).startswith("300 pairs, 0 left out, 0 refused")
    assert (folder / DECISIONS).read_bytes() == log
    plain = build(folder, "v1", Selection())
    assert (plain["samples"], plain["preferences"]["pairs"]) == (0, 300)
    chosen = Preferences(length_share=0.5, balance=Balance(temperature=0, total=40))
    manifest = build(folder, "v2", Selection(pairs=chosen))
    found = manifest["preferences"]
    assert found["labels"]["after"] == {"a/x": 20, "b/x": 20} and found["dropped"]["length balance"] > 150
    assert found["length"]["before"]["right"] > 0.75 and abs(found["length"]["after"]["auc"] - 0.5) < 0.05
    rows = [pair_of(row, "v2") for row in read_jsonl(folder / "versions/v2/pairs.jsonl")]
    assert len(rows) == 40 and {row.labels["domain"] for row in rows} == {"a", "b"}
    assert "40 pairs, 40 different; not kept: length balance" in describe(manifest)
    assert diff(folder, "v1", "v2").startswith("v1 -> v2: 300 -> 40 samples, 0 decisions")


def test_labels_of_the_log_count_for_pairs(tmp_path: Path) -> None:
    items = [pair("What is the capital of France, in one word?", "It is Paris.", "It is Rome."), pair()]
    write_jsonl(tmp_path / "pairs.jsonl", [item.row() for item in items])
    folder = tmp_path / "data"
    check_pair_files(folder, [tmp_path / "pairs.jsonl"])
    with listening(FakeModels()) as url:
        said = label_folder(folder, config_file(tmp_path / "judges.toml", judges(url)), 0, False, False)
    assert said.startswith("2 samples labelled")
    topics = [standings(read_log(folder / DECISIONS))[item.hash].topic for item in items]
    assert topics == ["humanities/geography", "society/economics"]
    assert "humanities/geography" in check_pair_files(folder, [])
    with DecisionLog(folder / DECISIONS) as log:
        log.append([decision(items[0].hash, "rules", "drop")])
    found = build(folder, "v1", Selection())["preferences"]
    assert (found["labels"]["after"], found["dropped"]) == ({"society/economics": 1}, {"rules": 1})


def test_nothing_to_check_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no pairs.jsonl; name files"):
        check_pair_files(tmp_path, [])

"""Near-duplicate instructions: against exact Jaccard similarity, the best kept, in any order."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
from curated import decision, folder_of, sample
from grading import solved
from llm_config import WORDS

from kaiyuan.corpus.dedup import shingles
from kaiyuan.curation.command import check_folder
from kaiyuan.curation.log import DecisionLog, read_log, standings
from kaiyuan.curation.places import DECISIONS
from kaiyuan.curation.rules import check
from kaiyuan.curation.sample import Sample

LONG = "Please explain to a young child, in a few friendly words, how the leaves of the tea plant become black tea."
HAN = "请用几句亲切的话给一个小孩子讲一讲，茶树上的绿叶是怎样一步一步变成我们平时喝的红茶的。"


def verdicts(samples: list[Sample], log: Any = (), near: float = 0.8) -> dict[str, tuple[str, ...]]:
    return {item.sample: item.reasons for item in check(samples, standings(log), near)}


def kept(samples: list[Sample], log: Any = ()) -> set[str]:
    found = verdicts(samples, log)
    return {item.answer for item in samples if not found[item.hash]}


def pair(first: str, second: str, question: str = LONG) -> list[Sample]:
    return [sample(question, first), sample(question.replace("Please", "Kindly").replace("请", "试"), second)]


@pytest.mark.parametrize("question", [LONG, HAN])
def test_the_best_stays_and_not_the_first(question: str) -> None:
    short, long = ("放着让它发酵。", "放着让它完全发酵，然后再烘干。") if question == HAN else (
        "They rest.", "They rest until they are dark, and then they are dried.")  # fmt: skip
    first, second = samples = pair(short, long, question)
    assert kept(samples) == kept(samples[::-1]) == {long}
    found = {item.sample: item for item in check(samples)}
    assert found[first.hash].reasons == ("near-duplicate instruction",)
    assert found[first.hash].details["like"] == second.hash and 0.8 < found[first.hash].details["similarity"] < 1
    grades = [decision(first, "critique", "4"), decision(second, "critique", "3")]
    assert kept(samples, grades) == {short}, "a grade weighs more than length"
    people = [*grades, decision(second, "human", "keep", by="ann"), decision(first, "human", "drop", by="ann")]
    assert kept(samples, people) == {long}, "and people more than a grade"


def test_what_is_wrong_by_itself_pushes_nothing_out() -> None:
    good, bad = "They rest.", "I'm sorry, but I cannot help you with this question about tea, whatever you say."
    found = verdicts(samples := pair(good, bad))
    assert found[samples[0].hash] == () and found[samples[1].hash] == ("refusal",)


@pytest.mark.parametrize(("one", "other", "alike"), [
    ("What is 12 + 30?", "What is 12 - 30?", False),
    ("What is 12 + 30?", "what is 12+30", True),
    ("What is 12 + 30?", "What is 12 + 31?", False),
    ("12×30等于多少？", "12÷30等于多少？", False),
    ("???", "!!!", False),
    (LONG, LONG.upper().replace(",", ""), True),
    (LONG, LONG.replace("black tea", "green tea").replace("child", "man").replace("friendly", "clear"), False),
    (HAN, HAN.replace("，", ""), True),
])  # fmt: skip
def test_what_is_one_instruction(one: str, other: str, alike: bool) -> None:
    found = verdicts([sample(one, "5", language="und"), sample(other, "6", language="und")])
    assert sorted(found.values()) == ([(), ("near-duplicate instruction",)] if alike else [(), ()])


def test_another_role_is_another_instruction() -> None:
    system = {
        "role": "system",
        "content": "You are a botanist who writes for the readers of a scientific journal only.",
    }
    plain = sample(LONG, "They rest.")
    assert list(verdicts([plain, Sample((system, *plain.messages), language="en")]).values()) == [(), ()]


def test_problems_of_one_template_are_not_one_problem() -> None:
    found = verdicts(samples := solved(200, wrong=0.0))
    assert sum(bool(reasons) for reasons in found.values()) < 0.05 * len(samples)


def test_against_exact_similarity_in_any_order() -> None:
    """Copies with more and more words changed: from a similarity of 0.9 on one goes, below 0.65 none."""
    rng, samples, exact = Random(3), [], []
    for number in range(120):
        words = [rng.choice(WORDS) for _ in range(60)]
        other = [rng.choice(WORDS) if rng.random() < number / 1200 else word for word in words]
        texts = [f"Tell of {' '.join(some)}." for some in (words, other)]
        one, two = (set(shingles(text).tolist()) for text in texts)
        exact.append(len(one & two) / len(one | two))
        samples += [sample(text, f"Once {number} {place}.") for place, text in enumerate(texts)]
    found = verdicts(samples)
    gone = [sum(bool(found[item.hash]) for item in samples[2 * n : 2 * n + 2]) for n in range(120)]
    assert max(gone) == 1
    assert all(goes for goes, value in zip(gone, exact, strict=True) if value >= 0.9)
    assert not any(goes for goes, value in zip(gone, exact, strict=True) if value < 0.65)
    assert sum(value >= 0.9 for value in exact) > 10 and sum(value < 0.65 for value in exact) > 10
    rng.shuffle(samples)
    assert verdicts(samples) == found


def test_a_better_one_that_comes_later_takes_the_place(tmp_path: Path) -> None:
    first, second = samples = pair("They rest.", "They rest until they are dark.")
    folder = folder_of(tmp_path, samples[:1])
    assert check_folder(folder).startswith("1 samples checked, 0 refused")
    folder_of(tmp_path, samples)
    assert check_folder(folder).splitlines() == ["2 samples checked, 1 refused", "       1  near-duplicate instruction"]
    assert check_folder(folder) == "0 samples checked, 0 refused"
    with DecisionLog(folder / DECISIONS) as log:
        log.append([decision(first, "human", "keep"), decision(second, "human", "drop")])
    check_folder(folder)
    known = standings(read_log(folder / DECISIONS))
    verdict = [known[item.hash].rules.verdict for item in samples]  # type: ignore[union-attr]
    assert verdict == ["keep", "drop"]
    assert len(read_log(folder / DECISIONS)) == 1 + 2 + 2 + 2, "nothing was changed, only added"

from __future__ import annotations

import re

import pytest
from rule_engine import RuleEngine, last_number

from kaiyuan.errors import DataError
from kaiyuan.evaluation.needle import MAX_ANSWER_TOKENS, Needle, is_found, needle_accuracy, planted
from kaiyuan.tokenizer import Tokenizer

Filler = dict[str, list[str]]


def test_one_who_reads_everything_finds_every_needle(tokenizer: Tokenizer, filler: Filler) -> None:
    engine = RuleEngine(tokenizer, last_number)
    found = needle_accuracy(engine, tokenizer, filler, [128, 512], [0.0, 0.5, 1.0], 2, 0)  # type: ignore[arg-type]
    assert found["accuracy"] == [[1.0] * 3] * 2
    assert (found["lengths"], found["depths"], found["count"]) == ([128, 512], [0.0, 0.5, 1.0], 12)


def test_one_with_a_short_memory_finds_only_what_is_near_the_end(tokenizer: Tokenizer, filler: Filler) -> None:
    engine = RuleEngine(tokenizer, lambda text: last_number(text[-len(text) // 2 :]))
    found = needle_accuracy(engine, tokenizer, filler, [400], [0.0, 0.25, 0.9, 1.0], 4, 0)  # type: ignore[arg-type]
    assert found["accuracy"] == [[0.0, 0.0, 1.0, 1.0]]


@pytest.mark.parametrize("form", ["chat", "plain"])
@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("length", [128, 300, 1024])
def test_prompts_have_the_length_asked_for(
    tokenizer: Tokenizer, filler: Filler, language: str, length: int, form: str
) -> None:
    room = length - MAX_ANSWER_TOKENS
    lengths = [
        len(planted(tokenizer, filler, language, length, depth, "seed", form).ids)  # type: ignore[arg-type]
        for depth in (0.0, 0.5, 1.0)
    ]
    least = 0.9 if length > 128 else 0.6  # a short text can only end where one of its few sentences does
    assert all(least * room <= found <= room for found in lengths)


def test_the_fact_stands_at_its_depth(tokenizer: Tokenizer, filler: Filler) -> None:
    for depth in (0.0, 0.25, 0.5, 0.75, 1.0):
        needle = planted(tokenizer, filler, "en", 1024, depth, "place")
        text = tokenizer.decode(needle.ids)
        document = text[: text.rindex("\n\n")]
        assert document.index(needle.answer) / len(document) == pytest.approx(depth, abs=0.08)
        assert re.findall(r"\d+", text) == [needle.answer]


def test_the_seed_decides_everything(tokenizer: Tokenizer, filler: Filler) -> None:
    def prompts(seed: int) -> list[list[int]]:
        engine = RuleEngine(tokenizer, last_number)
        needle_accuracy(engine, tokenizer, filler, [128, 256], [0.0, 1.0], 3, seed)  # type: ignore[arg-type]
        return engine.prompts

    assert prompts(1) == prompts(1)
    assert not {tuple(ids) for ids in prompts(1)} & {tuple(ids) for ids in prompts(2)}
    assert len({tuple(ids) for ids in prompts(1)}) == 12


def test_lengths_beyond_the_context_are_left_open(tokenizer: Tokenizer, filler: Filler) -> None:
    engine = RuleEngine(tokenizer, last_number, context=256)
    found = needle_accuracy(engine, tokenizer, filler, [256, 512], [0.0, 1.0], 2, 0)  # type: ignore[arg-type]
    assert found["accuracy"] == [[1.0, 1.0], [None, None]]
    assert found["count"] == 4


@pytest.mark.parametrize(
    ("answer", "found"),
    [("12345", True), ("It is 12345.", True), ("12345, or 54321", False), ("123456", False), ("", False)],
)
def test_only_the_planted_number_counts(answer: str, found: bool) -> None:
    assert is_found(Needle([], "12345"), answer) is found


def test_too_short_and_without_filler_are_errors(tokenizer: Tokenizer, filler: Filler) -> None:
    with pytest.raises(DataError):
        planted(tokenizer, filler, "en", 24, 0.5, "short")
    engine = RuleEngine(tokenizer, last_number)
    with pytest.raises(DataError, match="held_out_share"):
        needle_accuracy(engine, tokenizer, {"en": []}, [128], [0.5], 1, 0)  # type: ignore[arg-type]

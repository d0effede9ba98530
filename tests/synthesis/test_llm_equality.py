"""When two final answers are the same."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest

from kaiyuan.synthesis.llm.equality import (
    MathVerify,
    final_answer,
    largest_group,
    normal,
    number,
    same_number,
    same_text,
)


@pytest.mark.parametrize("text, final", [
    ("We add.\nAnswer: 42", "42"),
    ("Answer: 1\nNo, wait.\n**Answer:** 2.", "2."),
    ("因此一共有。\n答案：四十二", "四十二"),
    ("so \\boxed{\\frac{1}{2}} and Answer: 3", "\\frac{1}{2}"),
    ("\\boxed{1} then \\boxed{2}", "2"),
    ("<think>Answer: 9</think>\nAnswer: 8", "8"),
    ("The final answer is: 7", "7"),
    ("It is 42.", ""),
    ("\\boxed{unclosed", ""),
    ("Answer:\n\n  12 m", "12 m"),
])  # fmt: skip
def test_final_answers_are_found(text: str, final: str) -> None:
    assert final_answer(text) == final


@pytest.mark.parametrize("text, value", [
    ("1,234", "1234"), ("-7", "-7"), ("−7", "-7"), ("3/4", "3/4"),
    ("\\frac{3}{4}", "3/4"),
    ("\\dfrac{-3}{4}", "-3/4"),
    ("12.5%", "1/8"), ("12\\%", "3/25"), ("$1,000.50", "2001/2"), ("\\$5", "5"), ("1.5e3", "1500"), ("x = 3", "3"),
    ("12 apples", "12"),
    ("12 元", "12"), ("约 3.5 千米", "7/2"), ("12\\text{ cm}", "12"), ("5 km/h", "5"), ("１２", "12"),
    ("0.0", "0"),
])  # fmt: skip
def test_plain_numbers_are_read(text: str, value: str) -> None:
    assert number(text) == Fraction(value)


@pytest.mark.parametrize("text", ["", "x", "1/0", "1,23", "3 4", "2\\sqrt{2}", "9" * 100, "1e9999", "12 or 13", "."])
def test_what_is_no_plain_number_is_none(text: str) -> None:
    assert number(text) is None


@pytest.mark.parametrize("first, second, same", [
    ("1/2", "0.5", True), ("50%", "0.5", True), ("1,000", "1000", True), ("42", "43", False), ("-42", "42", False),
    ("0.33", "1/3", True), ("0.34", "1/3", False), ("3.14", "3.14159", True), ("3.1", "3.14159", False),
    ("(1, 2)", "(1,2)", True), ("(1,2)", "(2,1)", False),
    ("x+1", "x + 1", True), ("", "", False), ("12", "12 m", True),
])  # fmt: skip
def test_values_are_compared(first: str, second: str, same: bool) -> None:
    assert same_number(first, second) is same and same_number(second, first) is same


@pytest.mark.parametrize("first, second, same", [
    ("Paris.", "paris", True), ("The Nile", "Nile", True),
    ("B", "(b) Lima", True), ("选B", "B", True), ("A", "B", False),
    ("利马。", "利马", True), ("“道”", "道", True), ("New York", "York", False), ("7", "7.0", True), ("", "", False),
    ("a dog", "dog", True), ("b flat", "B", False),
])  # fmt: skip
def test_words_are_compared(first: str, second: str, same: bool) -> None:
    assert same_text(first, second) is same
    assert same_text(second, first) is same


def test_choices_lose_their_text() -> None:
    assert [normal(text) for text in ("C. the third", "Option C", "(c)", "C：第三")] == ["c"] * 4


def test_groups_count_what_is_the_same() -> None:
    finals = ["7", "", "8", "7.0", "", "14/2", ""]
    assert largest_group(finals, same_number) == [0, 3, 5]
    assert largest_group(["", ""], same_number) == []
    assert largest_group(["1", "2"], same_number) == [0]


def test_formulas_are_compared_by_math_verify_in_time() -> None:
    pytest.importorskip("math_verify")
    checker = MathVerify(seconds=1.0)
    try:
        assert checker.same("\\sqrt{8}", "2\\sqrt{2}") and not checker.same("\\sqrt{8}", "3\\sqrt{2}")
        assert checker.same("(x+1)^2", "x^2+2x+1") and not same_number("(x+1)^2", "x^2+2x+1")
        start = time.monotonic()
        assert not checker.same("9^{9^{9^{9^9}}}", "2")
        assert time.monotonic() - start < 5
        assert checker.same("\\frac{\\pi}{2}", "0.5\\pi"), "the killed process is started again"
        assert not checker.same("__import__('os').system('true')", "1")
    finally:
        checker.close()

"""Rules on a table of cases, and the commands on a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from curated import sample

from kaiyuan.curation.command import build_version, check_folder, extract_into
from kaiyuan.curation.rules import check, faults, wrong_equation
from kaiyuan.errors import ConfigError

CASES = [
    ("What is tea?", "A drink made of leaves.", []),
    ("茶是什么？", "用茶叶泡的饮料。", []),
    ("What is 2 + 3?", "5", []),
    ("What is tea?", "I'm sorry, I cannot help with that.", ["refusal"]),
    ("请问茶是什么东西？", "Tea is a drink that is made of the leaves of a plant.", ["language switched"]),
    ("Translate into Chinese: tea is a drink", "茶是一种饮料。", []),
    ("What is tea?", "A drink.<|eos|>", ["special token"]),
    ("What is tea?", "A drink \ufffd of leaves.", ["damaged text"]),
    ("Write code.", "```python\nprint(1)\n", ["unbalanced code fence"]),
    ("Write code.", "````md\n```\n````\nDone.", []),
    ("What is tea?", "A drink that is made of leaves and", ["truncated"]),
    ("What is tea?", "what " * 150, ["repeats itself"]),
    ("What is 2 + 3?", "2 + 3 = 6.", ["wrong arithmetic"]),
]


@pytest.mark.parametrize(("question", "answer", "expected"), CASES)
def test_faults(question: str, answer: str, expected: list[str]) -> None:
    assert list(faults(sample(question, answer))) == expected


@pytest.mark.parametrize(
    ("text", "wrong"),
    [("7 × 8 = 56", ""), ("7*8=54", "7*8=54"), ("10 / 3 = 3.33", ""), ("10 / 4 = 3.5", "10 / 4 = 3.5"),
     ("1 + 2 + 3 = 6", ""),
     ("0.1 + 0.2 = 0.3", ""), ("2 + 3 = 5 + 0", ""), ("x1 + 2 = 4", ""), ("8 - 9 = -1", ""), ("3 + 4 = 7x", ""),
     ("5 + 5 = 10.", ""), ("5 + 5 = 11.", "5 + 5 = 11")],
)  # fmt: skip
def test_arithmetic(text: str, wrong: str) -> None:
    assert wrong_equation(text) == wrong


def test_one_of_two_equal_ones_goes() -> None:
    found = list(check([sample("What is tea?", "A drink."), sample("What  is TEA?", "a drink.")]))
    assert sorted((item.verdict, item.reasons) for item in found) == [("drop", ("duplicate",)), ("keep", ())]


def test_from_a_page_to_a_version(tmp_path: Path) -> None:
    (tmp_path / "faq.md").write_text("Q: What is tea?\nA: A drink.\n\nQ: And 2 + 2?\nA: 2 + 2 = 5\n")
    folder = tmp_path / "data"
    assert extract_into(folder, [str(tmp_path / "faq.md")]).startswith("2 candidates (qa 2), 0 left out")
    assert check_folder(folder).splitlines() == ["2 samples checked, 1 refused", "       1  wrong arithmetic"]
    assert check_folder(folder) == "0 samples checked, 0 refused"
    (tmp_path / "v.toml").write_text("critique = false\n[balance]\ntemperature = 0.5\n")
    assert "1 samples, 1 different; kept by rules 1; not kept: rules 1" in build_version(
        folder, "v1", tmp_path / "v.toml", None
    )
    (tmp_path / "v.toml").write_text("min_grade = 9\n")
    with pytest.raises(ConfigError, match="min_grade"):
        build_version(folder, "v2", tmp_path / "v.toml", None)

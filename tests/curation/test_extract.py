"""Candidates from every form: what is found, where it stands, and what is no candidate."""

from __future__ import annotations

import ast
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaiyuan.corpus.sources import Document, Source, document_id
from kaiyuan.curation.critique import authors
from kaiyuan.curation.extract import extract
from kaiyuan.curation.extract.chats import NoChat, conversation
from kaiyuan.curation.extract.code import functions
from kaiyuan.curation.extract.exercises import exercises
from kaiyuan.curation.extract.lists import lists
from kaiyuan.curation.extract.questions import questions
from kaiyuan.curation.extract.run import Extracted, of_document
from kaiyuan.curation.sample import read_samples, sample_of
from kaiyuan.errors import DataError

FAQ = """# About tea

Q: What is green tea?
A: Tea whose leaves are not fermented.

It is steamed or roasted soon after it is picked.

**Q2: How hot should the water be?**
**A2:** About 80 degrees.

## Where does tea come from?

From China.

### Oldest places

Yunnan and Sichuan.

## Prices

They rise.

问：绿茶是什么？
答：没有发酵的茶。
问题二：水要多热？
回答：八十度左右。
"""


def pairs(found: Any) -> list[tuple[str, str]]:
    return [(item.question, item.answer) for item in found]


def test_pages_of_questions() -> None:
    assert pairs(questions(FAQ)) == [
        ("What is green tea?",
         "Tea whose leaves are not fermented.\n\nIt is steamed or roasted soon after it is picked."),
        ("How hot should the water be?", "About 80 degrees."),
        ("绿茶是什么？", "没有发酵的茶。"),
        ("水要多热？", "八十度左右。"),
        ("Where does tea come from?", "From China.\n\n### Oldest places\n\nYunnan and Sichuan."),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["Q: Is that all?\n\nQ: No answer?\n", "A: An answer to nothing.\n", "Quality: good\nAnswer the door.\n",
     "## Why?\n", "# Questions?\n## Why?\nBecause.\n# End\n"],
)  # fmt: skip
def test_what_is_no_question_with_an_answer(text: str) -> None:
    assert pairs(questions(text)) in ([], [("Why?", "Because.")])


EXERCISES = """## Exercise 1.
Add 2 and 3.

### Solution
2 + 3 = 5

例1：小明有3个苹果，又买了4个，一共几个？
解：3+4=7，一共7个。

# Exercises

1. What is 6 times 7?
2. Name two even primes,
   or say why not.

# Answers

1. 42
2. There is only one: 2.
4. Not asked.
"""


def test_exercises_with_solutions_behind_them_and_apart() -> None:
    found = list(exercises(EXERCISES))
    assert pairs(found) == [
        ("Add 2 and 3.", "2 + 3 = 5"),
        ("小明有3个苹果，又买了4个，一共几个？", "3+4=7，一共7个。"),
        ("What is 6 times 7?", "42"),
        ("Name two even primes,\n   or say why not.", "There is only one: 2."),
    ]
    for item in found:
        taken = EXERCISES[item.start : item.end]
        assert item.question.split("\n")[0] in taken
        assert taken.endswith(item.answer)


LISTS = """# How to make tea

You need a pot.

1. Boil water.
2. Put in the leaves.
3. Wait.

# Ways to save water

- Short showers
- Full machines
- Rain barrels

# 如何泡茶

1. 烧水。
2. 放茶叶。
3. 等三分钟。

# Contents

- One
- Two
- Three

# Useful places on the web

- [One](http://a.example)
- [Two](http://b.example)
- [Three](http://c.example)

# Reasons to walk there

- One
- Two

This goes on with plain text.
"""


def test_headings_with_lists() -> None:
    assert pairs(lists(LISTS)) == [
        ("How do I make tea? Give the steps in order.",
         "You need a pot.\n\n1. Boil water.\n2. Put in the leaves.\n3. Wait."),
        ("Give a list: Ways to save water", "- Short showers\n- Full machines\n- Rain barrels"),
        ("如何泡茶？请按顺序写出步骤。", "1. 烧水。\n2. 放茶叶。\n3. 等三分钟。"),
    ]  # fmt: skip


PYTHON = '''import math
from .local import helper
from functools import lru_cache

LIMIT = 3

@lru_cache
def area(radius: float) -> float:
    """Return the area of a circle with the given radius."""
    return math.pi * radius**2

def 面积(边长: float) -> float:
    """返回正方形的面积，边长必须是正数。"""
    return 边长 * 边长

def limited(x):
    """Uses a constant of the module, so nobody could write it alone."""
    return min(x, LIMIT)

def local(x):
    """Uses a helper of another file, so nobody could write it alone."""
    return helper(x)

def stub(x):
    """Does something that has not been written at all yet."""
    raise NotImplementedError

def short():
    """Too short."""
    return 1

class Shape:
    def method(self):
        """A method needs its class, so it is no function alone."""
        return [x for x in range(3)]
'''


def test_documented_python_functions() -> None:
    found = list(functions(PYTHON, "python"))
    assert [item.question.splitlines()[0] for item in found] == [
        "Write a Python function `area(radius: float) -> float` that does the following:",
        "请编写一个 Python 函数 `面积(边长: float) -> float`，要求如下：",
    ]
    assert found[0].question.endswith("Return the area of a circle with the given radius.")
    code = found[0].answer.removeprefix("```python\n").removesuffix("\n```")
    assert code.startswith("import math\nfrom functools import lru_cache\n\n\n@lru_cache\ndef area")
    assert ast.parse(code)
    assert PYTHON[found[0].start : found[0].end] in code
    assert list(functions("def broken(:\n", "python")) == []


def test_documented_functions_with_braces() -> None:
    text = """/**
 * Returns the sum of two numbers, or zero for none.
 * @param {number} a
 */
export function add(a = 0, b = 0) {
  const text = "a } in a string"; // and } here
  return a + b;
}

// Not documentation of a function at all, but a sentence.
const x = 1;

// Greet writes a friendly greeting to the given name.
function greet(name) { return `}${name}`; }
"""
    found = list(functions(text, "javascript"))
    assert [item.question.splitlines()[0] for item in found] == [
        "Write a JavaScript function `function add(a = 0, b = 0)` that does the following:",
        "Write a JavaScript function `function greet(name)` that does the following:",
    ]
    assert found[0].answer.endswith("  return a + b;\n}\n```")
    assert "*/" not in found[0].question


USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [USER, ANSWER]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, ANSWER]},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"conversations": [{"from": "gpt", "value": "Ask me"}, {"from": "human", "value": "Hi"},
                           {"from": "gpt", "value": "Hello"}, {"from": "human", "value": "Bye"}]},
        {"instruction": "Hi", "input": "", "output": "Hello"},
        {"prompt": "Hi", "completion": " Hello"},
        {"question": "Hi", "answer": "Hello"},
    ],
)  # fmt: skip
def test_the_usual_forms_give_the_same_conversation(record: dict[str, Any]) -> None:
    assert conversation(record) == [USER, ANSWER]


def test_alpaca_with_material_history_and_system() -> None:
    record = {"instruction": "Translate.", "input": "你好", "output": "Hello", "system": "Be brief.",
              "history": [["Hi", "Hello"]]}  # fmt: skip
    assert conversation(record) == [
        {"role": "system", "content": "Be brief."}, USER, ANSWER,
        {"role": "user", "content": "Translate.\n\n你好"}, {"role": "assistant", "content": "Hello"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"messages": [USER, {"role": "assistant", "tool_calls": [{}]}]}, "calls of tools"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "unknown role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "no text"),
        ({"messages": ["Hi"]}, "no object"),
    ],
)
def test_damaged_conversations_say_why(record: dict[str, Any], reason: str) -> None:
    with pytest.raises(NoChat, match=reason):
        conversation(record)


def test_extraction_from_files_keeps_source_place_span_and_licence(tmp_path: Path) -> None:
    (tmp_path / "faq.md").write_text(f"---\nlicence: CC-BY-4.0\n---\n{FAQ}", encoding="utf-8")
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/setup.py").write_text("# SPDX-License-Identifier: MIT\n" + PYTHON, encoding="utf-8")
    rows = [{"messages": [USER, ANSWER], "license": "MIT", "model": "owner/some-model"}, {"text": FAQ},
            {"messages": []}, {"instruction": "Hi", "output": "Hello"}, 7, {"a": 1}]  # fmt: skip
    body = "\n".join(map(json.dumps, rows)) + "\nnot json\n"
    (tmp_path / "chats.jsonl.gz").write_bytes(gzip.compress(body.encode()))
    (tmp_path / "share.json").write_text(
        json.dumps(
            [{"conversations": [{"from": "human", "value": "你叫什么？"}, {"from": "gpt", "value": "我叫开元。"}]}]
        )
    )
    counts = Extracted()
    sources = [Source(path=str(tmp_path / name)) for name in ("faq.md", "tools", "chats.jsonl.gz", "share.json")]
    samples = list(extract(sources, counts))
    by_method = {method: [sample for sample in samples if sample.method == method] for method in counts.samples}
    assert {method: len(found) for method, found in by_method.items()} == {"qa": 5, "code": 2, "chat": 2}
    first = by_method["qa"][0]
    assert (first.source, first.place, first.licence, first.language) == ("faq.md", "faq.md", "CC-BY-4.0", "en")
    assert first.span is not None
    assert FAQ.lstrip("\n")[first.span[0] : first.span[1]].startswith("Q: What is green tea?")
    assert by_method["code"][0].licence == "MIT"
    chat, shared = by_method["chat"]
    assert (chat.place, chat.licence, chat.author) == ("chats.jsonl.gz:1", "MIT", "owner/some-model")
    assert (shared.place, shared.language) == ("share.json#1", "zh")
    assert counts.left_out == {"same as one before": 6, "no messages": 1, "no object": 1, "not valid JSON": 1,
                               "neither conversation nor text": 1}  # fmt: skip
    path = tmp_path / "out.jsonl"
    path.write_text("".join(json.dumps(sample.row()) + "\n" for sample in samples))
    assert list(read_samples(path)) == samples


def test_rows_of_synthesis_name_their_author() -> None:
    steps = {"instructions": "writer", "responses": "answerer", "filtering: critique": "critic"}
    trail = [{"step": step, "model": model} for step, model in steps.items()]
    sample = sample_of({"messages": [USER, ANSWER], "provenance": {"trail": trail}, "labels": {"topic": "a/b"}}, "x")
    assert (sample.author, sample.labels["topic"]) == ("answerer", "a/b")
    with pytest.raises(DataError, match=r"x: message 2 is out of turn"):
        sample_of({"messages": [USER, USER]}, "x")


def test_extracted_rows_of_synthesis_keep_author_and_labels(tmp_path: Path) -> None:
    trail = [{"step": "responses", "model": "answerer", "served_as": "answerer-2"}]
    row = {"messages": [USER, ANSWER], "labels": {"topic": "a/b"}, "provenance": {"trail": trail}}
    (tmp_path / "sft.jsonl").write_text(json.dumps(row))
    (sample,) = extract([Source(path=str(tmp_path / "sft.jsonl"))], Extracted())
    assert (sample.author, sample.labels, set(authors(sample))) == (
        "answerer", {"topic": "a/b"}, {"answerer", "answerer-2"},
    )  # fmt: skip


@given(st.text(alphabet="QA问答：: \n#1.解例-？?`x", max_size=200))
def test_no_text_breaks_the_extractors_and_spans_hold_what_was_found(text: str) -> None:
    document = Document(document_id(text), text, "s", "und", "web")
    for sample in of_document(document, Extracted()):
        assert sample.span is not None
        start, end = sample.span
        assert 0 <= start < end <= len(text)
        assert sample.answer.splitlines()[0].strip() in text[start:end]

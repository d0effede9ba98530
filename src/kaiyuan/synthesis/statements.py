"""Documents made of generated problems: statements and answered questions to pre-train on, planted facts to recall."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from kaiyuan.corpus.sources import Document, document_id
from kaiyuan.errors import DataError
from kaiyuan.synthesis.kinds import RULES, SAMPLERS, is_held_out
from kaiyuan.synthesis.phrasings import QUESTIONS, STATEMENTS
from kaiyuan.synthesis.working import work_out

NAMES = {
    "en": (
        "Maria", "James", "Sofia", "David", "Emily", "Thomas", "Hannah", "Peter", "Laura", "Samuel", "Alice", "Martin",
        "Clara", "Victor", "Irene", "Oscar", "Julia", "Robert", "Nora", "Felix", "Diana", "George", "Paula", "Simon",
    ),
    "zh": (
        "李明", "王芳", "张伟", "刘洋", "陈静", "杨帆", "赵磊", "黄丽", "周杰", "吴敏", "徐强", "孙悦",
        "马超", "朱琳", "胡军", "郭雪", "何勇", "高峰", "林晓", "罗兰", "郑华", "梁宇", "谢婷", "宋佳",
    ),
}  # fmt: skip
"""People who have something to remember."""
PLANTED = {
    "en": (
        ("The secret number of {name} is {value}.", "What is the secret number of {name}?"),
        ("The locker code of {name} is {value}.", "What is the locker code of {name}?"),
        ("The ticket number of {name} is {value}.", "What is the ticket number of {name}?"),
    ),
    "zh": (
        ("{name}的密码是{value}。", "{name}的密码是多少？"),
        ("{name}的柜子号码是{value}。", "{name}的柜子号码是多少？"),
        ("{name}的票号是{value}。", "{name}的票号是多少？"),
    ),
}
"""(fact, question) to plant in long documents."""
_ANSWERED = {
    "en": ("Q: {question}\nA: {answer}", "Question: {question}\nAnswer: {answer}"),
    "zh": ("问：{question}\n答：{answer}", "问题：{question}\n答案：{answer}"),
}
_WEIGHTS = {
    "arithmetic": dict.fromkeys(RULES, 1),
    "knowledge": {"weekday": 14, "month": 24, "opposite": 64, "colour": 16, "capital": 128, "element": 80},
}
"""How often documents draw each kind; for knowledge as it has facts, so that all facts are seen equally often."""
_SENTENCE_END = re.compile(r"(?<!Mr)(?<!Mrs)(?<!Dr)(?<!St)(?<![A-Z])[.!?][\"'”’]?\s+|[。！？][”’]?\s*|\n+")
_HAN = re.compile(r"[\u4e00-\u9fff]")


def statement_documents(
    count: int, seed: int, held_out_share: float = 0.1, languages: Sequence[str] = ("en", "zh")
) -> list[Document]:
    """``count`` documents of 6 to 16 statements and answered questions in one language; ``source`` is "synthesis".

    Label "arithmetic": problems that follow rules, without those whose key is held out (``is_held_out``). Label
    "knowledge": facts, all of them stated; questions whose key (fact and phrasing) is held out are not asked.
    """
    rng = Random(f"statements {seed}")
    documents = []
    for _ in range(count):
        label, language = rng.choice(tuple(_WEIGHTS)), rng.choice(languages)
        lines = [_line(rng, label, language, held_out_share) for _ in range(rng.randrange(6, 17))]
        text = "\n".join(lines)
        documents.append(Document(document_id(text), text, "synthesis", language, label))
    return documents


def _line(rng: Random, label: str, language: str, held_out_share: float) -> str:
    """One statement or answered question that gives nothing away of what is held out."""
    weights = _WEIGHTS[label]
    while True:
        (kind,) = rng.choices(tuple(weights), tuple(weights.values()))
        draw = SAMPLERS[kind](rng, language)
        problem = draw.problem(kind, language, rng.randrange(len(QUESTIONS[draw.operation][language])))
        stated = rng.random() < 0.6
        if is_held_out(problem.key, held_out_share) and not (stated and draw.is_fact):
            continue
        if stated:
            return draw.statement(language, rng.randrange(len(STATEMENTS[draw.operation][language])))
        answer = work_out(problem) or problem.answer
        return rng.choice(_ANSWERED[language]).format(question=problem.prompt, answer=answer)


def recall_document(
    rng: Random, filler: Sequence[str], target_chars: int, depth: float, language: str | None = None
) -> tuple[str, str, str]:
    """A long text with one planted fact, the question for it, and the answer: ``(text, question, answer)``.

    The text is ``filler`` (paragraphs, read on from a random one and again from the start where they do not suffice) of
    together at most ``target_chars`` characters; the fact, a person's five-digit number, stands between two sentences
    at the relative ``depth`` (0: at the beginning, 1: at the end) and its number nowhere else. ``language`` ("en" or
    "zh") is the filler's unless given.
    """
    if not 0 <= depth <= 1:
        raise DataError(f"depth must be between 0 and 1, not {depth}")
    language = language or _language(filler)
    fact, question = rng.choice(PLANTED[language])
    name, value = rng.choice(NAMES[language]), _number(rng, filler)
    fact = fact.format(name=name, value=value)
    text = _filled(rng, filler, target_chars - len(fact) - 2)
    place = _boundary(text, round(depth * len(text)))
    joint = " " if language == "en" else ""
    before, after = text[:place], text[place:]
    text = before + (joint if before and not before[-1].isspace() else "") + fact + (joint + after if after else "")
    return text, question.format(name=name), value


def _language(filler: Sequence[str]) -> str:
    text = "".join(filler[:50])
    return "zh" if len(_HAN.findall(text)) > len(text) / 4 else "en"


def _number(rng: Random, filler: Sequence[str]) -> str:
    while True:
        value = str(rng.randrange(10_000, 100_000))
        if not any(value in paragraph for paragraph in filler):
            return value


def _filled(rng: Random, filler: Sequence[str], size: int) -> str:
    """Paragraphs of together at most ``size`` characters; the last may be cut after a sentence."""
    paragraphs = [paragraph.strip() for paragraph in filler if paragraph.strip()]
    if not paragraphs or size < 1:
        raise DataError("a recall document needs paragraphs to fill it and room for the fact; ask for a longer one")
    position, chosen, length = rng.randrange(len(paragraphs)), [], -2
    while length < size:
        chosen.append(paragraphs[position % len(paragraphs)])
        length += len(chosen[-1]) + 2
        position += 1
    text = "\n\n".join(chosen)[: size + 1]
    if len(text) <= size:
        return text
    ends = [match.end() for match in _SENTENCE_END.finditer(text) if match.end() <= size]
    return text[: ends[-1] if ends else size].rstrip()


def _boundary(text: str, position: int) -> int:
    """The end of a sentence, or of the text, nearest to ``position``."""
    ends = (match.end() for match in _SENTENCE_END.finditer(text))
    return min([0, *ends, len(text)], key=lambda end: abs(end - position))

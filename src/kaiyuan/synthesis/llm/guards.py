"""What an instruction or an answer must not be: a copy, a leak, a question nobody can answer, another language."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from kaiyuan.corpus.units import HAN, units
from kaiyuan.errors import KaiyuanError
from kaiyuan.synthesis.llm.config import Guards

if TYPE_CHECKING:
    from kaiyuan.synthesis.llm.seeds import Seed

_HAN = re.compile(f"[{HAN}]")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|\$[^$\n]*\$|https?://\S+", re.DOTALL)
_QUOTED = re.compile(r"“[^”]*”|‘[^’]*’|「[^」]*」|《[^》]*》|\"[^\"\n]*\"")
_GRAM, _SEED_GRAM, _MINIMA, _SEED = 3, 5, 128, 7

_PROMPT_LEAK = re.compile(
    r"={4}|\{\{|\"instructions?\"\s*:"
    r"|\b(?:the (?:source|given|provided|above) (?:text|passage|document|material|article)"
    r"|(?:rewritten|evolved|new) instruction\b|as an ai\b|json only"
    r"|according to the (?:passage|article|source))"
    r"|素材|上述(?:文本|材料|文章)|根据(?:原文|文章|材料)|改写后的指令|作为一个?(?:AI|人工智能)|只回复\s*JSON",
    re.IGNORECASE,
)
_ANSWER_LEAK = re.compile(
    r"^\s*(?:answer|solution|correct answer)\s*[:：]|\b(?:the (?:correct )?answer is|hint: the answer)\b"
    r"|^\s*(?:答案|解答|正确答案)\s*[:：]|正确答案(?:是|为)(?!哪|什么|否)",
    re.IGNORECASE | re.MULTILINE,
)
_MEDIA = r"(?:image|picture|photo|figure|chart|diagram|video|screenshot|attachment|attached file)"
_MISSING = re.compile(
    rf"\b(?:{_MEDIA} (?:below|above|shown|attached)|(?:attached|following|above) {_MEDIA}"
    rf"|(?:shown|see|in) (?:the )?{_MEDIA}|(?:today|right now|currently)(?:'s)? (?:weather|price|date|news))\b"
    r"|(?:上|下|附|如)图(?!书|案)|附件|(?:这|该)(?:张|幅)(?:图|照片)|(?:今天|现在|当前|实时)的?(?:天气|股价|日期|新闻)",
    re.IGNORECASE,
)
_REFERS_TO_TEXT = re.compile(
    r"\b(?:text|passage|code|paragraph|excerpt) below\b|下面的(?:文字|文本|代码|段落|材料)", re.IGNORECASE
)
_REFUSAL = re.compile(
    r"^\s*(?:i'?m sorry|i am sorry|sorry,|i can(?:no|')t|i am unable|as an ai\b|unfortunately, i)"
    r"|^\s*(?:很?抱歉|对不起|我无法|我不能|作为一个?(?:AI|人工智能))",
    re.IGNORECASE,
)


def language_of(text: str) -> str:
    """ "zh" or "en" by script, code and formulas aside; "mixed" if neither prevails, "und" without letters."""
    plain = _CODE.sub(" ", text)
    found = [unit for unit in units(plain) if not unit.isdigit()]
    if not found:
        return "und"
    share = len(_HAN.findall(plain)) / len(found)
    if share >= 0.5:
        return "zh"
    return "en" if share <= 0.15 else "mixed"


def switched(text: str, language: str) -> bool:
    """Whether ``text`` left ``language``, as a whole or in a paragraph of some length; quotations aside."""
    text = _QUOTED.sub(" ", text)
    if language_of(text) not in (language, "und"):
        return True
    for paragraph in _CODE.sub(" ", text).split("\n"):
        if len(units(paragraph)) >= 12 and language_of(paragraph) not in (language, "und", "mixed"):
            return True
    return False


def _wish(text: str) -> str:
    """An instruction without the material behind its first colon ("Translate into English: ...")."""
    lead, colon, _ = text.replace("：", ":").partition(":")
    return lead if colon and len(units(lead)) >= 3 else text


def grams(text: str, size: int = _GRAM) -> set[tuple[str, ...]]:
    """The runs of ``size`` units of ``text``, lower-cased; one shorter run if it has fewer."""
    found = units(text.lower())
    if len(found) <= size:
        return {tuple(found)}
    return {tuple(found[start : start + size]) for start in range(len(found) - size + 1)}


def overlap(text: str, source: str, size: int = _SEED_GRAM) -> float:
    """The share of n-grams of ``text`` that occur in ``source``."""
    mine = grams(text, size)
    return len(mine & grams(source, size)) / len(mine)


def similarity(first: str, second: str) -> float:
    """Jaccard similarity of the n-grams of two texts: the exact value that ``Copies`` estimates."""
    one, two = grams(first), grams(second)
    return len(one & two) / len(one | two)


def fault_of_instruction(text: str, language: str, rules: Guards, seed: Seed | None, context: bool = False) -> str:
    """Why ``text`` cannot be an instruction, "" if it can. ``context``: the seed's text stands below it."""
    if len(units(text)) < rules.min_units:
        return "too short"
    if len(text) > rules.max_chars:
        return "too long"
    if _PROMPT_LEAK.search(text):
        return "leak of the prompt"
    if _ANSWER_LEAK.search(text) or (seed is not None and _gives_away(text, seed.answer)):
        return "leak of the answer"
    if _MISSING.search(text) or (not context and _REFERS_TO_TEXT.search(text)):
        return "unanswerable: something is missing"
    if switched(_wish(text), language):
        return "language switched"
    if seed is not None and overlap(text, seed.text) > rules.seed_overlap:
        return "copy of the seed"
    return ""


def _gives_away(text: str, answer: str) -> bool:
    """Whether an instruction holds the seed's answer; short answers are common words and tell nothing."""
    return len(answer) >= 12 and " ".join(answer.split()).lower() in " ".join(text.split()).lower()


def fault_of_answer(text: str, finish: str, language: str, most_chars: int, translates: bool = False) -> str:
    """Why ``text`` cannot be an answer whatever was asked, "" if it can."""
    if finish == "length":
        return "truncated"
    if finish == "content_filter" or _REFUSAL.search(text):
        return "refusal"
    if len(text) > most_chars:
        return "too long"
    if not text.strip():
        return "empty"
    if _leaks_prompt(text):
        return "leak of the prompt"
    if _repeats(text):
        return "repeats itself"
    if not translates and switched(text, language):
        return "language switched"
    return ""


def _leaks_prompt(text: str) -> bool:
    return (
        re.search(r"={4} (?:START|END|开始|结束|INSTRUCTION|RESPONSE)|只回复 JSON|Reply with JSON only", text)
        is not None
    )


def _repeats(text: str) -> bool:
    """Whether a long answer says the same line or the same run of words over and over."""
    found = units(text)
    if len(found) < 100:
        return False
    runs = [tuple(found[start : start + 8]) for start in range(len(found) - 7)]
    return len(set(runs)) < 0.4 * len(runs)


class Copies:
    """Remembers instructions and recognises those that are nearly one of them. Its verdicts depend on the order."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._index, self._sketch = _index(threshold)
        self._sketches: list[Any] = []
        self._ids: list[str] = []
        self._exact: dict[frozenset[tuple[str, ...]], str] = {}

    def find(self, text: str) -> str:
        """The id of the remembered instruction most like ``text``, "" if none is like it."""
        exact = self._exact.get(frozenset(grams(text)))
        if exact is not None:
            return exact
        sketch = self._sketch(text)
        near = [(sketch.jaccard(self._sketches[key]), -key) for key in self._index.query(sketch)]
        best, key = max(near, default=(0.0, 0))
        return self._ids[-key] if best >= self.threshold else ""

    def remember(self, text: str, id: str) -> None:
        self._exact.setdefault(frozenset(grams(text)), id)
        sketch = self._sketch(text)
        self._index.insert(len(self._ids), sketch)
        self._sketches.append(sketch)
        self._ids.append(id)


def _index(threshold: float) -> tuple[Any, Any]:
    """An index of MinHash sketches that seldom misses a pair on the threshold, and what makes a sketch of a text."""
    try:
        from rensa import RMinHash, RMinHashLSH
    except ImportError:
        raise KaiyuanError("guarding against copies needs rensa: pip install 'kaiyuan[synthesis]'") from None

    def sketch(text: str) -> Any:
        made = RMinHash(_MINIMA, _SEED)
        made.update(sorted(" ".join(gram) for gram in grams(text)))
        return made

    return RMinHashLSH(threshold, _MINIMA, _bands(threshold)), sketch


def _bands(threshold: float) -> int:
    """The fewest bands (a divisor of ``_MINIMA``) that miss a pair on the threshold less than once in 200 times."""
    for count in range(1, _MINIMA + 1):
        if _MINIMA % count == 0 and (1 - threshold ** (_MINIMA // count)) ** count <= 0.005:
            return count
    return _MINIMA

"""The first tier: rules that find what is plainly wrong with a sample, without asking anybody."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal, InvalidOperation

from kaiyuan.curation.log import DROP, KEEP, Decision, Standing, now
from kaiyuan.curation.near import Crowd
from kaiyuan.curation.sample import Sample, language_of
from kaiyuan.synthesis.llm.guards import fault_of_answer
from kaiyuan.synthesis.llm.guards import language_of as script_of

NAME, VERSION = "rules", "2"
NEAR = 0.8
"""Similarity from which two instructions are one."""
_MOST_CHARS = 32_000
_SPECIAL = re.compile(r"<\|[\w ]{1,40}\|>|</?s>|\[/?INST\]|<</?SYS>>|<start_of_turn>|<end_of_turn>")
_DAMAGED = re.compile("\ufffd|[\x00-\x08\x0b\x0c\x0e-\x1f]|(?:Ã.|â€.){2}|&(?:amp|lt|gt|quot|nbsp);")
_CUT = re.compile(r"(?:[,;:，、；：(（\[{]|\b(?:and|or|the|a|of|to|with|because))\s*\Z")
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})", re.MULTILINE)
_TRANSLATES = re.compile(r"translat|翻译|译成|译为|in (?:Chinese|English)|用(?:英文|英语|中文)", re.IGNORECASE)
_NUMBER = r"-?\d+(?:\.\d+)?"
_EQUATION = re.compile(
    rf"(?<![\w.+\-*/×÷^=)])({_NUMBER})[ ]*([+\-*×/÷])[ ]*({_NUMBER})[ ]*=[ ]*({_NUMBER})"
    r"(?![\w.%/*×÷^+\-]*\w|[ ]*[+\-*×/÷^])"
)


def faults(sample: Sample) -> Iterator[str]:
    """Everything wrong with ``sample`` by itself."""
    answer = sample.messages[-1]["content"]
    language = script_of(sample.messages[-2]["content"])
    translates = bool(_TRANSLATES.search(sample.question)) or language not in ("en", "zh")
    if fault := fault_of_answer(answer, "stop", language, _MOST_CHARS, translates or language_of(answer) == "und"):
        yield fault
    if any(has_special_token(message["content"]) for message in sample.messages):
        yield "special token"
    if _DAMAGED.search(sample.question) or _DAMAGED.search(answer):
        yield "damaged text"
    if not _closed(answer):
        yield "unbalanced code fence"
    elif _CUT.search(answer):
        yield "truncated"
    if answer.strip() == sample.messages[-2]["content"].strip():
        yield "answer repeats the question"
    if wrong_equation(answer):
        yield "wrong arithmetic"


def has_special_token(text: str) -> bool:
    """Whether ``text`` holds something that a chat format uses as a mark."""
    return _SPECIAL.search(text) is not None


def _closed(text: str) -> bool:
    """Whether every code fence is closed, by one of the same sign and at least its length."""
    opened = ""
    for found in _FENCE.finditer(text):
        if not opened:
            opened = found[1]
        elif found[1].startswith(opened):
            opened = ""
    return not opened


def wrong_equation(text: str) -> str:
    """The first ``a + b = c`` of plain numbers that does not hold, "" if all do; divisions may be rounded."""
    for found in _EQUATION.finditer(text):
        if text[: found.start()].rstrip(" ").endswith(tuple("+-*×/÷=^(")):
            continue  # the end of a longer one
        try:
            a, b, c = (Decimal(found[place]) for place in (1, 3, 4))
        except InvalidOperation:
            continue
        operator = found[2]
        if operator in "/÷":
            digits = Decimal(1).scaleb(int(c.as_tuple().exponent))
            if b and abs(a / b - c) > digits:
                return found[0]
        elif c != {"+": a + b, "-": a - b}.get(operator, a * b):
            return found[0]
    return ""


def check(
    samples: Iterable[Sample], known: Mapping[str, Standing] | None = None, near: float = NEAR
) -> Iterator[Decision]:
    """A decision on every sample, in order. Of several that ask nearly the same the best stays (``near``).

    ``near`` is the Jaccard similarity from which two instructions are one; what is wrong by itself is not compared.
    """
    known, found = known or {}, dict[str, tuple[str, ...]]()
    with Crowd(near) as crowd:
        for sample in samples:
            if sample.hash not in found:
                found[sample.hash] = tuple(dict.fromkeys(faults(sample)))
                if not found[sample.hash]:
                    crowd.add(sample, known.get(sample.hash, Standing()))
        gone = dict(crowd.gone())
    version = f"{VERSION} near {near:g}"
    for name, reasons in found.items():
        details = {}
        if like := gone.get(name):
            reasons = ("duplicate" if like.same else "near-duplicate instruction",)
            details = {"like": like.keeper, "similarity": like.similarity}
        yield Decision(name, "rules", NAME, version, DROP if reasons else KEEP, now(), reasons, details)

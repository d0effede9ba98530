"""When two final answers are the same: numbers and formulas by value, names and choices by their text.

Formulas that plain arithmetic cannot read go to math-verify if it is installed, in a process of its own that is killed
when it takes too long.
"""

from __future__ import annotations

import json
import re
import select
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Sequence
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

from kaiyuan.synthesis.llm.reading import without_thinking

Same = Callable[[str, str], bool]
_MARK = re.compile(r"(?:final answer|answer)(?: is)?\s*[:：]|(?:最终)?答案(?:是|为)?\s*[:：]", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\s*\{")
_UNIT = re.compile(r"(?<=[\d)}%])\s*(?:[a-z°²³/·$€£¥]{1,12}|[\u4e00-\u9fff]{1,4})\.?$", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:e[+-]?\d{1,3})?", re.IGNORECASE)
_FRAC = re.compile(r"\\[dt]?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}")
_EDGES = " \t\r\n.,;:!?\"'“”‘’。，、；：！？·*`"
_LONGEST = 400


def final_answer(text: str) -> str:
    """What an answer comes to: the last ``\\boxed{...}``, else what stands behind the last "Answer:", else "" ."""
    text = without_thinking(text)
    boxed = _last_boxed(text)
    if boxed:
        return boxed[:_LONGEST].strip()
    parts = _MARK.split(text)
    if len(parts) == 1:
        return ""
    lines = [line.strip(" *`\t") for line in parts[-1].strip().splitlines()]
    return next((line for line in lines if line), "")[:_LONGEST]


def _last_boxed(text: str) -> str:
    found = list(_BOXED.finditer(text))
    if not found:
        return ""
    depth, start = 1, found[-1].end()
    for place in range(start, min(len(text), start + _LONGEST)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[start:place]
    return ""


def number(text: str) -> Fraction | None:
    """The value of a plain number: 1,234.5; 3/4; LaTeX's frac; 12%; 1.5e3; with a unit, a currency or ``x =``."""
    text = unicodedata.normalize("NFKC", text).strip(_EDGES + "$").replace("\\$", "").replace("−", "-")
    text = _FRAC.sub(r"\1/\2", text.replace("\\,", "").replace("\\!", "").replace("\\%", "%"))
    text = re.sub(r"\\(?:text|mathrm)\{([^{}]*)\}|\\(?:left|right|displaystyle)", r"\1", text)
    text = re.sub(r"^[a-z]\s*=\s*|^(?:约|共|约为|[$€£¥])\s*", "", text, flags=re.IGNORECASE)
    text = _UNIT.sub("", text.strip(_EDGES)).strip("$ ")
    percent = text.endswith("%")
    over, slash, under = text.rstrip("% ").partition("/")
    top, bottom = _plain(over), _plain(under) if slash else Fraction(1)
    if top is None or not bottom:
        return None
    return top / bottom / (100 if percent else 1)


def _plain(text: str) -> Fraction | None:
    text = text.strip(" ()")
    if not any(sign.isdigit() for sign in text) or len(text) > 60 or not _NUMBER.fullmatch(text):
        return None
    return Fraction(text.replace(",", ""))


def normal(text: str) -> str:
    """A short answer without case, width, articles, punctuation at its edges; a choice without its text."""
    text = unicodedata.normalize("NFKC", text).casefold().strip(_EDGES)
    choice = re.match(r"^(?:option |选项?)?\(?([a-h])(?:[).:、]|\b(?! \w))", text)
    if choice:
        return choice[1]
    text = re.sub(r"^(?:the|an?) (?=\w)", "", text)
    return " ".join(re.sub(r"[\s\"'“”‘’]+", " ", text).split()).strip(_EDGES)


def same_text(first: str, second: str) -> bool:
    """Equality of objective answers."""
    one, two = number(first), number(second)
    if one is not None and two is not None:
        return one == two
    return bool(normal(first)) and normal(first) == normal(second)


def same_number(first: str, second: str) -> bool:
    """Equality of mathematical answers without a computer algebra system; decimals are rounded values."""
    one, two = number(first), number(second)
    if one is None or two is None:
        return bool(_compact(first)) and _compact(first) == _compact(second)
    return one == two or _rounded(first, one, two) or _rounded(second, two, one)


def _compact(text: str) -> str:
    return re.sub(r"[\s$]|\\left|\\right|\\[,!;]", "", unicodedata.normalize("NFKC", text)).strip(_EDGES).casefold()


def _rounded(text: str, value: Fraction, exact: Fraction) -> bool:
    """Whether ``value``, written with decimals (at least 2), is ``exact`` rounded to them."""
    decimals = re.search(r"\.(\d{2,12})(?!\d)", text)
    if decimals is None or "%" in text:
        return False
    return (
        abs(value - exact) <= Fraction(1, 2 * 10 ** len(decimals[1]))
        and (exact * 10 ** len(decimals[1])).denominator > 1
    )


class MathVerify:
    """math-verify in a child process with limits on memory and on the time of each comparison."""

    def __init__(self, seconds: float = 5.0) -> None:
        self.seconds = seconds
        self._child: subprocess.Popen[bytes] | None = None
        self._known: dict[tuple[str, str], bool] = {}

    @staticmethod
    def installed() -> bool:
        return find_spec("math_verify") is not None

    def same(self, first: str, second: str) -> bool:
        """Equality of mathematical answers; what cannot be compared in time counts as different."""
        one, two = number(first), number(second)
        if (one is not None and two is not None) or same_number(first, second):
            return same_number(first, second)
        pair = (min(first, second), max(first, second))
        if pair not in self._known:
            self._known[pair] = self._ask(pair)
        return self._known[pair]

    def _ask(self, pair: tuple[str, str]) -> bool:
        starting = self._child is None
        child = self._child = self._child or _started()
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(json.dumps(pair).encode() + b"\n")
            child.stdin.flush()
            ready, _, _ = select.select([child.stdout], [], [], self.seconds + (30 if starting else 0))
            reply = child.stdout.readline() if ready else b""
        except OSError:
            reply = b""
        if reply not in (b"1\n", b"0\n"):
            self.close()
        return reply == b"1\n"

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None


def _started() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", str(Path(__file__).with_name("math_worker.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PATH": "/usr/bin:/bin"},
    )


def largest_group(finals: Sequence[str], same: Same) -> list[int]:
    """Indices of the largest set of answers that are the same, the first of equally large ones; empty ones are out."""
    groups: list[list[int]] = []
    for index, final in enumerate(finals):
        if not final:
            continue
        for group in groups:
            if same(finals[group[0]], final):
                group.append(index)
                break
        else:
            groups.append([index])
    return max(groups, key=len, default=[])

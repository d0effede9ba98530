"""Quality rules: what a text must look like to be worth training on, in English and Chinese alike.

The rules are those of Gopher (Rae et al. 2021, appendix A.1), C4 (Raffel et al. 2020) and FineWeb (Penedo et al.
2024) with two changes. Lengths and repetitions are counted in units (a Han character or a word,
``kaiyuan.corpus.units``). The rules on short lines and on lines without end punctuation are left out: verse and
plays, hard-wrapped books and classical Chinese break them all. Code has rules of its own.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from kaiyuan.corpus.repetition import repeated_ngram_share, top_ngram_share
from kaiyuan.corpus.units import units
from kaiyuan.errors import DataError

_URL = re.compile(r"(?:https?://|www\.)[^\s<>\"'，。；、）]+")
_BULLET = re.compile(r"[-*•·●◦▪■◆]\s|[0-9]{1,3}[.)、]\s?")
_SYMBOL = re.compile(r"#|\.\.\.|…+|[|\\^~<>=_]{2,}|[■□◆◇★☆●○►▼▲※]")
_GARBAGE = re.compile("[\ufffd\ue000-\uf8ff\U000f0000-\U0010fffd]|锟斤拷|烫烫烫|屯屯屯")
_GENERATED = re.compile(r"auto-?generated|generated (?:by|from|code)|do not (?:edit|modify)|自动生成", re.IGNORECASE)
_BOILERPLATE = re.compile(
    r"lorem ipsum|enable javascript|javascript is (?:disabled|required|not enabled)|accept (?:all )?cookies"
    r"|启用\s*javascript|开启\s*javascript|版权所有\s*未经|点击(?:此处|这里)?下载|扫码关注|加微信领取",
    re.IGNORECASE,
)
_ENOUGH_UNITS = 100
"""Below it, counts of words say little."""
_STOP_WORDS = {
    "en": frozenset({"the", "be", "is", "was", "to", "of", "and", "that", "have", "with", "in", "a", "for", "it"}),
    "zh": frozenset("的了是在不有我一这人也而以其之为于与上下来他大中天日无可个对到说"),
}


class QualityRules(BaseModel):
    """Limits of the quality rules; a text on the limit passes. Shares run from 0 to 1."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    min_units: int = Field(default=20, ge=0)
    """Fewest words or Han characters: a four-line Tang poem has 20."""
    min_mean_word_length: float = Field(default=2.5, ge=0)
    max_mean_word_length: float = Field(default=10.0, gt=0)
    """Limits on the mean length of words in letters; Han characters are not counted (Gopher: 3 to 10)."""
    max_symbol_share: float = Field(default=0.1, ge=0)
    """Symbols (hashes, ellipses, box characters) per unit."""
    min_letter_share: float = Field(default=0.6, ge=0, le=1)
    """Letters of any script among the characters that are not spaces."""
    max_bullet_share: float = Field(default=0.9, ge=0, le=1)
    max_ellipsis_share: float = Field(default=0.3, ge=0, le=1)
    """Lines that begin with a bullet, and lines that end in an ellipsis."""
    min_stop_words: int = Field(default=2, ge=0)
    """Different stop words of the language that a text of at least 100 units must hold."""
    max_repeated_line_share: float = Field(default=0.3, ge=0, le=1)
    """Characters in lines that occurred before (characters: a play repeats its speakers' names over and over)."""
    max_top_ngram_share: float = Field(default=0.2, ge=0, le=1)
    """Units covered by the commonest 2-gram (0.9 and 0.8 of this limit for the 3- and 4-gram), from 100 units on."""
    max_repeated_ngram_share: float = Field(default=0.3, ge=0, le=1)
    """Units in 5-grams that occurred before."""
    verse_factor: float = Field(default=2.0, ge=1)
    """What the three limits on repetition are multiplied by for verse: four lines or more, of at most 12 words or 24
    Han characters on average. Refrains, and strophes that change one word in five, are what many poems are made of."""
    max_url_share: float = Field(default=0.2, ge=0, le=1)
    """Characters inside URLs."""
    max_garbage_share: float = Field(default=0.002, ge=0, le=1)
    """Replacement and private-use characters and the known debris of wrong decoding."""
    max_boilerplate_per_1000: float = Field(default=5.0, ge=0)
    """Page furniture ("enable JavaScript", "lorem ipsum", 扫码关注) per 1000 units."""
    toxic_words: list[str] = []
    """Words and phrases to look for, such as ``read_word_list`` gives; none: the rule is off."""
    max_toxic_share: float = Field(default=0.01, ge=0, le=1)
    """Listed words per unit."""
    max_code_line: int = Field(default=1000, ge=1)
    max_mean_code_line: float = Field(default=100.0, gt=0)
    """Longest line and mean length of the lines of code, in characters."""
    max_repeated_code_share: float = Field(default=0.5, ge=0, le=1)
    """The same as ``max_repeated_line_share``, for code."""
    min_code_letter_share: float = Field(default=0.25, ge=0, le=1)
    """Letters among the characters of code that are not spaces; below it is data."""


@dataclass(frozen=True)
class View:
    """A text, taken apart once for all rules."""

    text: str
    language: str

    @cached_property
    def units(self) -> list[str]:
        return units(self.text)

    @cached_property
    def lines(self) -> list[str]:
        """Lines that are not blank, without the spaces around them."""
        return [line.strip() for line in self.text.split("\n") if line.strip()]

    @property
    def is_verse(self) -> bool:
        line = 24 if self.language == "zh" else 12
        return len(self.lines) >= 4 and len(self.units) <= line * len(self.lines)

    def allowed_repetition(self, limit: float, rules: QualityRules) -> float:
        """``limit``, wider for verse."""
        return limit * rules.verse_factor if self.is_verse else limit

    @cached_property
    def visible(self) -> int:
        """Number of characters that are not spaces, at least 1."""
        return max(1, len("".join(self.text.split())))


Rule = Callable[[View, QualityRules], str | None]


def rejection(text: str, language: str, rules: QualityRules) -> str | None:
    """Why ``text`` is not good enough, as ``"rule: detail"``, or ``None`` if it passes every rule.

    ``language`` is "en", "zh", another ISO code (no stop-word rule then), or "code".
    """
    view = View(text, language)
    for rule in CODE_RULES if language == "code" else PROSE_RULES:
        reason = rule(view, rules)
        if reason is not None:
            return reason
    return None


def read_word_list(path: Path) -> list[str]:
    """The entries of a word list: a word or phrase a line; blank lines and those that begin with ``#`` are skipped."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable word list: {error}") from None
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def too_short(view: View, rules: QualityRules) -> str | None:
    if len(view.units) >= rules.min_units:
        return None
    return f"too short: {len(view.units)} units, at least {rules.min_units} are wanted"


def garbled(view: View, rules: QualityRules) -> str | None:
    share = sum(len(match) for match in _GARBAGE.findall(view.text)) / view.visible
    return _over("garbled", share, rules.max_garbage_share, "of the characters")


def word_length(view: View, rules: QualityRules) -> str | None:
    words = [unit for unit in view.units if unit[0].isascii() or unit[0] < "\u2e80"]
    if len(words) < rules.min_units or 2 * len(words) < len(view.units):
        return None
    mean = sum(map(len, words)) / max(len(words), 1)
    if rules.min_mean_word_length <= mean <= rules.max_mean_word_length:
        return None
    return f"word length: {mean:.1f} letters on average"


def symbols(view: View, rules: QualityRules) -> str | None:
    share = len(_SYMBOL.findall(view.text)) / max(len(view.units), 1)
    return _over("symbols", share, rules.max_symbol_share, "of the units")


def letters(view: View, rules: QualityRules) -> str | None:
    share = sum(map(str.isalpha, view.text)) / view.visible
    if share >= rules.min_letter_share:
        return None
    return f"few letters: {share:.0%} of the characters"


def bullets(view: View, rules: QualityRules) -> str | None:
    share = sum(1 for line in view.lines if _BULLET.match(line)) / max(len(view.lines), 1)
    return _over("bullets", share, rules.max_bullet_share, "of the lines")


def ellipses(view: View, rules: QualityRules) -> str | None:
    share = sum(1 for line in view.lines if line.endswith(("...", "…"))) / max(len(view.lines), 1)
    return _over("ellipses", share, rules.max_ellipsis_share, "of the lines")


def stop_words(view: View, rules: QualityRules) -> str | None:
    wanted = _STOP_WORDS.get(view.language)
    if wanted is None or len(view.units) < _ENOUGH_UNITS:
        return None
    found = len(wanted.intersection(unit.lower() for unit in view.units))
    if found >= rules.min_stop_words:
        return None
    return f"no running text: {found} different stop words"


def repeated_lines(view: View, rules: QualityRules) -> str | None:
    limit = view.allowed_repetition(rules.max_repeated_line_share, rules)
    if view.language == "code":
        limit = rules.max_repeated_code_share
    total = sum(map(len, view.lines))
    first = sum(map(len, set(view.lines)))
    return _over("repeated lines", (total - first) / max(total, 1), limit, "of the characters")


def common_ngrams(view: View, rules: QualityRules) -> str | None:
    if len(view.units) < _ENOUGH_UNITS:
        return None
    limit = view.allowed_repetition(rules.max_top_ngram_share, rules)
    for size, factor in ((2, 1.0), (3, 0.9), (4, 0.8)):
        reason = _over(f"one {size}-gram", top_ngram_share(view.units, size), factor * limit, "of the units")
        if reason is not None:
            return reason
    return None


def repeated_ngrams(view: View, rules: QualityRules) -> str | None:
    limit = view.allowed_repetition(rules.max_repeated_ngram_share, rules)
    return _over("repeated 5-grams", repeated_ngram_share(view.units, 5), limit, "of the units")


def urls(view: View, rules: QualityRules) -> str | None:
    share = sum(map(len, _URL.findall(view.text))) / view.visible
    return _over("URLs", share, rules.max_url_share, "of the characters")


def boilerplate(view: View, rules: QualityRules) -> str | None:
    found = len(_BOILERPLATE.findall(view.text))
    if 1000 * found <= rules.max_boilerplate_per_1000 * len(view.units):
        return None
    return f"boilerplate: {found} phrases in {len(view.units)} units"


def toxicity(view: View, rules: QualityRules) -> str | None:
    if not rules.toxic_words:
        return None
    found = len(_word_pattern(tuple(rules.toxic_words)).findall(view.text))
    return _over("toxic words", found / max(len(view.units), 1), rules.max_toxic_share, "of the units")


def generated_code(view: View, rules: QualityRules) -> str | None:
    head = "\n".join(view.lines[:5])
    return "generated code: its first lines say so" if _GENERATED.search(head) else None


def code_lines(view: View, rules: QualityRules) -> str | None:
    longest = max(map(len, view.lines), default=0)
    if longest > rules.max_code_line:
        return f"long code lines: {longest} characters in one"
    mean = sum(map(len, view.lines)) / max(len(view.lines), 1)
    return f"long code lines: {mean:.0f} characters on average" if mean > rules.max_mean_code_line else None


def code_letters(view: View, rules: QualityRules) -> str | None:
    share = sum(map(str.isalpha, view.text)) / view.visible
    return f"data, not code: {share:.0%} letters" if share < rules.min_code_letter_share else None


def _over(name: str, share: float, limit: float, what: str) -> str | None:
    return f"{name}: {share:.1%} {what}" if share > limit else None


@functools.lru_cache(maxsize=4)
def _word_pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    """A pattern for any of ``words``: Latin ones as whole words, Chinese ones anywhere, as no spaces set them off."""
    edged = (rf"(?<![A-Za-z]){re.escape(word)}(?![A-Za-z])" if word.isascii() else re.escape(word) for word in words)
    return re.compile("|".join(edged), re.IGNORECASE)


PROSE_RULES: tuple[Rule, ...] = (
    too_short, garbled, letters, symbols, word_length, stop_words, bullets, ellipses,
    urls, boilerplate, repeated_lines, common_ngrams, repeated_ngrams, toxicity,
)  # fmt: skip
CODE_RULES: tuple[Rule, ...] = (too_short, garbled, generated_code, code_lines, code_letters, repeated_lines, toxicity)

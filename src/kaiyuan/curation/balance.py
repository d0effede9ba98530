"""Balancing by labels: how many samples of each label a data set gets, and which. Exact and repeatable.

Every label is wanted in proportion to ``count ** temperature`` times its own weight: 1 keeps the proportions as they
are, 0 gives every label the same. No label gets more than its cap, nor its samples more often than ``most_repeats``
times; what it cannot take goes to the others in their proportions. Which samples of a label are taken is decided by
their hashes, so adding samples of one label changes nothing in the choice of another.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from kaiyuan.settings import Settings


class Balance(Settings):
    """How labels are balanced."""

    by: list[Literal["language", "kind", "difficulty"]] = []
    """What makes a label beside the topic: with language and difficulty, ``mathematics/algebra zh 3`` is one."""

    temperature: float = Field(default=1.0, ge=0, le=1)
    total: int = Field(default=0, ge=0)
    """Samples of the whole, repeats counted; 0 for as many as there are."""
    cap: int = Field(default=0, ge=0)
    """Most of any one label; 0 for no cap."""
    caps: dict[str, int] = {}
    """Most of single labels; the name of a topic or domain holds for each label of it."""
    weights: dict[str, float] = {}
    """How much more (or less) of single labels than their counts say."""
    most_repeats: int = Field(default=1, ge=1, le=16)
    """How often a sample of a rare label may come."""


def quotas(counts: Mapping[str, int], settings: Balance, weights: Mapping[str, float] | None = None) -> dict[str, int]:
    """How many samples of each label are taken.

    The sum is ``settings.total`` (or the number of samples), unless caps and repeats do not allow as many.
    """
    room = {label: _room(label, count, settings) for label, count in counts.items() if count}
    wanted = {
        label: counts[label] ** settings.temperature
        * _named(settings.weights, label, 1.0)
        * (weights or {}).get(label, 1.0)
        for label in room
    }
    left = min(settings.total or sum(counts.values()), sum(room.values()))
    found = dict.fromkeys(room, 0)
    open_labels = {label for label in room if wanted[label] > 0}
    while left and open_labels:
        total = sum(wanted[label] for label in sorted(open_labels))
        full = {label for label in open_labels if left * wanted[label] / total >= room[label]}
        if not full:
            found.update(_largest_remainders({label: wanted[label] for label in open_labels}, left))
            break
        for label in full:
            found[label] = room[label]
            left -= room[label]
        open_labels -= full
    return found


def _room(label: str, count: int, settings: Balance) -> int:
    caps = [count * settings.most_repeats, _named(settings.caps, label, math.inf), settings.cap or math.inf]
    return int(min(caps))


def _named(values: Mapping[str, float], label: str, default: float) -> float:
    """The value of a label, else that of its topic, else that of its domain."""
    names = (label, label.partition(" ")[0], label.partition("/")[0])
    return next((values[name] for name in names if name in values), default)


def full_label(topic: str, by: Sequence[str], known: Mapping[str, Any]) -> str:
    """``topic`` and what is ``known`` of each of ``by``, "-" where nothing is."""
    return " ".join([topic, *(str(known.get(name) or "-") for name in by)])


def _largest_remainders(wanted: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole numbers in the proportions of ``wanted`` that add up to ``total``; ties go by name."""
    whole = sum(wanted[label] for label in sorted(wanted))
    exact = {label: total * wanted[label] / whole for label in sorted(wanted)}
    found = {label: int(value) for label, value in exact.items()}
    by_remainder = sorted(exact, key=lambda label: (found[label] - exact[label], label))
    for label in by_remainder[: total - sum(found.values())]:
        found[label] += 1
    return found


def choose(hashes: Sequence[str], count: int, seed: int) -> Counter[str]:
    """How often each sample of a label is taken, ``count`` in all: all equally often, give or take one."""
    whole, rest = divmod(count, len(hashes)) if hashes else (0, 0)
    ordered = sorted(hashes, key=lambda name: rank(name, seed))
    chosen = Counter(dict.fromkeys(ordered, whole)) if whole else Counter[str]()
    chosen.update(ordered[:rest])
    return chosen


def rank(name: str, seed: int) -> str:
    """A place in an order that looks random and depends on nothing but the name and the seed."""
    return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()


def table(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """Labels with their counts and shares before and after, the most frequent first."""
    whole, total = max(sum(before.values()), 1), max(sum(after.values()), 1)
    width = max([5, *map(len, before)])
    lines = [f"{'label':{width}}  {'before':>8}  {'share':>6}  {'after':>8}  {'share':>6}"]
    for label in sorted(before, key=lambda name: (-before[name], name)):
        was, is_ = before[label], after.get(label, 0)
        lines.append(f"{label:{width}}  {was:>8,}  {was / whole:>6.1%}  {is_:>8,}  {is_ / total:>6.1%}")
    lines.append(f"{'all':{width}}  {sum(before.values()):>8,}  {'':>6}  {sum(after.values()):>8,}")
    return "\n".join(lines)

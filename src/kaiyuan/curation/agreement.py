"""How far judges agree beyond chance: Cohen's kappa, Krippendorff's alpha, and a classifier's precision and recall."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal

from kaiyuan.evaluation.intervals import wilson_interval

Level = Literal["nominal", "ordinal", "interval"]


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Cohen's kappa of two judges over the same samples: ``(observed - expected) / (1 - expected)``.

    Expected is the agreement of two judges who give each verdict as often as these do, at random. Not a number for no
    samples, or if both only ever say the same one thing: then chance explains everything.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} verdicts are not on the same samples")
    count = len(first)
    one, two = Counter(first), Counter(second)
    observed = sum(a == b for a, b in zip(first, second, strict=True))
    expected = sum(one[verdict] * two[verdict] for verdict in one) / count if count else 0.0
    return (observed - expected) / (count - expected) if count > expected else float("nan")


def krippendorff_alpha(units: Iterable[Sequence[Any]], level: Level = "nominal") -> float:
    """Krippendorff's alpha: ``1 - observed / expected`` disagreement, for any number of judges and missing verdicts.

    ``units`` holds the verdicts on each sample, by whomever, without the missing ones; a sample with fewer than two
    tells nothing. Not a number if there is no sample with two, or no disagreement to expect.
    """
    pairable = [list(unit) for unit in units if len(unit) >= 2]
    counts: Counter[Any] = Counter(verdict for unit in pairable for verdict in unit)
    total = sum(counts.values())
    distance = _distance(level, counts)
    observed = 0.0
    for unit in pairable:
        within = Counter(unit)
        observed += sum(within[a] * within[b] * distance(a, b) for a in within for b in within) / (len(unit) - 1)
    expected = sum(counts[a] * counts[b] * distance(a, b) for a in counts for b in counts)
    return 1 - (total - 1) * observed / expected if expected else float("nan")


def _distance(level: Level, counts: Mapping[Any, int]) -> Callable[[Any, Any], float]:
    """The squared difference of two verdicts; ordinal ones are as far apart as there are verdicts between them."""
    if level == "nominal":
        return lambda a, b: float(a != b)
    if level == "interval":
        return lambda a, b: float((a - b) ** 2)
    ranks, below = {}, 0.0
    for value in sorted(counts):
        ranks[value] = below + counts[value] / 2
        below += counts[value]
    return lambda a, b: (ranks[a] - ranks[b]) ** 2


def precision_recall(rows: Iterable[tuple[bool, bool, float]]) -> dict[str, Any]:
    """Of (said, true, weight): which share of what was said is true, and which share of what is true was said.

    The weight is how many samples a row stands for: strata are reviewed at different rates. Intervals are Wilson's at
    95%, over the rows as they are.
    """
    items = list(rows)
    said = [row for row in items if row[0]]
    true = [row for row in items if row[1]]
    return {"precision": _share(said, 1), "recall": _share(true, 0), "samples": len(items)}


def _share(rows: Sequence[tuple[bool, bool, float]], place: int) -> dict[str, Any]:
    weight = sum(row[2] for row in rows)
    hits = [row for row in rows if row[place]]
    share = sum(row[2] for row in hits) / weight if weight else None
    return {"share": share, "of": len(rows), "interval": list(wilson_interval(len(hits), len(rows)))}

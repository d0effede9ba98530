"""What people are shown: which samples, in which order, to whom, and what their verdicts say of judges and critique.

A sample is shown blind: without its grade, the rules' findings, its author, or what others think of it. A share of the
samples is shown to two people, so that their agreement can be measured.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from pydantic import Field

from kaiyuan.curation.agreement import cohen_kappa, krippendorff_alpha, precision_recall
from kaiyuan.curation.balance import rank
from kaiyuan.curation.build import label_of
from kaiyuan.curation.log import KEEP, Standing
from kaiyuan.curation.sample import Sample
from kaiyuan.settings import Settings

VERSION = "review 1"
REASONS = (
    "wrong", "incomplete", "off topic", "unclear question", "language", "format", "unsafe", "personal data", "other"
)  # fmt: skip
"""Why a sample is dropped; a person may give several."""
Stratum = tuple[str, str]


class Plan(Settings):
    """How many samples people see."""

    samples: int = Field(default=200, ge=1)
    double_share: float = Field(default=0.25, ge=0, le=1)
    """Share of them that two people see."""
    at_least: int = Field(default=2, ge=0)
    """Of every stratum (label and tier), as far as it has so many."""
    seed: int = 0


@dataclass(frozen=True)
class Task:
    """One sample that people are to judge."""

    sample: Sample
    label: str
    stratum: Stratum
    needed: int
    """Verdicts by different people."""


def stratum_of(sample: Sample, standing: Standing) -> Stratum:
    """The domain of its label, and what the tiers before people said: refused by rules, or its grade."""
    domain = label_of(sample, standing).partition("/")[0]
    if standing.rules and standing.rules.verdict != KEEP:
        return domain, "refused by rules"
    return domain, f"grade {standing.grade}" if standing.grade else "not graded"


def tasks(samples: Sequence[Sample], known: Mapping[str, Standing], plan: Plan) -> list[Task]:
    """The samples to show, in order. Strata are taken in turn, so whoever stops early has seen all of them.

    Each stratum gets ``at_least`` and, of what is left, its share. The choice depends on hashes and the seed alone.
    """
    strata: defaultdict[Stratum, list[Sample]] = defaultdict(list)
    for sample in samples:
        strata[stratum_of(sample, known.get(sample.hash, Standing()))].append(sample)
    counts = shares({stratum: len(group) for stratum, group in strata.items()}, plan)
    ranked = []
    for stratum, group in strata.items():
        chosen = sorted(group, key=lambda sample: rank(sample.hash, plan.seed))[: counts[stratum]]
        ranked += [((index + 0.5) / len(chosen), rank(sample.hash, plan.seed), sample, stratum)
                   for index, sample in enumerate(chosen)]  # fmt: skip
    ranked.sort(key=lambda item: item[:2])
    double = round(plan.double_share * len(ranked))
    found = []
    for index, (_, _, sample, stratum) in enumerate(ranked):
        # Spread evenly: the (index + 1)-th of n is double if the running share of doubles goes up a whole number.
        needed = 1 + (double * (index + 1) // len(ranked) - double * index // len(ranked))
        found.append(Task(sample, label_of(sample, known.get(sample.hash, Standing())), stratum, needed))
    return found


def shares(counts: Mapping[Stratum, int], plan: Plan) -> dict[Stratum, int]:
    """How many of each stratum are shown; ``plan.samples`` in all, or more if ``at_least`` asks for it."""
    found = {stratum: min(count, plan.at_least) for stratum, count in counts.items()}
    left = min(plan.samples, sum(counts.values())) - sum(found.values())
    rest = {stratum: count - found[stratum] for stratum, count in counts.items()}
    total = sum(rest.values())
    if left <= 0 or not total:
        return found
    exact = {stratum: left * count / total for stratum, count in sorted(rest.items())}
    extra = {stratum: int(value) for stratum, value in exact.items()}
    by_remainder = sorted(exact, key=lambda stratum: (extra[stratum] - exact[stratum], stratum))
    for stratum in by_remainder[: left - sum(extra.values())]:
        extra[stratum] += 1
    return {stratum: found[stratum] + extra[stratum] for stratum in counts}


def next_task(
    items: Sequence[Task], known: Mapping[str, Standing], reviewer: str, busy: Mapping[str, str]
) -> Task | None:
    """The first task that ``reviewer`` has not judged and that needs another verdict.

    ``busy`` says who has which sample open: as many verdicts are on their way.
    """
    for task in items:
        people = known.get(task.sample.hash, Standing()).people
        under_way = {name for name, sample in busy.items() if sample == task.sample.hash} - {reviewer, *people}
        if reviewer not in people and len(people) + len(under_way) < task.needed:
            return task
    return None


def report(
    items: Sequence[Task], samples: Sequence[Sample], known: Mapping[str, Standing], min_grade: int
) -> dict[str, Any]:
    """Agreement of people among each other and with the critique, over all of ``items`` and by label."""
    sizes = Counter(stratum_of(sample, known.get(sample.hash, Standing())) for sample in samples)
    by_label: defaultdict[str, list[Task]] = defaultdict(list)
    for task in items:
        by_label[task.stratum[0]].append(task)
    return {
        "people": _people(items, known),
        "all": _measures(items, known, sizes, min_grade),
        "labels": {label: _measures(group, known, sizes, min_grade) for label, group in sorted(by_label.items())},
        "pairs": _pairs(items, known),
    }


def _people(items: Sequence[Task], known: Mapping[str, Standing]) -> dict[str, dict[str, int]]:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for task in items:
        for name, decision in known.get(task.sample.hash, Standing()).people.items():
            counts[name][decision.verdict] += 1
    return {name: dict(sorted(verdicts.items())) for name, verdicts in sorted(counts.items())}


def _pairs(items: Sequence[Task], known: Mapping[str, Standing]) -> list[dict[str, Any]]:
    """Cohen's kappa of every two people on what both have judged."""
    votes = [known.get(task.sample.hash, Standing()).people for task in items]
    names = sorted({name for people in votes for name in people})
    found = []
    for one, two in combinations(names, 2):
        both = [(people[one].verdict, people[two].verdict) for people in votes if one in people and two in people]
        if both:
            kappa = cohen_kappa([a for a, _ in both], [b for _, b in both])
            agreed = sum(a == b for a, b in both) / len(both)
            found.append({"people": [one, two], "samples": len(both), "agreed": agreed, "kappa": _number(kappa)})
    return found


def _measures(
    items: Sequence[Task], known: Mapping[str, Standing], sizes: Mapping[Stratum, int], min_grade: int
) -> dict[str, Any]:
    standing = {task.sample.hash: known.get(task.sample.hash, Standing()) for task in items}
    units = [[decision.verdict for decision in found.people.values()] for found in standing.values()]
    decided = [task for task in items if standing[task.sample.hash].votes]
    seen = Counter(task.stratum for task in decided)
    rows, grades = [], defaultdict(list)
    for task in decided:
        found = standing[task.sample.hash]
        if found.grade:
            weight = sizes[task.stratum] / seen[task.stratum]
            rows.append((found.grade >= min_grade, found.votes > 0, weight))
            grades[found.grade].append(found.votes > 0)
    return {
        "shown": len(items), "judged": sum(bool(unit) for unit in units), "double": sum(len(u) > 1 for u in units),
        "disputed": sum(bool(found.people) and not found.votes for found in standing.values()),
        "kept": sum(standing[task.sample.hash].votes > 0 for task in decided),
        "alpha": _number(krippendorff_alpha(units)),
        "critique": precision_recall(rows),
        "grades": {str(grade): {"samples": len(kept), "kept": sum(kept)} for grade, kept in sorted(grades.items())},
    }  # fmt: skip


def _number(value: float) -> float | None:
    """For JSON, which has no "not a number"."""
    return None if value != value else round(value, 6)

"""The pairs of a version: what passed, without what length gives away, balanced by label."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from kaiyuan.curation.balance import Balance, full_label, quotas, rank, table
from kaiyuan.curation.lengths import Lengths, balance_lengths, describe, in_couples, length_bias
from kaiyuan.curation.log import KEEP, Standing
from kaiyuan.curation.pairs import Pair
from kaiyuan.settings import Settings

UNLABELLED = "unlabelled"


class Preferences(Settings):
    """What of the pairs becomes preference data."""

    length_share: float = Field(default=1.0, ge=0.5, le=1)
    """Largest share, among pairs of one label and of like ratio of lengths, of those whose longer (or shorter) answer
    is chosen. 1 takes all; 0.5 makes length tell nothing."""
    balance: Balance = Balance()


def label_of(pair: Pair, standing: Standing) -> str:
    """The topic of the log, of the pair, or its kind."""
    return standing.topic or str(pair.labels.get("topic") or pair.extra.get("kind") or UNLABELLED)


def select(
    pairs: Sequence[Pair], known: Mapping[str, Standing], settings: Preferences, seed: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of a version, and counts with the length bias before and after."""
    dropped: Counter[str] = Counter()
    passed: dict[str, Pair] = {}
    groups: defaultdict[str, dict[str, Lengths]] = defaultdict(dict)
    for pair in pairs:
        standing = known.get(pair.hash, Standing())
        if reason := _why_not(standing):
            dropped[reason] += 1
        else:
            passed[pair.hash] = pair
            said = {"kind": pair.extra.get("kind"), **_labels(pair, standing), "language": pair.language}
            groups[full_label(said["topic"], settings.balance.by, said)][pair.hash] = pair.lengths
    for label, group in groups.items():
        even = balance_lengths(group, settings.length_share, seed)
        dropped["length balance"] += len(group) - len(even)
        groups[label] = {name: group[name] for name in even}
    before = {label: len(group) for label, group in groups.items()}
    after = quotas(before, settings.balance)
    chosen = [
        (rank(f"{name} {turn}", seed), name)
        for label, group in groups.items()
        for turn, name in _turns(in_couples(group, seed), after.get(label, 0))
    ]
    rows = [
        {**passed[name].row(), "labels": _labels(passed[name], known.get(name, Standing()))}
        for _, name in sorted(chosen)
    ]
    return rows, {
        "pairs": len(rows), "different": len({name for _, name in chosen}),
        "labels": {"before": dict(sorted(before.items())), "after": dict(sorted(after.items()))},
        "dropped": {reason: count for reason, count in sorted(dropped.items()) if count},
        "length": {
            "before": length_bias(pair.lengths for pair in passed.values()),
            "after": length_bias(passed[name].lengths for _, name in chosen),
        },
    }  # fmt: skip


def _turns(names: Sequence[str], count: int) -> list[tuple[int, str]]:
    """The first ``count`` of ``names``, from the beginning again if there are fewer, with the number of the turn."""
    return [(place // len(names), names[place % len(names)]) for place in range(count)]


def _why_not(standing: Standing) -> str:
    if standing.rules is None:
        return "unchecked"
    return "" if standing.rules.verdict == KEEP else "rules"


def _labels(pair: Pair, standing: Standing) -> dict[str, Any]:
    topic = label_of(pair, standing)
    return {**pair.labels, **standing.labels, "topic": topic, "domain": topic.partition("/")[0]}


def describe_pairs(counts: Mapping[str, Any]) -> str:
    """A version's pairs in plain lines."""
    labels = counts["labels"]
    dropped = ", ".join(f"{name} {count:,}" for name, count in counts["dropped"].items())
    return "\n".join([
        table(labels["before"], labels["after"]), "",
        f"{counts['pairs']:,} pairs, {counts['different']:,} different; not kept: {dropped or 'none'}",
        describe(counts["length"]["after"]),
    ])  # fmt: skip

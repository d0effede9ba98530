"""A data set out of candidates and the log of decisions: the same inputs give the same bytes.

A folder of curation holds ``candidates.jsonl`` or ``pairs.jsonl`` (or both), ``decisions.jsonl`` and its data sets,
``versions/NAME/`` with ``sft.jsonl``, ``pairs.jsonl`` and ``manifest.json``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from kaiyuan.curation.balance import Balance, choose, full_label, quotas, rank, table
from kaiyuan.curation.log import Decision, Standing, read_log, seal_of, standings
from kaiyuan.curation.pairs import read_pairs
from kaiyuan.curation.places import CANDIDATES, DECISIONS, MANIFEST, PAIRS, SFT, VERSIONS
from kaiyuan.curation.preferences import UNLABELLED, Preferences, describe_pairs
from kaiyuan.curation.preferences import select as select_pairs
from kaiyuan.curation.sample import Sample, read_samples
from kaiyuan.errors import DataError, KaiyuanError
from kaiyuan.files import atomic_folder, read_json, read_jsonl, sha256_of, write_json, write_jsonl
from kaiyuan.settings import Settings


class Selection(Settings):
    """What of the candidates becomes a data set."""

    critique: bool = True
    """Only what the critique model graded; without, the rules are enough."""
    min_grade: int = Field(default=4, ge=1, le=4)
    """The lowest grade that is kept; the paper keeps the best of the four tiers."""
    balance: Balance = Balance()
    pairs: Preferences = Preferences()
    seed: int = 0


@dataclass(frozen=True)
class Verdict:
    """Whether a sample is kept, by which tier, or why not."""

    kept: bool
    tier: str


def verdict_of(standing: Standing, settings: Selection) -> Verdict:
    """People outweigh the critique, and both the rules let through only what passed them.

    A sample that as many people keep as drop is not kept: it waits for another opinion.
    """
    if standing.people:
        if standing.votes:
            return Verdict(standing.votes > 0, "human")
        return Verdict(False, "disputed")
    if standing.rules is None:
        return Verdict(False, "unchecked")
    if standing.rules.verdict != "keep":
        return Verdict(False, "rules")
    if not settings.critique:
        return Verdict(True, "rules")
    if not standing.grade:
        return Verdict(False, "ungraded")
    return Verdict(standing.grade >= settings.min_grade, f"critique {standing.grade}")


def label_of(sample: Sample, standing: Standing) -> str:
    """The topic that the newest label says, else the sample's own."""
    return standing.topic or str(sample.labels.get("topic") or UNLABELLED)


def build(folder: Path, name: str, settings: Selection, at: int | None = None) -> dict[str, Any]:
    """Write ``versions/NAME`` from the first ``at`` decisions (or all); returns its manifest.

    A version is never changed: one of the same name that would come out different is an error.
    """
    candidates, pairs, log = folder / CANDIDATES, folder / PAIRS, folder / DECISIONS
    decisions = read_log(log, at)
    known = standings(decisions)
    samples = list(read_samples(candidates)) if candidates.exists() or not pairs.exists() else []
    rows, counts = select(samples, known, settings)
    files = {SFT: rows}
    sources = {SFT: sha256_of(candidates)} if candidates.exists() else {}
    if pairs.exists():
        chosen = select_pairs(list(read_pairs(pairs)), known, settings.pairs, settings.seed)
        files[PAIRS], counts["preferences"] = chosen
        sources[PAIRS] = sha256_of(pairs)
    manifest = {
        "name": name, "settings": settings.model_dump(), "sources": sources,
        "log": {"decisions": len(decisions), "sha256": seal_of(log, len(decisions))}, **counts,
    }  # fmt: skip
    target = folder / VERSIONS / name
    if target.exists():
        if read_json(target / MANIFEST) != {**manifest, "files": read_json(target / MANIFEST).get("files")}:
            raise KaiyuanError(f"{target}: is there and was made from something else; choose another --name")
        return dict(read_json(target / MANIFEST))
    with atomic_folder(target) as partial:
        for file, found in files.items():
            write_jsonl(partial / file, found)
        manifest["files"] = {file: sha256_of(partial / file) for file in files}
        write_json(partial / MANIFEST, manifest)
    return manifest


def select(
    samples: Sequence[Sample], known: dict[str, Standing], settings: Selection
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of a data set, and counts: by label before and after balancing, by tier, and of what was dropped."""
    groups: defaultdict[str, list[Sample]] = defaultdict(list)
    tiers: dict[str, str] = {}
    dropped: Counter[str] = Counter()
    for sample in samples:
        standing = known.get(sample.hash, Standing())
        verdict = verdict_of(standing, settings)
        if verdict.kept:
            said = {**_labels(sample, standing), "language": sample.language}
            groups[full_label(said["topic"], settings.balance.by, said)].append(sample)
            tiers[sample.hash] = verdict.tier
        else:
            dropped[verdict.tier] += 1
    before = {label: len(group) for label, group in groups.items()}
    after = quotas(before, settings.balance)
    chosen: list[tuple[str, Sample]] = []
    for label, group in groups.items():
        times = choose([sample.hash for sample in group], after[label], settings.seed)
        chosen += [
            (rank(f"{sample.hash} {turn}", settings.seed), sample)
            for sample in group
            for turn in range(times[sample.hash])
        ]
    chosen.sort(key=lambda item: item[0])
    rows = [
        {**sample.row(), "labels": _labels(sample, known.get(sample.hash, Standing())), "tier": tiers[sample.hash]}
        for _, sample in chosen
    ]
    counts = {
        "samples": len(rows), "different": len({sample.hash for _, sample in chosen}),
        "labels": {"before": dict(sorted(before.items())), "after": dict(sorted(after.items()))},
        "tiers": dict(sorted(Counter(tiers[sample.hash] for _, sample in chosen).items())),
        "languages": dict(sorted(Counter(sample.language for _, sample in chosen).items())),
        "dropped": dict(sorted(dropped.items())),
    }  # fmt: skip
    return rows, counts


def _labels(sample: Sample, standing: Standing) -> dict[str, Any]:
    """All labels: those of the log in front of the sample's own."""
    topic = label_of(sample, standing)
    return {**sample.labels, **standing.labels, "topic": topic, "domain": topic.partition("/")[0]}


def describe(manifest: dict[str, Any]) -> str:
    """A version in a few lines."""
    labels = manifest["labels"]
    tiers = ", ".join(f"{name} {count:,}" for name, count in manifest["tiers"].items())
    dropped = ", ".join(f"{name} {count:,}" for name, count in manifest["dropped"].items())
    parts = []
    if SFT in manifest["sources"]:
        parts += [
            table(labels["before"], labels["after"]),
            f"{manifest['samples']:,} samples, {manifest['different']:,} different; kept by {tiers or 'nothing'}; "
            f"not kept: {dropped or 'none'}",
        ]
        if not manifest["samples"] and manifest["dropped"].get("ungraded"):
            parts.append(
                "nothing is graded yet: kaiyuan curate grade, kaiyuan review, or critique = false in --settings"
            )
    if PAIRS in manifest["sources"]:
        parts.append(describe_pairs(manifest["preferences"]))
    return "\n\n".join(parts)


def diff(folder: Path, old: str, new: str) -> str:
    """What came, what went and why, from version ``old`` to ``new``."""
    before, after = (_times(folder, name) for name in (old, new))
    decisions = read_log(folder / DECISIONS, _manifest(folder, new)["log"]["decisions"])
    since = decisions[_manifest(folder, old)["log"]["decisions"] :]
    by_sample: defaultdict[str, list[Decision]] = defaultdict(list)
    for decision in since:
        by_sample[decision.sample].append(decision)
    lines = [f"{old} -> {new}: {sum(before.values()):,} -> {sum(after.values()):,} samples, {len(since):,} decisions"]
    for sign, names in (("-", sorted(set(before) - set(after))), ("+", sorted(set(after) - set(before)))):
        lines += [f"{sign} {name}  {_why(by_sample[name])}" for name in names]
    changed = sum(before[name] != after[name] for name in set(before) & set(after))
    return "\n".join([*lines, *([f"{changed:,} samples come more or less often"] if changed else [])])


def _why(decisions: Sequence[Decision]) -> str:
    if not decisions:
        return "other settings or candidates"
    return decisions[-1].summary


def _manifest(folder: Path, name: str) -> dict[str, Any]:
    path = folder / VERSIONS / name / MANIFEST
    if not path.exists():
        known = ", ".join(versions(folder)) or "none"
        raise DataError(f"{folder}: has no version {name!r}; there are {known}")
    return dict(read_json(path))


def versions(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in (folder / VERSIONS).glob(f"*/{MANIFEST}"))


def _times(folder: Path, name: str) -> Counter[str]:
    _manifest(folder, name)
    files = (folder / VERSIONS / name / file for file in (SFT, PAIRS))
    return Counter(row["hash"] for path in files if path.exists() for row in read_jsonl(path))

"""A mixture that changes in the course of a run: steps, caps on epochs, and a record of what was used when."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from kaiyuan.corpus.mixture import MixturePhase, stream_shares
from kaiyuan.errors import ConfigError
from kaiyuan.files import read_jsonl, write_jsonl
from kaiyuan.settings import read_toml

LOG = "mixture.jsonl"


def scheduled(
    sequences: int,
    anneal_start: int,
    mixture: Mapping[str, float],
    steps: Mapping[float, Mapping[str, float]],
    anneal: Mapping[str, float],
) -> list[MixturePhase]:
    """Phases of a run of ``sequences``: ``mixture`` from the start, ``steps`` (share of the sequences before annealing
    to the mixture from there on), and ``anneal`` (empty: no change) from ``anneal_start`` (paper 2.3.2)."""
    changes = [(0, mixture), *((round(share * anneal_start), weights) for share, weights in sorted(steps.items()))]
    if anneal:
        changes.append((anneal_start, anneal))
    ends = [start for start, _ in changes[1:]] + [sequences]
    return [MixturePhase(end, weights) for (start, weights), end in zip(changes, ends, strict=True) if end > start]


def within_epochs(
    phases: Sequence[MixturePhase],
    windows: Mapping[str, Fraction],
    caps: Mapping[str, float],
    long_labels: Collection[str] = (),
) -> list[MixturePhase]:
    """The same phases, but a label stops where it has been seen ``caps[label]`` times; its share goes to the others of
    the phase in proportion to their weights.

    ``windows`` says how many sequences one epoch of each label is. Each phase that comes out gives a label its share
    to within one sequence. A ``ConfigError`` says where nothing is left.
    """
    if unknown := sorted(set(caps) - set(windows)):
        raise ConfigError(f"max_epochs: no shards for {', '.join(unknown)}; there are {', '.join(sorted(windows))}")
    left = {label: Fraction(str(cap)) * windows[label] for label, cap in caps.items()}
    found: list[MixturePhase] = []
    start = 0
    for phase in phases:
        while start < phase.until:
            weights = {
                label: weight for label, weight in phase.weights.items() if weight > 0 and left.get(label, 1) >= 1
            }
            if not weights:
                raise ConfigError(
                    f"the mixture asks for more than max_epochs allow: from sequence {start:,} on nothing is left of "
                    f"{', '.join(sorted(phase.weights))}; raise max_epochs, train on less, or add text"
                )
            part = replace(phase, weights=weights)
            shares: dict[str, Fraction] = {}
            for stream, share in stream_shares(part, long_labels).items():
                shares[stream.label] = shares.get(stream.label, Fraction(0)) + share
            room = [left[label] / share for label, share in shares.items() if label in left]
            end = min([phase.until, *(start + max(1, int(places)) for places in room)])
            for label in shares.keys() & left.keys():
                left[label] -= shares[label] * (end - start)
            found.append(replace(part, until=end))
            start = end
    return found


def follow(path: Path, position: int, phases: Sequence[MixturePhase], record: bool = True) -> list[MixturePhase]:
    """The phases of a run that goes on at sequence ``position`` and is to follow ``phases`` from there.

    ``path`` (JSON Lines) records every plan with the position from which it held. What lies before ``position``
    stays as it was recorded, whatever ``phases`` say of it; a plan that is the same from there on adds no record.
    Of several processes one alone is to ``record``; all of them get the same phases, before it or after.
    """
    plans = (
        [(row["at"], [_phase(entry) for entry in row["phases"]]) for row in read_jsonl(path)] if path.exists() else []
    )
    if not plans:
        if record:
            write_jsonl(path, [_plan(0, phases)])
        return list(phases)
    before = plans[-1][1]
    past = _until(before, position)
    merged = past + [phase for phase in phases if phase.until > position]
    if merged[len(past) :] == [phase for phase in before if phase.until > position]:
        return before
    if record:
        write_jsonl(path, [*(_plan(at, plan) for at, plan in plans), _plan(position, merged)])
    return merged


def read_mixture(path: Path) -> dict[str, float]:
    """The weights in a TOML file of label = weight."""
    values = read_toml(path)
    wrong = [key for key, value in values.items() if isinstance(value, bool) or not isinstance(value, int | float)]
    if wrong:
        raise ConfigError(f"{path}: {wrong[0]}: expected a number, the weight of this label")
    return {label: float(weight) for label, weight in values.items()}


def used(phases: Sequence[MixturePhase], position: int) -> list[dict[str, Any]]:
    """What was used when: first and last sequence with the proportions, up to ``position``."""
    rows, start = [], 0
    for phase in _until(phases, position):
        total = sum(phase.weights.values())
        shares = {label: weight / total for label, weight in sorted(phase.weights.items()) if weight}
        rows.append({"from": start, "until": phase.until, "shares": shares})
        start = phase.until
    return rows


def _until(phases: Sequence[MixturePhase], position: int) -> list[MixturePhase]:
    """The phases before ``position``, the last one cut off there."""
    found, start = [], 0
    for phase in phases:
        if start < position:
            found.append(replace(phase, until=min(phase.until, position)))
        start = phase.until
    return found


def _plan(at: int, phases: Sequence[MixturePhase]) -> dict[str, Any]:
    rows = [[phase.until, dict(phase.weights), phase.long_documents] for phase in phases]
    return {"at": at, "phases": rows}


def _phase(entry: list[Any]) -> MixturePhase:
    return MixturePhase(entry[0], entry[1], entry[2])

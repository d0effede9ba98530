"""What pre-training took of the corpus: tokens and epochs of each label, and its share from phase to phase."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from kaiyuan.report.html import Markup, table
from kaiyuan.report.numbers import decimal, percent, quantity
from kaiyuan.report.sections.layout import section

Data = dict[str, Any]


def mixture_part(phases: list[Data], sequence_length: int, tokens: Data, generated: Collection[str]) -> Markup:
    """``phases`` as pretrain/mixture.json has them, ``tokens`` of each label that there are; ``generated`` labels are
    synthetic text."""
    labels = sorted({label for phase in phases for label in phase["shares"]} | set(tokens))
    rows = [_row(label, phases, sequence_length, tokens, generated) for label in labels]
    rows.sort(key=lambda row: -row[0])
    sizes = [(phase["until"] - phase["from"]) * sequence_length for phase in phases]
    head = ["Label", "origin", "tokens", "epochs", *(f"{quantity(size)} tokens" for size in sizes)]
    lead = (
        "What was trained on, with each label's share from phase to phase; pretrain/mixture.jsonl keeps every plan "
        "with the place from which it held."
    )
    return section("mixture", "Mixture", lead, table(head, [row[1] for row in rows], "Pre-training", "figures labels"))


def _row(
    label: str, phases: list[Data], length: int, tokens: Data, generated: Collection[str]
) -> tuple[float, list[str]]:
    shares = [phase["shares"].get(label, 0.0) for phase in phases]
    used = sum(share * (phase["until"] - phase["from"]) * length for share, phase in zip(shares, phases, strict=True))
    there = tokens.get(label, {}).get("tokens", 0)
    epochs = decimal(used / there) if there else ""
    origin = "synthetic" if label in generated else "natural"
    return used, [label, origin, quantity(used), epochs, *(percent(share, 1) if share else "" for share in shares)]

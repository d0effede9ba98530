"""What is in a finished corpus, counted in one pass: for its report and its data card."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from kaiyuan.corpus.pipeline import HELD_OUT, REJECTED, TRAIN
from kaiyuan.corpus.scores.apply import SCORES
from kaiyuan.corpus.scores.scorer import BINARY
from kaiyuan.files import read_jsonl

EXAMPLES = 3
"""Rejected documents of each kind that are shown."""
STEPS = 20
"""Bins of a score."""


def survey(folder: Path) -> dict[str, Any]:
    """Counts of train.jsonl, heldout.jsonl, generated.jsonl and rejected.jsonl in ``folder``, ready for JSON.

    ``groups``: documents and UTF-8 bytes by split, source, language, label, category, licence and origin;
    ``lengths``: by language documents by the power of two of their characters; ``scores``: by dimension and language
    documents in twentieths; ``rejected``: examples by reason.
    """
    groups: Counter[tuple[str, ...]] = Counter()
    sizes: Counter[tuple[str, ...]] = Counter()
    lengths: dict[str, Counter[int]] = defaultdict(Counter)
    scores: dict[str, dict[str, list[int]]] = {}
    for split, name in (("train", TRAIN), ("heldout", HELD_OUT), ("generated", "generated.jsonl")):
        for row in read_jsonl(folder / name) if (folder / name).exists() else ():
            extra = row.get("extra", {})
            found = extra.get(SCORES, {})
            key = (
                split,
                row["source"],
                row["language"],
                row["label"],
                found.get("category", ""),
                row.get("licence", ""),
                "synthetic" if split == "generated" or extra.get("synthetic") else "natural",
            )
            groups[key] += 1
            sizes[key] += len(row["text"].encode("utf-8", "surrogatepass"))
            lengths[row["language"]][max(0, len(row["text"]).bit_length() - 1)] += 1
            for dimension in BINARY:
                if dimension in found:
                    bins = scores.setdefault(dimension, {}).setdefault(row["language"], [0] * STEPS)
                    bins[min(STEPS - 1, int(found[dimension] * STEPS))] += 1
    names = ("split", "source", "language", "label", "category", "licence", "origin")
    return {
        "groups": [
            {**dict(zip(names, key, strict=True)), "documents": groups[key], "bytes": sizes[key]}
            for key in sorted(groups)
        ],
        "lengths": {name: {str(bits): counts[bits] for bits in sorted(counts)} for name, counts in lengths.items()},
        "scores": scores,
        "rejected": _examples(folder / REJECTED),
    }


def _examples(path: Path) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for row in read_jsonl(path) if path.exists() else ():
        kind, _, detail = row["reason"].partition(": ")
        mine = found.setdefault(kind, [])
        if len(mine) < EXAMPLES:
            mine.append({"detail": detail, "source": row["source"], "place": row.get("place", ""),
                         "language": row["language"], "sample": row["sample"]})  # fmt: skip
    return found

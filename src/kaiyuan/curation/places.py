"""The files of a folder of curation."""

from __future__ import annotations

CANDIDATES, DECISIONS, VERSIONS, SFT, MANIFEST = (
    "candidates.jsonl", "decisions.jsonl", "versions", "sft.jsonl", "manifest.json"
)  # fmt: skip
PAIRS = "pairs.jsonl"
"""Preference pairs: of the folder, and of a version."""
JOURNAL = "journal.jsonl"
"""All answers of models that were paid for."""

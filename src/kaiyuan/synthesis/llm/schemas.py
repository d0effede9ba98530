"""JSON schemas of the answers that are read by programs, for servers that can hold a model to one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kaiyuan.synthesis.llm.rows import KINDS

_TEXT = {"type": "string"}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


INSTRUCTIONS = _object(instructions={"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 8})
INSTRUCTION = _object(instruction=_TEXT)
TESTS = _object(tests={"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 12})


def label(topics: Iterable[str]) -> dict[str, Any]:
    return _object(
        topic={"enum": list(topics)},
        kind={"enum": list(KINDS)},
        difficulty={"type": "integer", "enum": [1, 2, 3, 4, 5]},
        answerable={"type": "boolean"},
        reason=_TEXT,
    )


_SCORE = {"type": "integer", "enum": [1, 2, 3, 4]}


def critique(criteria: Iterable[str]) -> dict[str, Any]:
    return _object(
        scores=_object(**dict.fromkeys(criteria, _SCORE)), verdict={"enum": ["accept", "refuse"]}, reason=_TEXT
    )


def labels(grades: Iterable[str], highest: int, categories: Iterable[str]) -> dict[str, Any]:
    """Grades from 0 to ``highest`` and a category, for documents of a corpus."""
    grade = {"type": "integer", "enum": list(range(highest + 1))}
    return _object(**dict.fromkeys(grades, grade), category={"enum": list(categories)})


def grade(criteria: Iterable[str]) -> dict[str, Any]:
    return _object(scores=_object(**dict.fromkeys(criteria, _SCORE)), tier=_SCORE, reason=_TEXT)

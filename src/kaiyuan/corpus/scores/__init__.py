"""Scores and labels of documents: writing quality, educational value, toxicity, and a category of two levels.

    from kaiyuan.corpus.scores import load_scorer
    load_scorer("runs/scorer").score(["some text"])  ->  [{"quality": 0.93, ..., "category": "reference/geography"}]

``encoders`` turn texts into features, ``linear`` fits a convex model to labels, ``calibration`` makes its margins
probabilities, ``training`` measures it on documents it has not seen, ``judge`` gets labels from a language model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kaiyuan.corpus.scores.scorer import LinearScorer, Scorer, load_scorer

__all__ = ["LinearScorer", "Scorer", "load_scorer"]


def __getattr__(name: str) -> Any:
    """Recipes read ``config`` alone, and must not wait for torch."""
    if name in __all__:
        from kaiyuan.corpus.scores import scorer

        return getattr(scorer, name)
    raise AttributeError(f"module 'kaiyuan.corpus.scores' has no attribute {name!r}")

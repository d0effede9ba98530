"""Scores and labels of documents: writing quality, educational value, toxicity, and a category of two levels.

    from kaiyuan.corpus.scores import load_scorer
    load_scorer("runs/scorer").score(["some text"])  ->  [{"quality": 0.93, ..., "category": "reference/geography"}]

``encoders`` turn texts into features, ``linear`` fits a convex model to labels, ``calibration`` makes its margins
probabilities, ``training`` measures it on documents it has not seen, ``judge`` gets labels from a language model.
"""

from kaiyuan.corpus.scores.scorer import LinearScorer, Scorer, load_scorer

__all__ = ["LinearScorer", "Scorer", "load_scorer"]

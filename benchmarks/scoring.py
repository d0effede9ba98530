"""Documents a second of scoring, beside scikit-learn's HashingVectorizer with SGDClassifier on the same labelled set.

    python benchmarks/scoring.py

Both tell good text from spoilt text of the demo set (kaiyuan.corpus.scores.demo_set), trained on the same texts and
measured on the same others. The peer sees runs of one and two words or Han characters, by its own analyser. Rounds
alternate; figures are medians.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import roc_auc_score

from kaiyuan.corpus.scores.config import ScorerSettings
from kaiyuan.corpus.scores.demo_set import demo_labels
from kaiyuan.corpus.scores.encoders import NgramEncoder
from kaiyuan.corpus.scores.labels import POSITIVE, Labelled, unique
from kaiyuan.corpus.scores.training import CALIBRATE, FIT, train
from kaiyuan.corpus.units import HAN

ROUNDS = 5
BITS = 18


def main() -> None:
    torch.set_num_threads(1)
    rows = unique(demo_labels())
    fit = [row for row in rows if row.part < FIT]
    test = [row for row in rows if row.part >= CALIBRATE]
    texts, labels = [row.text for row in test], _labels(test)
    size = sum(len(text.encode()) for text in texts)
    print(f"{len(fit)} texts to fit, {len(test)} to measure ({size / 1e6:.2f} MB); one thread")
    settings = ScorerSettings(bits=BITS, dimensions=["quality"])
    scorer = train(rows, NgramEncoder(BITS), settings)
    vectorizer, peer = _peer(fit)

    def ours() -> np.ndarray:
        return np.array([row["quality"] for row in scorer.score(texts)])

    def theirs() -> np.ndarray:
        return peer.predict_proba(vectorizer.transform(texts))[:, 1]

    names = ("kaiyuan", "scikit-learn")
    times = _rounds(dict(zip(names, (ours, theirs), strict=True)))
    for name, score in zip(names, (ours, theirs), strict=True):
        seconds = statistics.median(times[name])
        print(
            f"{name:13} {len(texts) / seconds:8,.0f} documents/s  {size / 1e6 / seconds:6.2f} MB/s  "
            f"AUC {roc_auc_score(labels, score()):.4f}"
        )
    ratios = [theirs / ours for ours, theirs in zip(times["kaiyuan"], times["scikit-learn"], strict=True)]
    print(f"kaiyuan is {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})")


def _labels(rows: Sequence[Labelled]) -> np.ndarray:
    return np.array([row.grades["quality"] >= POSITIVE for row in rows])


def _peer(rows: Sequence[Labelled]) -> tuple[HashingVectorizer, SGDClassifier]:
    token = re.compile(f"[{HAN}]|\\w+")
    vectorizer = HashingVectorizer(n_features=2**BITS, ngram_range=(1, 2), token_pattern=None, tokenizer=token.findall)
    model = SGDClassifier(loss="log_loss", alpha=1e-5, random_state=0, max_iter=50)
    return vectorizer, model.fit(vectorizer.transform([row.text for row in rows]), _labels(rows))


def _rounds(runs: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    main()

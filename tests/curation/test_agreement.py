"""Agreement against libraries and the examples that their authors published."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan.curation.agreement import cohen_kappa, krippendorff_alpha, precision_recall

VERDICTS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


def test_kappa_of_the_textbook_table() -> None:
    """Of 50 proposals both accept 20 and refuse 15; one alone accepts 5, the other 10: kappa is 0.4."""
    pairs = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    assert cohen_kappa([a for a, _ in pairs], [b for _, b in pairs]) == pytest.approx(0.4)


@settings(deadline=None)
@given(VERDICTS)
def test_kappa_is_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    ours = cohen_kappa(first, second)
    if len(set(first) | set(second)) == 1:
        assert math.isnan(ours)
    else:
        assert ours == pytest.approx(metrics.cohen_kappa_score(first, second), abs=1e-12)


# Four observers, twelve units, missing values: the example of Krippendorff's "Computing Krippendorff's
# alpha-reliability" (2011), with the values that it states.
DATA = [
    [1, 1, None, 1], [2, 2, 3, 2], [3, 3, 3, 3], [3, 3, 3, 3], [2, 2, 2, 2], [1, 2, 3, 4], [4, 4, 4, 4], [1, 1, 2, 1],
    [2, 2, 2, 2], [None, 5, 5, 5], [None, None, 1, 1], [None, 3, None, None],
]  # fmt: skip


@pytest.mark.parametrize(("level", "value"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_the_published_example(level: str, value: float) -> None:
    units = [[verdict for verdict in unit if verdict is not None] for unit in DATA]
    assert krippendorff_alpha(units, level) == pytest.approx(value, abs=5e-4)  # type: ignore[arg-type]


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from([None, 1, 2, 3, 4]), min_size=3, max_size=3), min_size=2, max_size=15))
def test_alpha_is_that_of_the_library(data: list[list[int | None]]) -> None:
    library = pytest.importorskip("krippendorff")
    numpy = pytest.importorskip("numpy")
    units = [[verdict for verdict in unit if verdict is not None] for unit in data]
    values = {verdict for unit in units if len(unit) > 1 for verdict in unit}
    table = numpy.array([[numpy.nan if v is None else v for v in unit] for unit in data], dtype=float).T
    for level in ("nominal", "ordinal", "interval"):
        ours = krippendorff_alpha(units, level)  # type: ignore[arg-type]
        if len(values) < 2:
            assert math.isnan(ours)
        else:
            assert ours == pytest.approx(library.alpha(table, level_of_measurement=level), abs=1e-9)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_precision_and_recall_are_those_of_scikit_learn(rows: list[tuple[bool, bool]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    ours = precision_recall((said, true, 1.0) for said, true in rows)
    said, true = [row[0] for row in rows], [row[1] for row in rows]
    if any(said):
        assert ours["precision"]["share"] == pytest.approx(metrics.precision_score(true, said))
    if any(true):
        assert ours["recall"]["share"] == pytest.approx(metrics.recall_score(true, said))


def test_weights_undo_uneven_sampling() -> None:
    """A stratum reviewed at one in ten stands for ten times as many as one reviewed whole."""
    rows = [(True, True, 10.0)] * 8 + [(True, False, 10.0)] * 2 + [(False, True, 1.0)] * 20
    found = precision_recall(rows)
    assert found["precision"]["share"] == pytest.approx(0.8)
    assert found["recall"]["share"] == pytest.approx(80 / 100)

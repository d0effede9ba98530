"""The parametric loss: constants come back, the optimum is the lowest point, the fit is as good as scipy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan.errors import DataError
from kaiyuan.scaling.law import PAPER_COST, TrainingCost
from kaiyuan.scaling.parametric import ParametricLaw, fit_parametric, rms_error
from kaiyuan.scaling.runs import TrainingRun
from kaiyuan.scaling.synthetic import synthetic_runs

close = pytest.approx
CHINCHILLA = ParametricLaw(1.69, 406.4, 0.34, 410.7, 0.28)


def runs_of(law: ParametricLaw, noise: float = 0.0, seed: int = 0) -> list[TrainingRun]:
    generator = np.random.default_rng(seed)
    places = [(run.active_parameters, run.tokens, run.flops) for run in synthetic_runs(noise=0)]
    return [
        TrainingRun(size, tokens, law.loss(size, tokens) * math.exp(noise * generator.standard_normal()), flops)
        for size, tokens, flops in places
    ]


@settings(max_examples=5, deadline=None)
@given(
    irreducible=st.floats(1.2, 2.2),
    size_exponent=st.floats(0.25, 0.5),
    data_exponent=st.floats(0.25, 0.5),
    size_share=st.floats(0.2, 0.8),
    data_share=st.floats(0.2, 0.8),
)
def test_planted_constants_come_back(
    irreducible: float, size_exponent: float, data_exponent: float, size_share: float, data_share: float
) -> None:
    """The shares are what the terms of size and data contribute, in nats, at 100M parameters and 20B tokens."""
    law = ParametricLaw(
        irreducible, size_share * 1e8**size_exponent, size_exponent, data_share * 2e10**data_exponent, data_exponent
    )
    found = fit_parametric(runs_of(law))
    assert found.irreducible == close(law.irreducible, abs=2e-3)
    assert found.size_exponent == close(law.size_exponent, abs=3e-3)
    assert found.data_exponent == close(law.data_exponent, abs=3e-3)
    assert found.size_scale / 1e8**found.size_exponent == close(size_share, abs=2e-3)
    assert found.data_scale / 2e10**found.data_exponent == close(data_share, abs=2e-3)


def test_chinchilla_s_constants_come_back_through_noise() -> None:
    found = fit_parametric(runs_of(CHINCHILLA, noise=0.001))
    assert found.irreducible == close(1.69, abs=0.06)
    assert (found.size_exponent, found.data_exponent) == (close(0.34, abs=0.02), close(0.28, abs=0.02))
    assert found.loss(7e10, 1.4e12) == close(CHINCHILLA.loss(7e10, 1.4e12), abs=0.04)
    assert rms_error(found, runs_of(CHINCHILLA, noise=0.001)) == close(0.0027, abs=0.0005)


def test_a_few_wild_runs_do_not_bend_the_law() -> None:
    runs = runs_of(CHINCHILLA)
    for number in (4, 30, 50):
        wild = runs[number]
        runs[number] = TrainingRun(wild.active_parameters, wild.tokens, 1.3 * wild.loss, wild.flops)
    found = fit_parametric(runs)
    assert (found.size_exponent, found.data_exponent) == (close(0.34, abs=0.005), close(0.28, abs=0.005))


def test_the_fit_is_no_worse_than_scipy_s() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    special = pytest.importorskip("scipy.special")
    runs = runs_of(CHINCHILLA, noise=0.003, seed=7)
    log_n, log_d, log_loss = (np.log([getattr(run, name) for run in runs])
                              for name in ("active_parameters", "tokens", "loss"))  # fmt: skip

    def objective(point: np.ndarray) -> float:
        log_e, log_a, log_b, a, b = point
        terms = np.stack([np.full_like(log_n, log_e), log_a - a * log_n, log_b - b * log_d])
        return float(special.huber(1e-3, special.logsumexp(terms, axis=0) - log_loss).sum())

    starts = [(e, a, b, x, y) for e in (-0.5, 0.5) for a in (5, 10) for b in (5, 10) for x in (0.3, 0.6)
              for y in (0.3, 0.6)]  # fmt: skip
    theirs = min(optimize.minimize(objective, start, method="L-BFGS-B").fun for start in starts)
    found = fit_parametric(runs)
    ours = objective(np.array([math.log(found.irreducible), math.log(found.size_scale), math.log(found.data_scale),
                               found.size_exponent, found.data_exponent]))  # fmt: skip
    assert ours <= theirs * 1.0001


@settings(deadline=None)
@given(st.floats(1e18, 1e26), st.floats(0.2, 0.6), st.floats(0.2, 0.6), st.sampled_from([0.0, 2.3e8, 1e10]))
def test_the_optimum_is_the_lowest_of_all_sizes(flops: float, a: float, b: float, per_token: float) -> None:
    law, cost = ParametricLaw(1.7, 300.0, a, 500.0, b), TrainingCost(9.59, per_token)
    best = law.optimum(flops, cost)
    assert cost.flops(best.active_parameters, best.tokens) == close(flops)
    lowest = law.loss(best.active_parameters, best.tokens)
    for factor in (0.3, 0.9, 0.99, 1.01, 1.1, 3.0):
        size = factor * best.active_parameters
        assert lowest < law.loss(size, cost.tokens(flops, size))


def test_the_optimum_is_the_closed_form_where_there_is_one() -> None:
    """Hoffmann et al., equation 4: N = G (C / 6) ** (b / (a + b)), G = (a A / (b B)) ** (1 / (a + b))."""
    best = CHINCHILLA.optimum(5.76e23, TrainingCost(6.0, 0.0))
    g = (0.34 * 406.4 / (0.28 * 410.7)) ** (1 / 0.62)
    assert best.active_parameters == close(g * (5.76e23 / 6) ** (0.28 / 0.62))
    assert best.tokens == close((5.76e23 / 6) ** (0.34 / 0.62) / g)


def test_too_few_runs() -> None:
    runs = runs_of(CHINCHILLA)
    with pytest.raises(DataError, match="there are 5 with 5 and 5"):
        fit_parametric(runs[:5])
    same = [TrainingRun(1e8, run.tokens, run.loss, run.flops) for run in runs]
    with pytest.raises(DataError, match="with 1 and"):
        fit_parametric(same)


def test_a_loss_that_grows_with_size_fits_no_law() -> None:
    runs = [TrainingRun(size, tokens, 2 + 0.3 * math.log10(size), PAPER_COST.flops(size, tokens))
            for size in (1e7, 1e8, 1e9) for tokens in (1e9, 1e10, 1e11)]  # fmt: skip
    with pytest.raises(DataError, match="no parametric law fits"):
        fit_parametric(runs)

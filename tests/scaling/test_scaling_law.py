"""The paper's formulas, against the numbers that the paper and its sources print."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaiyuan.model.config import ModelConfig
from kaiyuan.scaling.law import (
    PAPER_BUDGETS,
    PAPER_COST,
    PAPER_LAW,
    PowerLaw,
    TrainingCost,
    compute_at_batch,
    critical_batch,
    exact_flops,
    minimum_compute,
)
from kaiyuan.scaling.sweep import LADDER

close = pytest.approx
sizes = st.floats(1e6, 1e12)
tokens = st.floats(1e8, 1e14)
budgets = st.floats(1e17, 1e27)


def test_the_paper_s_optimum_holds_together() -> None:
    """58.1B is the size the paper prints; its two power laws and its cost give the same budget and data from it."""
    best = PAPER_LAW.optimum_for_parameters(58.1e9)
    assert best.flops == close(3.11e24, rel=2e-3)
    assert best.tokens == close(5.64e12, rel=2e-3)
    assert PAPER_LAW.optimum(best.flops).active_parameters == close(58.1e9)
    assert PAPER_COST.flops(58.1e9, best.tokens) == close(best.flops, rel=0.02)


def test_what_hunyuan_large_costs() -> None:
    assert PAPER_COST.flops(52e9, 7e12) == close(3.49e24, rel=1e-3)
    assert PAPER_COST.flops(52e9, 7e12) / PAPER_LAW.optimum_for_parameters(58.1e9).flops == close(1.12, abs=0.01)


def test_the_lowest_budget_s_best_model() -> None:
    best = PAPER_LAW.optimum(5e18)
    assert best.active_parameters == close(49e6, rel=0.01)
    assert best.tokens == close(7.2e9, rel=0.01)
    assert PAPER_COST.flops(49e6, 7.2e9) == close(5.01e18, rel=0.01)


def test_nine_budgets() -> None:
    assert len(PAPER_BUDGETS) == 9
    assert (PAPER_BUDGETS[0], PAPER_BUDGETS[-1]) == (5.0e18, close(9.5e19))
    assert np.diff(np.log(PAPER_BUDGETS)) == close(np.log(19) / 8)


@given(sizes, tokens)
def test_cost_inverts(size: float, amount: float) -> None:
    flops = PAPER_COST.flops(size, amount)
    assert PAPER_COST.tokens(flops, size) == close(amount)
    assert PAPER_COST.active_parameters(flops, amount) == close(size, rel=1e-6)


def test_tokens_can_cost_more_than_the_budget() -> None:
    with pytest.raises(ValueError, match="whatever the model"):
        PAPER_COST.active_parameters(1e18, 1e12)


@given(budgets)
def test_optima_invert(flops: float) -> None:
    best = PAPER_LAW.optimum(flops)
    assert PAPER_LAW.optimum_for_parameters(best.active_parameters).flops == close(flops)
    assert PAPER_LAW.optimum_for_tokens(best.tokens).flops == close(flops)
    assert PAPER_LAW.optimum_for_tokens(best.tokens).active_parameters == close(best.active_parameters)


@given(st.floats(1e-6, 1e3), st.floats(0.05, 3), st.floats(1, 1e20))
def test_power_laws_invert(coefficient: float, exponent: float, x: float) -> None:
    law = PowerLaw(coefficient, exponent)
    assert law.inverse(law(x)) == close(x, rel=1e-6)


@given(budgets, st.floats(0, 100))
def test_minimum_compute_inverts(flops: float, ratio: float) -> None:
    assert compute_at_batch(minimum_compute(flops, ratio), ratio) == close(flops)
    assert minimum_compute(flops, ratio) <= flops


def test_at_the_critical_batch_half_the_compute_is_wasted() -> None:
    assert minimum_compute(6e20, 1.0) == 3e20
    assert minimum_compute(6e20, 0.0) == 6e20


def test_the_critical_batch_doubles_when_the_loss_falls_by_an_eighth() -> None:
    """Kaplan et al. say: doubles for every 13% decrease in loss; and about 2e8 tokens at a loss of 1."""
    assert critical_batch(3.0 * 0.87) / critical_batch(3.0) == close(2, rel=0.05)
    assert critical_batch(1.0) == 2e8


def test_the_paper_s_form_is_a_line_through_models_counted_without_their_embedding() -> None:
    """The numbers of law.py and docs/scaling.md."""
    configs = [ModelConfig.preset(name) for name in LADDER]
    exact = np.array([config.flops(4096).training for config in configs])
    without = np.array([config.parameters().active_without_embedding for config in configs])
    whole = np.array([config.parameters().active for config in configs])
    terms = np.stack([without / exact, 1 / exact], axis=1)
    slope, constant = np.linalg.lstsq(terms, np.ones(len(exact)), rcond=None)[0]
    assert (slope, constant) == (close(8.88, abs=0.05), close(2.47e8, rel=0.02))
    ratios = [(9.59 * count + 2.3e8) / exact for count in (without, whole)]
    assert (ratios[0].min(), ratios[0].max()) == (close(0.884, abs=0.01), close(1.214, abs=0.01))
    assert (ratios[1].min(), ratios[1].max()) == (close(1.448, abs=0.01), close(2.084, abs=0.01))


def test_exact_flops_are_six_a_parameter_and_attention() -> None:
    config = ModelConfig.preset("hunyuan-large")
    count = config.parameters()
    weights = count.active - count.norms
    attention = 3 * 2 * 2 * 64 * 80 * 80 * (4096 + 1) / 2
    assert exact_flops(config, 1e12, 4096) == close((6 * weights + attention) * 1e12, rel=1e-9)
    paper = TrainingCost().flops(count.active_without_embedding, 1e12)
    assert paper / exact_flops(config, 1e12, 4096) == close(1.52, abs=0.01)

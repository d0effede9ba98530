"""The paper's MoE scaling law (section 2.3.1) and the cost of training it counts with.

N is the number of activated parameters, D the number of training tokens, C the training compute in FLOPs. All
constants are the paper's and may be replaced by fitted ones (``isoflop.py``).

The paper does not say whether N counts the embedding. We leave it out: at 4,096 tokens of context the exact counts of
our ladder from 10M to 1B parameters fit ``8.9 N + 2.5e8`` FLOPs a token with N *without* the embedding, near the
paper's ``9.59 N + 2.3e8``, whose constant is then the output head; with the embedding in N the paper's form is 1.4 to
2.1 times the exact count of every rung (docs/scaling.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kaiyuan.model.config import ModelConfig


@dataclass(frozen=True)
class TrainingCost:
    """Compute of a training run, ``C = (per_parameter * N + per_token) * D`` FLOPs (paper 2.3.1)."""

    per_parameter: float = 9.59
    per_token: float = 2.3e8

    def flops_per_token(self, active_parameters: float) -> float:
        return self.per_parameter * active_parameters + self.per_token

    def flops(self, active_parameters: float, tokens: float) -> float:
        """C of N and D."""
        return self.flops_per_token(active_parameters) * tokens

    def tokens(self, flops: float, active_parameters: float) -> float:
        """D of C and N: how long a model may be trained for a budget."""
        return flops / self.flops_per_token(active_parameters)

    def active_parameters(self, flops: float, tokens: float) -> float:
        """N of C and D; ``ValueError`` if the tokens alone cost more than the budget."""
        per_token = flops / tokens - self.per_token
        if per_token <= 0:
            raise ValueError(f"{tokens:.3g} tokens cost more than {flops:.3g} FLOPs whatever the model")
        return per_token / self.per_parameter


@dataclass(frozen=True)
class PowerLaw:
    """``y = coefficient * x ** exponent``."""

    coefficient: float
    exponent: float

    def __call__(self, x: float) -> float:
        return self.coefficient * x**self.exponent

    def inverse(self, y: float) -> float:
        """The x at which the law gives y."""
        return (y / self.coefficient) ** (1 / self.exponent)


@dataclass(frozen=True)
class Optimum:
    """The model and the amount of data that give the lowest loss for a budget."""

    flops: float
    """C_min, the budget at a batch far below the critical one."""
    active_parameters: float
    tokens: float


@dataclass(frozen=True)
class ScalingLaw:
    """``N_opt = N_c * C_min ** alpha`` and ``D_opt = D_c * C_min ** beta`` (paper 2.3.1, figures 3 and 4)."""

    parameters: PowerLaw = PowerLaw(5.9e-3, 0.5305)
    tokens: PowerLaw = PowerLaw(3.2, 0.50)

    def optimum(self, flops: float) -> Optimum:
        """The best N and D for ``flops`` (C_min)."""
        return Optimum(flops, self.parameters(flops), self.tokens(flops))

    def optimum_for_parameters(self, active_parameters: float) -> Optimum:
        """The budget, and its D, for which a model of this N is the best one."""
        return self.optimum(self.parameters.inverse(active_parameters))

    def optimum_for_tokens(self, tokens: float) -> Optimum:
        """The budget, and its N, for which this D is the best one."""
        return self.optimum(self.tokens.inverse(tokens))


PAPER_COST = TrainingCost()
PAPER_LAW = ScalingLaw()
PAPER_BUDGETS = tuple(5.0e18 * 19.0 ** (step / 8) for step in range(9))
"""Nine budgets from the paper's lowest to its highest, 5.0e18 to 9.5e19; the seven between are ours, evenly spaced in
the logarithm."""


def minimum_compute(flops: float, batch_over_critical: float) -> float:
    """``C_min = C / (1 + B / B_crit)``: what the run would have cost at a tiny batch (paper 2.3.1)."""
    return flops / (1 + batch_over_critical)


def compute_at_batch(minimum: float, batch_over_critical: float) -> float:
    """``C = C_min * (1 + B / B_crit)``, the inverse of ``minimum_compute``."""
    return minimum * (1 + batch_over_critical)


def critical_batch(loss: float, scale: float = 2e8, exponent: float = 0.21) -> float:
    """``B_crit(L) = scale / L ** (1 / exponent)`` in tokens, for a loss in nats per token.

    The paper gives no constants; the defaults are those of Kaplan et al. (arXiv 2001.08361), which it cites, for
    their data and tokenizer. Measure your own before relying on it.
    """
    return scale / loss ** (1 / exponent)


def exact_flops(config: ModelConfig, tokens: float, context: int) -> float:
    """Training FLOPs of this very model: every product it computes, counted by ``kaiyuan.model.flops.count_flops``.

    The paper's ``9.59 N D + 2.3e8 D`` is a line through small models. For large ones the exact count tends to ``6 N
    D`` plus attention, so the line overstates them: by half for Hunyuan-Large at 4,096 tokens. Use the exact count
    for time and money, the paper's form wherever its law is used.
    """
    return config.flops(context).training * tokens

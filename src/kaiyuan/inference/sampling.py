"""How the next token is chosen from logits.

Shapes: B sequences, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kaiyuan.errors import ConfigError, listing


@dataclass(frozen=True)
class SamplingParams:
    """What to generate. ``temperature=0`` is greedy; ``top_k=0`` and ``top_p=1`` do not restrict the choice."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    max_tokens: int = 64
    ignore_eos: bool = False
    """Go on after the end-of-answer token until ``max_tokens``."""
    seed: int | None = None
    """Makes the sample reproducible; without one it is drawn afresh."""
    stop_token_ids: tuple[int, ...] = ()
    """Ids that end the answer besides the tokenizer's end-of-answer and end-of-document; not part of the result."""
    n: int = 1
    """Completions for each prompt, next to each other in the result."""

    def __post_init__(self) -> None:
        problems = []
        if self.temperature != 0 and not 1e-6 <= self.temperature <= 100:
            problems.append(f"temperature: {self.temperature} is neither 0 nor between 1e-6 and 100")
        if self.top_k < 0:
            problems.append(f"top_k: {self.top_k} is negative")
        if not 0 < self.top_p <= 1:
            problems.append(f"top_p: {self.top_p} is not in (0, 1]")
        if self.max_tokens < 1:
            problems.append(f"max_tokens: {self.max_tokens} is under 1")
        if self.n < 1:
            problems.append(f"n: {self.n} is under 1")
        if problems:
            raise ConfigError(listing("the sampling parameters cannot be used", problems))


def restricted_probs(logits_BV: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Probabilities (B, V) after temperature, then top-k, then nucleus (top-p) restriction, renormalised."""
    logits_BV = logits_BV.float()
    logits_BV = (logits_BV - logits_BV.amax(-1, keepdim=True)) / temperature  # no overflow however low it is
    if 0 < top_k < logits_BV.shape[-1]:
        threshold_B1 = logits_BV.topk(top_k, dim=-1).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < threshold_B1, -torch.inf)
    probs_BV = logits_BV.softmax(-1)
    if top_p < 1:
        sorted_BV, order_BV = probs_BV.sort(dim=-1, descending=True, stable=True)
        beyond_BV = sorted_BV.cumsum(-1) - sorted_BV >= top_p
        probs_BV = torch.zeros_like(probs_BV).scatter(-1, order_BV, sorted_BV.masked_fill(beyond_BV, 0.0))
        probs_BV = probs_BV / probs_BV.sum(-1, keepdim=True)
    return probs_BV


def sample(logits_BV: Tensor, params: Sequence[SamplingParams], generators: Sequence[torch.Generator]) -> Tensor:
    """One token per sequence, int64 (B,), each by its own parameters and generator.

    A sequence uses one uniform number a token, so what it samples does not depend on its batch mates.
    """
    tokens_B = logits_BV.argmax(-1)
    groups: dict[tuple[float, int, float], list[int]] = {}
    for row, setting in enumerate(params):
        if setting.temperature > 0:
            groups.setdefault((setting.temperature, setting.top_k, setting.top_p), []).append(row)
    for (temperature, top_k, top_p), rows in groups.items():
        cumulative = restricted_probs(logits_BV[rows], temperature, top_k, top_p).double().cumsum(-1)
        uniform = torch.stack([torch.rand(1, dtype=torch.float64, generator=generators[row]) for row in rows])
        target = uniform.to(cumulative.device) * cumulative[:, -1:]
        tokens_B[rows] = (
            torch.searchsorted(cumulative, target, right=True).squeeze(1).clamp(max=logits_BV.shape[-1] - 1)
        )
    return tokens_B

"""How the next token is chosen from logits.

Shapes: B sequences, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as Many

import torch
from torch import Tensor

from kaiyuan.inference.params import SamplingParams
from kaiyuan.inference.sequence import Sequence


def restricted_probs(logits_BV: Tensor, temperature: float, top_k: int, top_p: float, min_p: float = 0.0) -> Tensor:
    """Probabilities (B, V) after temperature, then min-p, top-k and nucleus (top-p) restriction, renormalised."""
    logits_BV = logits_BV.float()
    logits_BV = (logits_BV - logits_BV.amax(-1, keepdim=True)) / temperature  # no overflow however low it is
    if min_p > 0:
        logits_BV = logits_BV.masked_fill(logits_BV.exp() < min_p, -torch.inf)
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


def sample(logits_BV: Tensor, params: Many[SamplingParams], generators: Many[torch.Generator]) -> Tensor:
    """One token per row, int64 (B,), each by its own parameters and generator.

    A row uses one uniform number, so what a sequence samples does not depend on its batch mates.
    """
    tokens_B = logits_BV.argmax(-1)
    groups: dict[tuple[float, int, float, float], list[int]] = {}
    for row, setting in enumerate(params):
        if not setting.greedy:
            key = (setting.temperature, setting.top_k, setting.top_p, setting.min_p)
            groups.setdefault(key, []).append(row)
    for key, rows in groups.items():
        cumulative = restricted_probs(logits_BV[rows], *key).double().cumsum(-1)
        uniform = torch.stack([torch.rand(1, dtype=torch.float64, generator=generators[row]) for row in rows])
        target = uniform.to(cumulative.device) * cumulative[:, -1:]
        tokens_B[rows] = (
            torch.searchsorted(cumulative, target, right=True).squeeze(1).clamp(max=logits_BV.shape[-1] - 1)
        )
    return tokens_B


def is_adjusted(sequence: Sequence) -> bool:
    """Whether the sequence's logits must be changed before sampling."""
    params = sequence.params
    return bool(
        sequence.matcher
        or params.logit_bias
        or params.repetition_penalty != 1
        or params.presence_penalty
        or params.frequency_penalty
        or len(sequence.tokens) - sequence.prompt_length < params.min_tokens
    )


def adjust(logits_V: Tensor, sequence: Sequence) -> Tensor:
    """A copy of float32 ``logits_V`` with grammar, bias, penalties and ``min_tokens`` of ``sequence`` applied."""
    params, logits_V = sequence.params, logits_V.clone()
    if params.logit_bias:
        ids = torch.tensor(list(params.logit_bias), device=logits_V.device)
        logits_V[ids] += torch.tensor(list(params.logit_bias.values()), device=logits_V.device, dtype=logits_V.dtype)
    if params.repetition_penalty != 1:
        ids = torch.tensor(sorted(set(sequence.tokens)), device=logits_V.device)
        found = logits_V[ids]
        logits_V[ids] = torch.where(found > 0, found / params.repetition_penalty, found * params.repetition_penalty)
    if params.presence_penalty or params.frequency_penalty:
        counts = Counter(sequence.answer)
        if counts:
            ids = torch.tensor(list(counts), device=logits_V.device)
            times = torch.tensor(list(counts.values()), device=logits_V.device, dtype=logits_V.dtype)
            logits_V[ids] -= params.presence_penalty + params.frequency_penalty * times
    if len(sequence.tokens) - sequence.prompt_length < params.min_tokens and sequence.stops:
        logits_V[torch.tensor(sorted(sequence.stops), device=logits_V.device)] = -torch.inf
    if sequence.matcher is not None:
        logits_V = logits_V.masked_fill(~sequence.matcher.allowed().to(logits_V.device), -torch.inf)
    return logits_V

"""Sampling for all rows at once, without asking the host: what ``sampling.sample`` does, in operations that a CUDA
graph can hold.

Shapes: N rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import NamedTuple

import torch
from torch import Tensor

from kaiyuan.inference.params import SamplingParams


class Draw(NamedTuple):
    """How each row is sampled, float32 (N,) each; a temperature of 0 means the most likely token."""

    temperature: Tensor
    top_k: Tensor
    """0 for all."""
    top_p: Tensor
    min_p: Tensor

    @classmethod
    def room(cls, rows: int, device: torch.device) -> Draw:
        return cls(*(torch.zeros(rows, device=device) for _ in cls._fields))

    def fill(self, params: Many[SamplingParams]) -> None:
        """Rows beyond ``params`` get the most likely token."""
        columns = [(one.temperature, one.top_k, one.top_p, one.min_p) for one in params]
        columns += [(0.0, 0, 1.0, 0.0)] * (len(self.temperature) - len(columns))
        for tensor, values in zip(self, zip(*columns, strict=True), strict=True):
            tensor.copy_(torch.tensor(values, dtype=torch.float32))


def is_restricted(params: SamplingParams) -> bool:
    """Whether some tokens are ruled out before sampling."""
    return not params.greedy and (params.top_k > 0 or params.top_p < 1 or params.min_p > 0)


def draw_tokens(logits_NV: Tensor, draw: Draw, uniform_N: Tensor, restricted: bool) -> tuple[Tensor, Tensor]:
    """Tokens, int64 (N,), and their log-probabilities before temperature and restriction, float32 (N,).

    ``uniform_N``: float64, one number in [0, 1) a row. Unless ``restricted`` only temperatures count.
    """
    warm_N = draw.temperature > 0
    scaled_NV = logits_NV - logits_NV.amax(-1, keepdim=True)
    scaled_NV = scaled_NV / torch.where(warm_N, draw.temperature, 1.0)[:, None]
    probs_NV = _restricted(scaled_NV, draw) if restricted else scaled_NV.softmax(-1)
    cumulative_NV = probs_NV.double().cumsum(-1)
    target_N1 = uniform_N[:, None] * cumulative_NV[:, -1:]
    drawn_N = torch.searchsorted(cumulative_NV, target_N1, right=True)[:, 0].clamp(max=logits_NV.shape[1] - 1)
    token_N = torch.where(warm_N, drawn_N, logits_NV.argmax(-1))
    return token_N, logits_NV.gather(1, token_N[:, None])[:, 0] - logits_NV.logsumexp(-1)


def _restricted(scaled_NV: Tensor, draw: Draw) -> Tensor:
    """Probabilities after min-p, top-k and top-p, as ``sampling.restricted_probs`` gives them for one setting."""
    scaled_NV = scaled_NV.masked_fill(scaled_NV.exp() < draw.min_p[:, None], -torch.inf)
    sorted_NV, order_NV = scaled_NV.sort(dim=-1, descending=True, stable=True)
    last_N = torch.where(draw.top_k > 0, draw.top_k, scaled_NV.shape[1]).long().clamp(max=scaled_NV.shape[1]) - 1
    threshold_N1 = sorted_NV.gather(1, last_N[:, None])
    sorted_NV = sorted_NV.masked_fill(sorted_NV < threshold_N1, -torch.inf)
    probs_NV = sorted_NV.softmax(-1)
    beyond_NV = probs_NV.cumsum(-1) - probs_NV >= torch.where(draw.top_p < 1, draw.top_p, torch.inf)[:, None]
    kept_NV = torch.zeros_like(probs_NV).scatter(-1, order_NV, probs_NV.masked_fill(beyond_NV, 0.0))
    return kept_NV / kept_NV.sum(-1, keepdim=True)

"""Positions, mask and cache of one forward pass, from transformers' arguments to those of our attention.

Shapes: B batch, T new tokens, S keys (cached ones and new ones).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache

from kaiyuan.model.attention import Context, Documents
from kaiyuan.model.rope import rope_frequencies, rope_tables
from kaiyuan.model.transformer import Transformer


class SharedCache:
    """transformers' cache as our attention wants one: entries of the producing layers only, under their indices.

    Keys are cached normalised, rotated and without gain, so that one entry serves all layers of a group.
    """

    def __init__(self, cache: Cache) -> None:
        self.cache = cache

    def extend(self, producer: int, k_BGTd: Tensor, v_BGTd: Tensor) -> tuple[Tensor, Tensor]:
        return self.cache.update(k_BGTd, v_BGTd, producer)


def make_context(
    transformer: Transformer,
    ids_BT: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    cache: Cache | None,
) -> Context:
    """What ``transformer``'s layers need to compute ``ids_BT`` after the tokens in ``cache``, which they extend."""
    length = ids_BT.shape[1]
    past, keys = (0, length) if cache is None else (int(cache.get_seq_length()), cache.get_mask_sizes(length, 0)[0])
    documents = None
    if attention_mask is None and past == 0 and keys == length:
        documents = _packed(position_ids)
    mask = _mask(attention_mask, length, past, keys, ids_BT.device)
    if position_ids is None:
        position_ids = _positions(attention_mask, length, past, ids_BT.device)
    cos, sin = rope_tables(position_ids, rope_frequencies(transformer.config, ids_BT.device))
    shared = None if cache is None else SharedCache(cache)
    dropout = transformer.mode.attention_dropout
    return Context(cos, sin, mask, cache=shared, dropout=dropout, documents=documents)


def _positions(attention_mask: Tensor | None, length: int, past: int, device: torch.device) -> Tensor:
    """int64 (B or 1, T): each new token's place among the tokens that are not padding."""
    if attention_mask is None or attention_mask.dim() != 2:
        return torch.arange(past, past + length, device=device)[None]
    return (attention_mask.long().cumsum(1) - 1).clamp(min=0)[:, past : past + length].to(device)


def _mask(given: Tensor | None, length: int, past: int, keys: int, device: torch.device) -> Tensor | None:
    """Boolean (B or 1, 1, T, S), true where a query may look; None where causal attention says it all."""
    if given is not None and given.dim() == 4:
        return _ready_mask(given, length, keys)
    if given is not None and (given.dim() != 2 or given.shape[1] != past + length):
        wanted = f"(batch, {past + length}): {past} cached and {length} new tokens"
        raise ValueError(f"attention_mask has shape {list(given.shape)}, needed is {wanted}")
    if given is not None and bool(given.all()):
        given = None
    if given is None and past == 0 and keys == length:
        return None
    place_T1 = torch.arange(past, past + length, device=device)[:, None]
    key_S = torch.arange(keys, device=device)
    mask_1TS = (key_S <= place_T1)[None]
    if given is not None:
        seen_BS = F.pad(given.to(device).bool(), (0, keys - given.shape[1]))
        # padding sees itself: a softmax over nothing is not a number, and would spread
        mask_1TS = (mask_1TS & seen_BS[:, None]) | (key_S == place_T1)
    return mask_1TS[:, None]


def _ready_mask(given: Tensor, length: int, keys: int) -> Tensor:
    if given.dtype != torch.bool or given.shape[-2:] != (length, keys):
        found = f"{given.dtype}, {list(given.shape)}"
        raise ValueError(
            f"attention_mask ({found}) must be boolean, (batch, 1, {length}, {keys}), or have 2 dimensions"
        )
    return given


def _packed(position_ids: Tensor | None) -> Documents | None:
    """Where positions start anew, so does a document; None if they never do."""
    if position_ids is None or position_ids.shape[1] < 2:
        return None
    starts = position_ids.diff(dim=1) != 1
    return Documents.of(F.pad(starts.cumsum(1), (1, 0))) if bool(starts.any()) else None

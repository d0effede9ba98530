"""Context parallelism: a sequence divided among ranks, keys and values gathered once for each group of layers.

Queries stay where they are. The layer that owns keys and values gathers them from all ranks; the layers that share
them (CLA) find them there, so they travel once for the group. With grouped-query attention they are a small part of
what queries or activations would be. A rank holds an early and a late chunk of the sequence and looks, for each, at
the keys up to that chunk's end alone: as queries of the last tokens of a shorter sequence, so that no mask is needed.

Shapes: B rows, H query heads, G key/value heads, T tokens of the whole sequence, O positions of this rank, d head
dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kaiyuan.model.attention import Context, Documents, attend_last, document_positions
from kaiyuan.model.rope import rope_frequencies, rope_tables
from kaiyuan.model.transformer import Transformer
from kaiyuan.training.parallel.collectives import gather
from kaiyuan.training.parallel.tokens import Tokens


class GatheredKeys:
    """Keys and values of the whole sequence, by producing layer; one object for each forward pass."""

    def __init__(self, tokens: Tokens, length: int, documents_BT: Tensor | None, device: torch.device) -> None:
        self.group, self.ranks = tokens.mesh.group("context"), tokens.layout.context
        self.positions = tokens.of_context(length).to(device)
        chunk, rank = length // (2 * self.ranks), self.group.rank()
        self.ends = (rank + 1) * chunk, (2 * self.ranks - rank) * chunk
        self.documents = [
            None if documents_BT is None else Documents.of(documents_BT[:, :end], chunk) for end in self.ends
        ]
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def extend(self, producer: int, k_BGOd: Tensor, v_BGOd: Tensor) -> tuple[Tensor, Tensor]:
        """Gather and keep the keys and values of one producing layer, in the sequence's order."""
        both = gather(torch.stack((k_BGOd, v_BGOd)), self.group, 3)
        chunks = both.chunk(2 * self.ranks, 3)  # rank r's are chunks r and 2 C - 1 - r
        k_BGTd, v_BGTd = torch.cat([*chunks[::2], *chunks[1::2][::-1]], 3)
        self.kept[producer] = (k_BGTd, v_BGTd)
        return k_BGTd, v_BGTd

    def attend(self, producer: int, q_BHOd: Tensor) -> Tensor:
        """(B, H, O, d): each of this rank's two chunks over the keys up to its end."""
        k_BGTd, v_BGTd = self.kept[producer]
        outs = [
            attend_last(q_BHcd, k_BGTd[:, :, :end], v_BGTd[:, :, :end], documents).transpose(1, 2)
            for q_BHcd, end, documents in zip(q_BHOd.chunk(2, 2), self.ends, self.documents, strict=True)
        ]
        return torch.cat(outs, 1).transpose(1, 2)  # heads of a token together, as the next product wants them


def context_of(model: Transformer, tokens: Tokens, ids_BT: Tensor, documents_BT: Tensor | None) -> Context:
    """What all layers share where a sequence is divided: positions of this rank's tokens and the gathered keys."""
    keys = GatheredKeys(tokens, ids_BT.shape[1], documents_BT, ids_BT.device)
    positions_BO = keys.positions[None]
    if documents_BT is not None:
        positions_BO = document_positions(documents_BT)[:, keys.positions]
    cos, sin = rope_tables(positions_BO, rope_frequencies(model.config, ids_BT.device))
    return Context(cos, sin, None, cache=keys, attend=keys.attend)

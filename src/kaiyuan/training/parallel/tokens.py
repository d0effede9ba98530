"""Which tokens of a batch are whose. Rows are divided among data ranks, sequences among context and tensor ranks.

Context rank c of C holds chunks c and 2C - 1 - c of 2C: an early and a late one, so that causal attention costs all
ranks the same. Tensor ranks cut what their context rank holds into equal parts.

Shapes: B rows, T tokens of a whole sequence, O tokens of a sequence that are this rank's own.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kaiyuan.training.batch import Batch
from kaiyuan.training.parallel.collectives import gathered
from kaiyuan.training.parallel.mesh import Mesh


class Tokens:
    """This rank's share of every batch."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh, self.layout = mesh, mesh.layout
        self._whole: dict[tuple[int, int], Tensor] = {}
        self.shape = (0, 0)
        """Rows of this rank and length of a whole sequence in the batch under way."""

    def of_context(self, length: int) -> Tensor:
        """int64; the positions that this context rank attends from, increasing."""
        parts, rank = self.layout.context, self.mesh.rank("context")
        if parts == 1:
            return torch.arange(length)
        chunks = torch.arange(length).chunk(2 * parts)
        return torch.cat([chunks[rank], chunks[-1 - rank]])

    def own(self, length: int) -> Tensor:
        """int64 (O,); the positions of this rank."""
        return self.of_context(length).chunk(self.layout.tensor)[self.mesh.rank("tensor")]

    def own_rows(self, batch: int, micro_batches: int) -> list[int]:
        """The numbers of this rank's rows in a batch of ``batch``, micro-batch by micro-batch."""
        part = batch // micro_batches
        own = part // self.layout.data_ranks
        first = self.mesh.data_rank * own
        return [start + row for start in range(first, batch, part) for row in range(own)]

    def local(self, part: Batch) -> Batch:
        """This rank's share of a micro-batch, of which it may have its own rows alone: whole sequences of ids, and
        targets and weights at its own positions.
        """
        mine = part
        if part.whole is None:
            rows = len(part.ids_BT) // self.layout.data_ranks
            mine = part.rows(slice(self.mesh.data_rank * rows, (self.mesh.data_rank + 1) * rows))
        own = self.own(part.ids_BT.shape[1]).to(part.ids_BT.device)
        return replace(mine, targets_BT=mine.targets_BT[:, own], weights_BT=mine.weights_BT[:, own])

    def places(self, device: torch.device) -> Tensor:
        """int64 (all tokens,): the place in the micro-batch, read row by row, of each token of rank 0, 1, ..."""
        if self.shape not in self._whole:
            rows, length = self.shape
            row_B = torch.arange(rows) + self.mesh.data_rank * rows
            mine = (row_B[:, None] * length + self.own(length)).flatten().to(device)
            self._whole[self.shape] = gathered(mine, self.mesh.tokens)
        return self._whole[self.shape]

    def own_places(self, device: torch.device) -> Tensor:
        """int64 (this rank's tokens,): their places in the micro-batch."""
        return self.places(device).chunk(self.mesh.token_ranks)[self.mesh.tokens.rank()]

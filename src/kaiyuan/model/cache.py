"""The KV cache of a batch: one entry per *producing* layer, half of what a cache per layer takes when pairs of layers
share.

Shapes: B batch, G key/value heads, S slots, T new tokens, d head dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kaiyuan.model.config import ModelConfig


class KVCache:
    """Slots for ``capacity`` tokens of ``batch`` sequences, which may have different lengths.

    New tokens of sequence b go to slots ``lengths[b] ...``. Padding at the end of a row may be written too: it lies
    behind the row's length, the mask hides it, and the next tokens overwrite it.
    """

    def __init__(
        self, config: ModelConfig, batch: int, capacity: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        producers = [layer.index for layer in config.layers() if layer.owns_kv]
        shape = (batch, config.num_kv_heads, capacity, config.head_dim)
        self.capacity = capacity
        self.keys = {index: torch.zeros(shape, dtype=dtype, device=device) for index in producers}
        self.values = {index: torch.zeros(shape, dtype=dtype, device=device) for index in producers}
        self.lengths = torch.zeros(batch, dtype=torch.int64, device=device)
        self._end = 0
        self._positions = torch.zeros(batch, 0, dtype=torch.int64, device=device)

    @property
    def nbytes(self) -> int:
        """Bytes really allocated for keys and values."""
        return sum(tensor.nbytes for tensor in (*self.keys.values(), *self.values.values()))

    def place(self, new_tokens: int) -> Tensor:
        """Positions (B, T) of the next ``new_tokens`` tokens; call it once before the layers run."""
        self._positions = self.lengths[:, None] + torch.arange(new_tokens, device=self.lengths.device)
        self._end = int(self._positions.max()) + 1
        if self._end > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} tokens a sequence, {self._end} are needed")
        return self._positions

    def mask(self) -> Tensor | None:
        """Boolean (B, 1, T, S) for the tokens just placed: each sees itself and what came before.

        None in an empty cache, where that is plain causal attention, which is several times as fast without a mask.
        """
        if self._end == self._positions.shape[1]:
            return None
        slots = torch.arange(self._end, device=self.lengths.device)
        return (slots <= self._positions[:, :, None])[:, None]

    def extend(self, producer: int, k_BGTd: Tensor, v_BGTd: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new keys and values of one layer; returns all of them, (B, G, S, d) each."""
        rows = torch.arange(len(self.lengths), device=self.lengths.device)[:, None]
        self.keys[producer][rows, :, self._positions] = k_BGTd.transpose(1, 2).to(self.keys[producer].dtype)
        self.values[producer][rows, :, self._positions] = v_BGTd.transpose(1, 2).to(self.values[producer].dtype)
        return self.keys[producer][:, :, : self._end], self.values[producer][:, :, : self._end]

    def advance(self, counts_B: Tensor) -> None:
        """Count ``counts_B`` of the placed tokens as real; the rest of each row was padding."""
        self.lengths = self.lengths + counts_B

    def keep(self, rows: Tensor) -> None:
        """Drop the sequences that are finished: keep only ``rows`` of the batch."""
        for store in (self.keys, self.values):
            for index in store:
                store[index] = store[index][rows]
        self.lengths = self.lengths[rows]

"""The pages of the running sequences as one tensor on the device, kept up to date by what changes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from kaiyuan.inference.sequence import Sequence


@dataclass
class _Row:
    slot: int
    blocks: list[int] = field(default_factory=list)
    """The sequence's own list that the row was filled from: after a pre-emption it has another."""
    sent: int = 0
    """How many of them."""


class PageTables:
    """``tables`` (slots, width), int32: row s lists the pages of the sequence that has slot s."""

    def __init__(self, slots: int, width: int, device: torch.device) -> None:
        self.tables = torch.zeros(slots, width, dtype=torch.int32, device=device)
        self._free = list(range(slots))
        self._rows: dict[Sequence, _Row] = {}

    def slots(self, sequences: Iterable[Sequence]) -> dict[Sequence, int]:
        """Slots of ``sequences``, whose rows are complete now. Those not named may lose theirs."""
        wanted = dict.fromkeys(sequences)
        if not wanted.keys() <= self._rows.keys():
            self._make_room(wanted)
        places: list[int] = []
        pages: list[int] = []
        for sequence in wanted:
            row = self._rows[sequence]
            if row.blocks is not sequence.blocks:
                row.blocks, row.sent = sequence.blocks, 0
            fresh = row.blocks[row.sent :]
            start = row.slot * self.tables.shape[1] + row.sent
            places += range(start, start + len(fresh))
            pages += fresh
            row.sent += len(fresh)
        if places:
            change = torch.tensor([places, pages], device=self.tables.device)
            self.tables.view(-1)[change[0]] = change[1].int()
        return {sequence: self._rows[sequence].slot for sequence in wanted}

    def _make_room(self, wanted: dict[Sequence, None]) -> None:
        """Slots for those of ``wanted`` that have none, of ended sequences first: others may come again."""
        missing = [sequence for sequence in wanted if sequence not in self._rows]
        others = sorted((held for held in self._rows if held not in wanted), key=lambda held: not held.finish_reason)
        for sequence in others[: max(0, len(missing) - len(self._free))]:
            self._free.append(self._rows.pop(sequence).slot)
        for sequence in missing:
            self._rows[sequence] = _Row(self._free.pop())

"""The pages of the running sequences as one tensor on the device, kept up to date by what changes."""

from __future__ import annotations

from collections.abc import Sequence as Many

import torch

from kaiyuan.inference.sequence import Sequence


class PageTables:
    """``tables`` (slots, width), int32: row s lists the pages of the sequence that has slot s."""

    def __init__(self, slots: int, width: int, device: torch.device) -> None:
        self.tables = torch.zeros(slots, width, dtype=torch.int32, device=device)
        self._free = list(range(slots))
        self._slots: dict[Sequence, int] = {}
        self._sent: dict[Sequence, tuple[list[int], int]] = {}
        """The list of blocks a row was filled from (a preempted sequence gets another) and how many of it."""

    def slots(self, sequences: Many[Sequence]) -> list[int]:
        """Slots of ``sequences``, whose rows are complete now. Those not named may lose theirs."""
        if any(sequence not in self._slots for sequence in sequences):
            self._make_room(sequences)
        places: list[int] = []
        pages: list[int] = []
        width = self.tables.shape[1]
        for sequence in sequences:
            slot = self._slots[sequence]
            blocks, sent = self._sent.get(sequence, (None, 0))
            if blocks is not sequence.blocks:
                sent = 0
            fresh = sequence.blocks[sent:]
            if fresh or blocks is not sequence.blocks:
                places += range(slot * width + sent, slot * width + sent + len(fresh))
                pages += fresh
                self._sent[sequence] = (sequence.blocks, len(sequence.blocks))
        if places:
            change = torch.tensor([places, pages], device=self.tables.device)
            self.tables.view(-1)[change[0]] = change[1].int()
        return [self._slots[sequence] for sequence in sequences]

    def _make_room(self, sequences: Many[Sequence]) -> None:
        wanted = set(sequences)
        for sequence in [held for held in self._slots if held not in wanted]:
            self._free.append(self._slots.pop(sequence))
            self._sent.pop(sequence, None)
        for sequence in sequences:
            if sequence not in self._slots:
                self._slots[sequence] = self._free.pop()

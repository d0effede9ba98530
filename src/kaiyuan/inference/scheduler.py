"""What the next step computes: one budget of tokens, spent on answers under way first and on prompts in chunks after.

A sequence that finds no free block makes the youngest one give back all of its own; that one is computed again later,
with the tokens it had. Nothing is lost by it but time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from kaiyuan.inference.blocks import BlockPool, OutOfBlocks, block_digests
from kaiyuan.inference.sequence import Sequence


@dataclass(frozen=True)
class Work:
    """Tokens ``start`` to ``end`` of ``sequence.tokens`` (and its draft after them) are computed in this step."""

    sequence: Sequence
    start: int
    end: int

    @property
    def tokens(self) -> list[int]:
        sequence = self.sequence
        draft = sequence.draft if self.complete else []
        return [*sequence.tokens[self.start : self.end], *draft]

    @property
    def complete(self) -> bool:
        """Whether the next token can be sampled after it."""
        return self.end == len(self.sequence.tokens)


@dataclass
class Counts:
    """Totals since the start."""

    preemptions: int = 0
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0


class Scheduler:
    """Decides who runs. ``max_num_seqs`` sequences at most, ``max_num_batched_tokens`` tokens a step at most."""

    def __init__(self, pool: BlockPool, max_num_seqs: int, max_num_batched_tokens: int, prefix_cache: bool) -> None:
        self.pool = pool
        self.max_num_seqs, self.max_num_batched_tokens = max_num_seqs, max_num_batched_tokens
        self.prefix_cache = prefix_cache
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.counts = Counts()

    def __len__(self) -> int:
        return len(self.waiting) + len(self.running)

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def schedule(self) -> list[Work]:
        """The work of the next step, with blocks for all of it; empty only if there is nothing to do."""
        budget, plan, preemptions = self.max_num_batched_tokens, [], self.counts.preemptions
        for sequence in list(self.running):
            if budget == 0 or sequence not in self.running:
                continue  # it may have given way to an earlier one just now
            work = self._part(sequence, budget)
            if self._make_room(sequence, work):
                plan.append(work)
                budget -= len(work.tokens)
        crowded = self.counts.preemptions > preemptions
        while self.waiting and budget > 0 and len(self.running) < self.max_num_seqs and not crowded:
            work_or_none = self._admit(self.waiting[0], budget)
            if work_or_none is None:
                break
            plan.append(work_or_none)
            budget -= len(work_or_none.tokens)
        return plan

    @staticmethod
    def _part(sequence: Sequence, budget: int) -> Work:
        count = min(sequence.pending, budget)
        if count == sequence.pending:
            del sequence.draft[budget - count :]
        return Work(sequence, sequence.computed, sequence.computed + count)

    def _admit(self, sequence: Sequence, budget: int) -> Work | None:
        """Start the sequence that waits first; None if there is no room for it now."""
        self._use_prefix(sequence)
        work = self._part(sequence, budget)
        try:
            self._grow(sequence, work)
        except OutOfBlocks:
            self._give_back(sequence)
            return None
        self.counts.prefix_query_tokens += len(sequence.tokens)
        self.counts.prefix_hit_tokens += sequence.computed
        sequence.cached_tokens = max(sequence.cached_tokens, min(sequence.computed, sequence.prompt_length))
        self.waiting.popleft()
        self.running.append(sequence)
        return work

    def _use_prefix(self, sequence: Sequence) -> None:
        """Take the blocks that are known already; at least one token is left to compute."""
        if not (self.prefix_cache and sequence.uses_prefix_cache):
            return
        size = self.pool.size
        sequence.digests = block_digests(sequence.tokens, size, sequence.salt, sequence.digests)
        sequence.blocks = self.pool.find(sequence.digests[: (len(sequence.tokens) - 1) // size])
        sequence.computed = len(sequence.blocks) * size
        sequence.learned = len(sequence.blocks)

    def _grow(self, sequence: Sequence, work: Work) -> None:
        self._hold(sequence, work.start + len(work.tokens))

    def _hold(self, sequence: Sequence, tokens: int) -> None:
        needed = -(-tokens // self.pool.size) - len(sequence.blocks)
        if needed > 0:
            sequence.blocks += self.pool.take(needed, sequence.blocks[-1] if sequence.blocks else None)

    def reserve(self, plan: list[Work], more: int) -> bool:
        """Blocks for ``more`` tokens after those of each piece of work, without taking any from others; False if there
        are not so many.
        """
        try:
            for work in plan:
                self._hold(work.sequence, work.end + more)
        except OutOfBlocks:
            return False
        return True

    def _make_room(self, sequence: Sequence, work: Work) -> bool:
        """Blocks for ``work``, taken from younger sequences if need be; False if the sequence itself had to go."""
        while True:
            try:
                self._grow(sequence, work)
            except OutOfBlocks:
                youngest = self.running[-1]
                self._preempt(youngest)
                if youngest is sequence:
                    return False
            else:
                return True

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._give_back(sequence)
        sequence.draft = []
        self.waiting.appendleft(sequence)
        self.counts.preemptions += 1

    def _give_back(self, sequence: Sequence) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks, sequence.computed, sequence.learned = [], 0, 0

    def done(self, work: Work, accepted: int) -> None:
        """``work`` has been computed; of its draft the first ``accepted`` tokens turned out right.

        Those must have been added to the sequence's tokens.
        """
        sequence = work.sequence
        sequence.computed = work.end + accepted
        if self.prefix_cache and sequence.uses_prefix_cache:
            full = sequence.computed // self.pool.size
            if full > sequence.learned:
                sequence.digests = block_digests(
                    sequence.tokens[: full * self.pool.size], self.pool.size, sequence.salt, sequence.digests[:full]
                )
                for place in range(sequence.learned, full):
                    self.pool.learn(sequence.blocks[place], sequence.digests[place])
                sequence.learned = full

    def remove(self, sequence: Sequence) -> None:
        """Take a finished or aborted sequence out; its blocks are free again."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self._give_back(sequence)

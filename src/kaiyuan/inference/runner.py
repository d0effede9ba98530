"""One forward pass over the work of a step: new tokens of all sequences in one row, each looking at its own pages."""

from __future__ import annotations

import torch
from torch import Tensor

from kaiyuan.inference.paged_cache import PagedCache, Span
from kaiyuan.inference.scheduler import Work
from kaiyuan.model.attention import Context
from kaiyuan.model.rope import rope_frequencies, rope_tables
from kaiyuan.model.transformer import Transformer


class Runner:
    """Runs ``model`` with keys and values in ``cache``."""

    def __init__(self, model: Transformer, cache: PagedCache) -> None:
        self.model, self.cache = model, cache
        self._frequencies = rope_frequencies(model.config, model.device)

    @torch.inference_mode()
    def run(self, plan: list[Work]) -> list[Tensor]:
        """For every piece of work the float32 logits (rows, V) that are asked for: of all its tokens if the prompt's
        log-probabilities are wanted, else of its last token and its draft if it is complete, else none.
        """
        device = self.model.device
        tokens: list[int] = []
        spans: list[Span] = []
        rows: list[int] = []
        counts: list[int] = []
        for work in plan:
            new, start = work.tokens, len(tokens)
            tokens += new
            spans.append(Span(start, len(tokens), work.start + len(new), work.sequence.blocks))
            wanted = rows_wanted(work, len(new))
            rows += range(len(tokens) - wanted, len(tokens))
            counts.append(wanted)
        positions = self.cache.begin(spans, device)
        cos, sin = rope_tables(positions, self._frequencies)
        context = Context(cos, sin, None, self.cache, attend=self.cache.attend)
        x_1ND = self.model.features(torch.tensor([tokens], device=device), context=context).x_BTD
        logits = self.model.logits(x_1ND[0] if len(rows) == len(tokens) else x_1ND[0, rows])
        return list(logits.split(counts))


def asks_about_prompt(work: Work) -> bool:
    """Whether log-probabilities of prompt tokens are wanted that this work computes."""
    return work.sequence.params.prompt_logprobs and work.start < work.sequence.prompt_length


def rows_wanted(work: Work, new: int) -> int:
    """How many of the ``new`` tokens of ``work``, counted from the last, have logits that are asked for."""
    if asks_about_prompt(work):
        return new
    return 1 + new - (work.end - work.start) if work.complete else 0

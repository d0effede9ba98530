"""One completion under way: its tokens, where its keys and values lie, and what has become of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from kaiyuan.inference.outputs import FinishReason, TokenLogprob
from kaiyuan.inference.params import SamplingParams

if TYPE_CHECKING:
    from kaiyuan.inference.grammar import Matcher
    from kaiyuan.inference.text import TextStream


@dataclass(eq=False)
class Sequence:
    """State of one completion. ``tokens`` are the prompt's and the answer's; of the first ``computed`` of them keys
    and values are in the cache.
    """

    request: int
    index: int
    """Which of the request's completions."""
    prompt_length: int
    tokens: list[int]
    params: SamplingParams
    stops: frozenset[int]
    limit: int
    """Most tokens of prompt and answer together."""
    generator: torch.Generator
    text: TextStream | None = None
    matcher: Matcher | None = None
    salt: str = ""
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    learned: int = 0
    """How many of its blocks the pool knows the content of."""
    draft: list[int] = field(default_factory=list)
    """Tokens guessed to come next, to be checked in the next step."""
    cached_tokens: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    reported: int = 0
    """Tokens of the answer that have been reported."""
    children: list[Sequence] = field(default_factory=list)
    """Further completions of the same prompt: they begin when this one's prompt is in the cache."""
    finish_reason: FinishReason | None = None

    @property
    def answer(self) -> list[int]:
        return self.tokens[self.prompt_length :]

    @property
    def pending(self) -> int:
        """Tokens that must be computed before the next one can be sampled."""
        return len(self.tokens) - self.computed

    @property
    def uses_prefix_cache(self) -> bool:
        """The log-probabilities of the prompt need all of it computed."""
        return not self.params.prompt_logprobs

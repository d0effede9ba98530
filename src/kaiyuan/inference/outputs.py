"""What the engine returns: whole completions, and the pieces of one as it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True)
class TokenLogprob:
    """One token of an answer or prompt with its log-probability, natural, at temperature 1 and without restrictions."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """The most likely tokens at this place, best first, as many as were asked for."""


@dataclass(frozen=True)
class Completion:
    """What was generated for one prompt. The token or text that ended it is not part of it."""

    token_ids: list[int]
    text: str
    """Empty if the engine has no tokenizer."""
    finish_reason: str
    """``stop``: an end token or stop text; ``length``: ``max_tokens`` or the model's context was reached; ``abort``."""
    logprobs: list[float]
    """Natural log-probability of each token under the model, at temperature 1 and without restrictions."""
    tops: list[TokenLogprob] = field(default_factory=list)
    """Each token with its most likely alternatives, if they were asked for."""
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    """For every token of the prompt but the first, if they were asked for."""
    cached_tokens: int = 0
    """Tokens of the prompt that came from the prefix cache."""


@dataclass(frozen=True)
class Piece:
    """What one step adds to one completion of a request. Text is whole characters, and never part of a stop text."""

    index: int
    """Which of the request's ``n`` completions."""
    text: str = ""
    tokens: tuple[TokenLogprob, ...] = ()
    """Tokens whose text is out with this piece or before it."""
    finish_reason: FinishReason | None = None
    """Set in the last piece of a completion."""
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    """In the first piece of a completion, if asked for."""
    cached_tokens: int = 0

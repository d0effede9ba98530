"""What to generate: the sampling parameters of one request, checked once, here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kaiyuan.errors import ConfigError, listing

GrammarKind = Literal["json_schema", "json", "regex"]


@dataclass(frozen=True)
class Grammar:
    """A language that the answer must be in."""

    kind: GrammarKind
    """``json_schema``: JSON that fits ``definition``; ``json``: any JSON; ``regex``: the whole answer matches."""
    definition: str = ""
    """The schema as JSON text, or the regular expression."""


@dataclass(frozen=True)
class SamplingParams:
    """What to generate. ``temperature=0`` is greedy; the defaults of everything else do not restrict the choice.

    Order of application to the logits: ``logit_bias``, repetition, frequency and presence penalties, ``min_tokens``,
    grammar, temperature, ``min_p``, ``top_k``, ``top_p``. Raises ``ConfigError`` naming every value that cannot be
    used.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    """Least probability of a token, as a share of the most likely one's."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens in prompt or answer (Keskar et al., 1909.05858)."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens that the answer has already."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit once for every time the answer has it."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of single tokens."""
    max_tokens: int = 64
    min_tokens: int = 0
    """No end and no stop token before so many."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer; the answer is cut before them."""
    stop_token_ids: tuple[int, ...] = ()
    """Ids that end the answer besides the tokenizer's end-of-answer and end-of-document; not part of the result."""
    ignore_eos: bool = False
    """Go on after the end-of-answer token until ``max_tokens``."""
    seed: int | None = None
    """Makes the sample reproducible; without one it is drawn afresh."""
    n: int = 1
    """Completions for each prompt, next to each other in the result."""
    logprobs: int = 0
    """How many of the most likely tokens to report with their log-probabilities at each place."""
    prompt_logprobs: bool = False
    """Also report the log-probabilities of the prompt's tokens."""
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        problems = [
            f"{name}: {getattr(self, name)!r} {what}"
            for name, (fits, what) in _RULES.items()
            if not fits(getattr(self, name))
        ]
        if problems:
            raise ConfigError(listing("the sampling parameters cannot be used", problems))

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_RULES: dict[str, tuple[Any, str]] = {
    "temperature": (lambda x: _number(x) and (x == 0 or 1e-6 <= x <= 100), "is neither 0 nor between 1e-6 and 100"),
    "top_k": (lambda x: _whole(x) and x >= 0, "is not a whole number from 0 (no limit)"),
    "top_p": (lambda x: _number(x) and 0 < x <= 1, "is not in (0, 1]"),
    "min_p": (lambda x: _number(x) and 0 <= x <= 1, "is not in [0, 1]"),
    "repetition_penalty": (lambda x: _number(x) and 0.01 <= x <= 100, "is not between 0.01 and 100"),
    "presence_penalty": (lambda x: _number(x) and -2 <= x <= 2, "is not between -2 and 2"),
    "frequency_penalty": (lambda x: _number(x) and -2 <= x <= 2, "is not between -2 and 2"),
    "logit_bias": (
        lambda x: isinstance(x, Mapping) and all(_whole(k) and _number(v) and abs(v) <= 100 for k, v in x.items()),
        "does not map token ids to numbers between -100 and 100",
    ),
    "max_tokens": (lambda x: _whole(x) and x >= 1, "is not a whole number from 1"),
    "min_tokens": (lambda x: _whole(x) and x >= 0, "is not a whole number from 0"),
    "stop": (
        lambda x: isinstance(x, tuple) and all(isinstance(s, str) and s for s in x), "is not a tuple of texts",
    ),
    "stop_token_ids": (lambda x: isinstance(x, tuple) and all(_whole(i) for i in x), "is not a tuple of token ids"),
    "seed": (lambda x: x is None or _whole(x), "is not a whole number"),
    "n": (lambda x: _whole(x) and x >= 1, "is not a whole number from 1"),
    "logprobs": (lambda x: _whole(x) and 0 <= x <= 100, "is not a whole number from 0 to 100"),
    "prompt_logprobs": (lambda x: isinstance(x, bool), "is neither true nor false"),
    "ignore_eos": (lambda x: isinstance(x, bool), "is neither true nor false"),
    "grammar": (lambda x: x is None or isinstance(x, Grammar), "is not a Grammar"),
}  # fmt: skip

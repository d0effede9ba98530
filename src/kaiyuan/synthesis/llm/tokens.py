"""How many tokens a text has: with a tokenizer if there is one, else guessed from its characters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kaiyuan.corpus.units import han_characters
from kaiyuan.synthesis.llm.calls import Message

Counter = Callable[[str], int]
PER_MESSAGE = 4
"""Tokens that a chat template puts around a message."""


def guess(text: str) -> int:
    """Tokens from characters: 1.5 Han characters or 4 others make a token."""
    han = han_characters(text)
    return round(han / 1.5 + (len(text) - han) / 4)


def token_counter(folder: str) -> Counter:
    """Counts with the tokenizer in ``folder``; guesses without one."""
    if not folder:
        return guess
    from kaiyuan.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(Path(folder))
    return lambda text: len(tokenizer.encode(text))


def count_messages(messages: Sequence[Message], count: Counter) -> int:
    return sum(count(message["content"]) + PER_MESSAGE for message in messages)

"""Training a tokenizer of one's own: byte-level BPE with the release's special tokens at the end of the vocabulary."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import models, pre_tokenizers, trainers

from kaiyuan.errors import ConfigError, DataError
from kaiyuan.tokenizer.byte_level import add_special_tokens, byte_level_bpe, well_formed
from kaiyuan.tokenizer.special import special_tokens
from kaiyuan.tokenizer.tokenizer import Tokenizer

_MIN_EXTRAS = 6  # the chat template needs <|extra_0|> and <|extra_4|>, the release stops at <|extra_5|> too


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, *, extras: int = 8, min_frequency: int = 2, progress: bool = False
) -> Tokenizer:
    """Learn ``vocab_size`` tokens from ``texts``: 256 bytes, merges, then 5 + ``extras`` special tokens.

    The same texts, in any order and on any number of cores, give the same tokenizer. A merge needs a pair that occurs
    ``min_frequency`` times. Memory: one copy of every distinct piece of text. Raises ``ConfigError`` for a vocabulary
    that is too small, ``DataError`` for too little text.
    """
    if extras < _MIN_EXTRAS:
        raise ConfigError(f"extras is {extras}: the chat template needs at least {_MIN_EXTRAS}")
    specials = special_tokens(extras)
    if vocab_size < 256 + len(specials):
        raise ConfigError(f"vocab_size is {vocab_size}: 256 bytes and {len(specials)} special tokens must fit in")
    backend = byte_level_bpe(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(specials),
        min_frequency=min_frequency,
        show_progress=progress,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    backend.train_from_iterator((well_formed(text, index) for index, text in enumerate(texts)), trainer)
    found = backend.get_vocab_size() + len(specials)
    if found != vocab_size:
        raise DataError(
            f"the text is too short for a vocabulary of {vocab_size} tokens: it gives {found}. "
            "Give more text or set a smaller vocab_size"
        )
    add_special_tokens(backend, specials)
    return Tokenizer(backend)

"""Answers that must be in a language: JSON by a schema, or a regular expression. The automata are llguidance's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from kaiyuan.errors import KaiyuanError
from kaiyuan.inference.params import Grammar

if TYPE_CHECKING:
    from kaiyuan.tokenizer import Tokenizer


class GrammarError(KaiyuanError):
    """A schema or expression that cannot be used."""


def _library() -> Any:
    try:
        import llguidance
    except ImportError:
        raise KaiyuanError("constrained answers need llguidance: pip install 'kaiyuan[serve]'") from None
    return llguidance


class GrammarCompiler:
    """Makes matchers for one tokenizer; building its table of tokens takes a moment, so it is made when first used."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._table: Any = None

    def matcher(self, grammar: Grammar) -> Matcher:
        """A fresh matcher; raises ``GrammarError`` with the library's reason if the grammar cannot be used."""
        library = _library()
        if self._table is None:
            self._table = _table(library, self._tokenizer, self._vocab_size)
        matcher = library.LLMatcher(self._table, _source(library, grammar))
        if matcher.is_error():
            raise GrammarError(f"{grammar.kind}: {matcher.get_error().splitlines()[0]}")
        return Matcher(matcher, self._vocab_size)


def _table(library: Any, tokenizer: Tokenizer, vocab_size: int) -> Any:
    return library.LLTokenizer(library.TokenizerWrapper(_Vocabulary(tokenizer, vocab_size)))


def _source(library: Any, grammar: Grammar) -> Any:
    try:
        # Without free white space: an undecided model fills the whole answer with it.
        compact = {"whitespace_flexible": False}
        if grammar.kind == "json_schema":
            return library.LLMatcher.grammar_from_json_schema(grammar.definition, defaults=compact)
        if grammar.kind == "json":
            return library.LLMatcher.grammar_from_json_schema('{"type": "object"}', defaults=compact)
        return library.LLMatcher.grammar_from_regex(grammar.definition)
    except ValueError as error:
        raise GrammarError(f"{grammar.kind}: {error}") from None


class _Vocabulary:
    """What llguidance asks of a tokenizer: the bytes of every token, special ones marked, and an encoder."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        special = {*tokenizer.special_ids.values(), *range(tokenizer.vocab_size, vocab_size)}
        self.eos_token_id = tokenizer.eos_id
        self.bos_token_id = None
        self.special_token_ids = sorted(special)
        self.tokens = [
            b"\xff<%d>" % token if token in special else tokenizer.decode_bytes([token]) for token in range(vocab_size)
        ]
        self._tokenizer = tokenizer

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenizer.encode(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)


class Matcher:
    """Where one answer stands in its language."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size

    def allowed(self) -> torch.Tensor:
        """Boolean (V,): tokens with which the answer can go on; the end-of-answer token where it may end."""
        bits = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        spread = (bits[:, None] >> torch.arange(8)) & 1
        return spread.flatten()[: self._vocab_size].bool()

    def take(self, token: int) -> None:
        self._matcher.consume_token(token)

    @property
    def finished(self) -> bool:
        """Nothing can follow."""
        return bool(self._matcher.is_stopped())

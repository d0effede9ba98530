"""Log-probabilities in OpenAI's two shapes: of chats, and of the older completions."""

from __future__ import annotations

import codecs
import math
from collections.abc import Sequence
from typing import Any

from kaiyuan.inference.outputs import TokenLogprob
from kaiyuan.tokenizer import Tokenizer

_LOWEST = -9999.0
"""For -inf, which JSON does not have."""


def _finite(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else _LOWEST


def token_bytes(tokenizer: Tokenizer | None, id: int) -> bytes:
    return b"" if tokenizer is None else tokenizer.decode_bytes([id], skip_special_tokens=False)


def token_name(tokenizer: Tokenizer | None, id: int) -> str:
    """The token's text; ``bytes:\\xe4\\xb8`` if it is no whole characters, ``token_id:5`` without a tokenizer."""
    if tokenizer is None:
        return f"token_id:{id}"
    raw = token_bytes(tokenizer, id)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def chat_logprobs(tokenizer: Tokenizer | None, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    def entry(id: int, logprob: float) -> dict[str, Any]:
        raw = list(token_bytes(tokenizer, id))
        return {"token": token_name(tokenizer, id), "logprob": _finite(logprob), "bytes": raw}

    content = [
        {**entry(token.token_id, token.logprob), "top_logprobs": [entry(*top) for top in token.top]} for token in tokens
    ]
    return {"content": content, "refusal": None}


class CompletionLogprobs:
    """The older shape, a few tokens at a time; ``text_offset`` counts characters from the beginning of the text."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0

    def take(self, tokens: Sequence[TokenLogprob | int]) -> dict[str, Any]:
        """The entry for ``tokens``; a bare id, the first of an echoed prompt, has no log-probability."""
        shape: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token in tokens:
            id = token if isinstance(token, int) else token.token_id
            shape["tokens"].append(token_name(self._tokenizer, id))
            shape["text_offset"].append(self._offset)
            shape["token_logprobs"].append(None if isinstance(token, int) else _finite(token.logprob))
            shape["top_logprobs"].append(None if isinstance(token, int) else self._tops(token))
            self._offset += len(self._decoder.decode(token_bytes(self._tokenizer, id)))
        return shape

    def _tops(self, token: TokenLogprob) -> dict[str, float]:
        """The likeliest tokens by name, best first, and the token itself. Of two with one name the first counts."""
        tops: dict[str, float] = {}
        for id, logprob in (*token.top, (token.token_id, token.logprob)):
            tops.setdefault(token_name(self._tokenizer, id), _finite(logprob))
        return tops

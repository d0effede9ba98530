"""Byte-level BPE as Hunyuan-Large has it: NFC, then cl100k's pattern with digits one by one, then bytes.

NFC is that of ``tokenizers``, which knows an older Unicode than Python does: a few rare combining marks (N'Ko, Arabic
extensions) in an unusual order keep that order, where the release's Python code sorts them.

The ``tokenizers`` library writes a byte as one printable character ("Ġ" for a space), GPT-2's way; that alphabet is in
``BYTE_TO_CHAR``.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from kaiyuan.errors import DataError

PATTERN = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}",  # cl100k has \p{N}{1,3}
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
"""Every match is a piece of text that BPE never merges across; the matches cover any text."""


def _byte_to_char() -> dict[int, str]:
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


BYTE_TO_CHAR = _byte_to_char()
CHAR_TO_BYTE = {char: byte for byte, char in BYTE_TO_CHAR.items()}


def to_chars(token: bytes) -> str:
    """``token`` in the alphabet of ``tokenizers``: one character a byte."""
    return "".join(map(BYTE_TO_CHAR.__getitem__, token))


def to_bytes(token: str) -> bytes:
    """The bytes of a token of a byte-level vocabulary. One outside of the alphabet (an added token) is plain text."""
    try:
        return bytes(map(CHAR_TO_BYTE.__getitem__, token))
    except KeyError:
        return token.encode()


def byte_level_bpe(model: BPE) -> Tokenizer:
    """``model`` with everything around it that turns text into bytes and back."""
    backend = Tokenizer(model)
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def add_special_tokens(backend: Tokenizer, names: Sequence[str]) -> None:
    """Give ``names`` the ids behind the vocabulary, in their order."""
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])


def well_formed(text: object, index: int) -> str:
    """``text`` with paired surrogates joined and single ones replaced by U+FFFD, as tiktoken has it.

    Raises ``DataError`` naming ``index`` if it is no string.
    """
    if not isinstance(text, str):
        raise DataError(f"texts[{index}]: expected a string, got {type(text).__name__}")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

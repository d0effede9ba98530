"""Reading ``hy.tiktoken``, the form in which Hunyuan-Large has its vocabulary.

A line holds the bytes of one token in base64 and its rank, which is its id: ``IQ== 0``. tiktoken merges, again and
again, the two neighbours whose join has the lowest rank. BPE with a list of merges does the same if the list has every
way to cut a token into two tokens, in the order of the joined token's rank. How the cuts of one token are ordered makes
no difference that we could find (random ranks over two letters, compared with tiktoken). The list of 127,957 ranks has
264,306 merges. A piece of text that is a token as a whole is one at once, merges or not.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path

from tokenizers import models

from kaiyuan.errors import CheckpointError
from kaiyuan.tokenizer.byte_level import add_special_tokens, byte_level_bpe, to_chars
from kaiyuan.tokenizer.special import RELEASE_EXTRAS, special_tokens
from kaiyuan.tokenizer.tokenizer import Tokenizer


def load_tiktoken(path: str | Path, *, extras: int = RELEASE_EXTRAS) -> Tokenizer:
    """The tokenizer of a ``*.tiktoken`` file, its 5 + ``extras`` special tokens behind the ranks.

    Ids equal those of tiktoken on NFC text. Raises ``CheckpointError`` naming file and line of what is damaged.
    """
    path = Path(path)
    ranked = [to_chars(token) for token in read_ranks(path)]
    ids = {token: rank for rank, token in enumerate(ranked)}
    specials = special_tokens(extras)
    clash = next((name for name in specials if name in ids), None)
    if clash is not None:
        raise CheckpointError(f"{path}:{ids[clash] + 1}: {clash} is a special token and must have no rank")
    backend = byte_level_bpe(models.BPE(vocab=ids, merges=_merges(ranked, ids), ignore_merges=True))
    add_special_tokens(backend, specials)
    return Tokenizer(backend)


def read_ranks(path: Path) -> list[bytes]:
    """The tokens of a rank file in the order of their ranks, all 256 single bytes among them."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    first_line: dict[bytes, int] = {}
    for number, line in enumerate(lines, 1):
        token = _token(line, number - 1, f"{path}:{number}")
        if token in first_line:
            raise CheckpointError(f"{path}:{number}: the token of line {first_line[token]} once more")
        first_line[token] = number
    missing = [byte for byte in range(256) if bytes([byte]) not in first_line]
    if missing:
        raise CheckpointError(f"{path}: no rank for {len(missing)} of the 256 bytes, 0x{missing[0]:02x} among them")
    return list(first_line)


def _token(line: bytes, rank: int, where: str) -> bytes:
    fields = line.split()
    if len(fields) != 2 or fields[1] != str(rank).encode():
        raise CheckpointError(f"{where}: expected a token in base64 and the rank {rank}, found {_shown(line)}")
    try:
        token = base64.b64decode(fields[0], validate=True)
    except binascii.Error:
        raise CheckpointError(f"{where}: not base64: {_shown(fields[0])}") from None
    if not token:
        raise CheckpointError(f"{where}: an empty token")
    return token


def _shown(line: bytes) -> str:
    text = line.decode("utf-8", errors="replace")
    return repr(text if len(text) <= 60 else text[:60] + "...")


def _merges(ranked: Sequence[str], ids: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to cut a token into two tokens, in the order of the tokens' ranks."""
    return [
        (token[:cut], token[cut:])
        for token in ranked
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    ]

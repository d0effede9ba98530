"""The tokenizer: text to token ids and back, in a form that transformers loads too.

Text never becomes a special token, whatever it says: ``encode`` gives "<|eos|>" as plain characters. Special tokens
come from code alone, by ``special_id``.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models

from kaiyuan.errors import CheckpointError
from kaiyuan.files import read_json, write_json, write_text
from kaiyuan.tokenizer.byte_level import to_bytes, well_formed
from kaiyuan.tokenizer.chat import CHAT_TEMPLATE
from kaiyuan.tokenizer.special import END_NAMES, SYSTEM_END, USER_END, SpecialNames

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
GENERATION_FILE = "generation_config.json"

_UNKNOWN = "\N{REPLACEMENT CHARACTER}".encode()


class Tokenizer:
    """A byte-level BPE tokenizer with named special tokens. Thread-safe, and can be pickled.

    ``backend`` is taken over: its truncation and padding are switched off. Raises ``CheckpointError`` if it is not
    byte-level BPE.
    """

    def __init__(self, backend: tokenizers.Tokenizer, names: SpecialNames | None = None) -> None:
        if not isinstance(backend.model, models.BPE) or not isinstance(backend.decoder, decoders.ByteLevel):
            raise CheckpointError(
                f"not a byte-level BPE tokenizer: its model is {type(backend.model).__name__}, "
                f"its decoder {type(backend.decoder).__name__}; BPE and ByteLevel are needed"
            )
        backend.no_truncation()
        backend.no_padding()
        # Not part of tokenizer.json, so it is lost wherever the backend is copied: see __reduce__.
        backend.encode_special_tokens = True
        self._backend = backend
        self.names = names or SpecialNames()
        vocabulary = backend.get_vocab(with_added_tokens=True)
        added = backend.get_added_tokens_decoder()
        self.vocab_size: int = max(vocabulary.values()) + 1
        """Number of ids, special tokens included; a model's may be larger (padding)."""
        self.special_ids: dict[str, int] = {token.content: id for id, token in added.items() if token.special}
        self._bytes = {id: token.encode() if id in added else to_bytes(token) for token, id in vocabulary.items()}
        self._special = frozenset(self.special_ids.values())

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_json, (self._backend.to_str(), self.names)

    def special_id(self, name: str) -> int:
        """The id of a special token, say "<|extra_0|>"; a ``CheckpointError`` if there is none of that name."""
        if name not in self.special_ids:
            known = ", ".join(list(self.special_ids)[:12]) or "none"
            raise CheckpointError(f"this tokenizer has no special token {name!r}; it has {known}")
        return self.special_ids[name]

    @property
    def bos_id(self) -> int:
        """``<|startoftext|>``: begins a text. ``encode`` does not add it."""
        return self.special_id(self.names.bos)

    @property
    def document_end_id(self) -> int:
        """``<|endoftext|>``: ends a document in pre-training."""
        return self.special_id(self.names.document_end)

    @property
    def eos_id(self) -> int:
        """``<|eos|>``: ends an answer."""
        return self.special_id(self.names.eos)

    @property
    def pad_id(self) -> int:
        """``<|pad|>``: fills up batches."""
        return self.special_id(self.names.pad)

    @property
    def end_ids(self) -> list[int]:
        """Every id that ends a generation, ``eos_id`` first."""
        names = dict.fromkeys((self.names.eos, self.names.document_end, *END_NAMES))
        return [self.special_ids[name] for name in names if name in self.special_ids]

    def encode(self, text: str) -> list[int]:
        """The token ids of ``text``: ordinary tokens only, none added in front or behind."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """``encode`` for many texts, on all cores (``RAYON_NUM_THREADS`` limits them)."""
        try:
            encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError:  # half a surrogate pair, as in text from broken JSON escapes, or not text at all
            mended = [well_formed(text, index) for index, text in enumerate(texts)]
            encodings = self._backend.encode_batch_fast(mended, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of ``ids``; bytes that are no UTF-8 become U+FFFD, and so do ids that no token has."""
        return self.decode_bytes(ids, skip_special_tokens=skip_special_tokens).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> bytes:
        """The bytes of ``ids``, which may begin or end inside of a character."""
        kept = (id for id in ids if id not in self._special) if skip_special_tokens else ids
        return b"".join([self._bytes.get(id, _UNKNOWN) for id in kept])

    def for_documents(self) -> DocumentTokenizer:
        """This tokenizer for writing pre-training documents: its ``eos_id`` is the end of a document."""
        return DocumentTokenizer(self)

    def save(self, folder: str | Path, generation: Mapping[str, Any] | None = None) -> None:
        """Write ``tokenizer.json``, ``tokenizer_config.json``, and into ``generation_config.json`` its ids and
        ``generation``.

        Each file is whole or absent, ``tokenizer.json`` comes last. Other settings of a ``generation_config.json`` that
        is already in ``folder`` are kept. transformers' ``AutoTokenizer`` loads the folder; there, special strings in
        text do become special tokens.
        """
        folder = Path(folder)
        settings = self._generation_settings(folder / GENERATION_FILE)
        write_json(folder / GENERATION_FILE, settings | dict(generation or {}))
        write_json(folder / CONFIG_FILE, self._settings())
        write_text(folder / TOKENIZER_FILE, self._backend.to_str(pretty=True) + "\n")

    def _settings(self) -> dict[str, Any]:
        roles = {"bos_token": self.names.bos, "eos_token": self.names.eos, "pad_token": self.names.pad}
        settings: dict[str, Any] = {key: name for key, name in roles.items() if name in self.special_ids}
        if {USER_END, SYSTEM_END, SpecialNames.bos, SpecialNames.eos} <= self.special_ids.keys():
            settings["chat_template"] = CHAT_TEMPLATE
        return settings | {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}

    def _generation_settings(self, path: Path) -> dict[str, Any]:
        settings = read_settings(path)
        ids = {"bos_token_id": self.names.bos, "pad_token_id": self.names.pad}
        settings |= {key: self.special_ids[name] for key, name in ids.items() if name in self.special_ids}
        return settings | {"eos_token_id": self.end_ids}


@dataclass(frozen=True)
class DocumentTokenizer:
    """What the writer of token shards needs, with the end of a document as ``eos_id``."""

    tokenizer: Tokenizer

    @property
    def eos_id(self) -> int:
        return self.tokenizer.document_end_id

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    def encode_batch(self, texts: list[str], /) -> list[list[int]]:
        return self.tokenizer.encode_batch(texts)


class StreamDecoder:
    """Text from ids that come a few at a time, never cut inside of a character.

    All that ``feed`` and at last ``flush`` return, joined, is what ``Tokenizer.decode`` gives for all ids at once.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, *ids: int) -> str:
        """The text that became certain with ``ids``; "" while a character is incomplete."""
        return self._decoder.decode(self._tokenizer.decode_bytes(ids, skip_special_tokens=self._skip))

    def flush(self) -> str:
        """What is left: U+FFFD if the ids ended inside of a character, else ""."""
        return self._decoder.decode(b"", final=True)


def read_settings(path: Path) -> dict[str, Any]:
    """The JSON object of ``path``, empty if there is no such file."""
    settings = read_json(path) if path.exists() else {}
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(settings).__name__}")
    return settings


def _from_json(text: str, names: SpecialNames) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(text), names)

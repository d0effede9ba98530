"""Token shards: all documents of a label, end to end in one flat file that is mapped into memory, never read whole.

``folder/split/label.bin`` holds the tokens (little-endian uint16, or uint32 for more than 65,536 ids), every document
followed by the end-of-sequence id; ``label.index.npy`` the n + 1 offsets (int64) where the n documents start and the
last one ends; ``shards.json`` what is needed to read them and to notice that one is damaged.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kaiyuan.corpus.sources import Document
from kaiyuan.errors import DataError
from kaiyuan.files import atomic_folder, read_json, sha256_of, write_json
from kaiyuan.progress import say

MANIFEST = "shards.json"
_LABEL = re.compile(r"\w[\w.+-]*")
_BATCH = 256
_DTYPES = ("<u2", "<u4")

Tokens = NDArray[np.unsignedinteger[Any]]


class BatchTokenizer(Protocol):
    """What a tokenizer must have for ``write_shards``."""

    @property
    def eos_id(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    def encode_batch(self, texts: list[str], /) -> list[list[int]]: ...


@dataclass(frozen=True)
class Shard:
    """The tokens of one label, on disk."""

    label: str
    tokens: Tokens
    """(tokens,) memory-mapped, read-only."""
    offsets: NDArray[np.int64]
    """(documents + 1,): document d is ``tokens[offsets[d] : offsets[d + 1]]``, its end-of-sequence id included."""
    eos_id: int
    sha256: str
    """Of the token file, for telling whether two runs read the same data."""

    @property
    def documents(self) -> int:
        return len(self.offsets) - 1

    def document(self, index: int) -> Tokens:
        """Tokens of document ``index``, its end-of-sequence id included."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]


def token_counts(shards: Mapping[str, Shard]) -> dict[str, int]:
    """Tokens of each label."""
    return {label: len(shard.tokens) for label, shard in shards.items()}


@dataclass(frozen=True)
class _Encoded:
    id: str
    tokens: Tokens
    bytes: int


def write_shards(documents: Iterable[Document], tokenizer: BatchTokenizer, folder: Path, split: str) -> dict[str, Any]:
    """Tokenise ``documents`` and write ``folder/split``, replacing what was there; returns what ``shards.json`` holds.

    Documents are written in the order of their ids, a shuffle that does not depend on where they came from or when. All
    tokens are in memory for the sort: 2 or 4 bytes each.
    """
    dtype = np.dtype(_DTYPES[0] if tokenizer.vocab_size <= 2**16 else _DTYPES[1])
    labels: dict[str, list[_Encoded]] = defaultdict(list)
    for label, encoded in _encode(documents, tokenizer, dtype):
        labels[label].append(encoded)
    if not labels:
        raise DataError(f"{folder / split}: there are no documents to write")
    with atomic_folder(folder / split) as temporary:
        entries = {label: _write_label(temporary, label, labels.pop(label), dtype) for label in sorted(labels)}
        sizes = {"eos_id": tokenizer.eos_id, "vocab_size": tokenizer.vocab_size}
        manifest = {"dtype": dtype.str, **sizes, "labels": entries}
        write_json(temporary / MANIFEST, manifest)
    total = sum(entry["tokens"] for entry in entries.values())
    say(f"shards: {total:,} {split} tokens of {len(entries)} labels in {folder / split}")
    return manifest


def _encode(
    documents: Iterable[Document], tokenizer: BatchTokenizer, dtype: np.dtype[Any]
) -> Iterator[tuple[str, _Encoded]]:
    stream = iter(documents)
    while batch := list(itertools.islice(stream, _BATCH)):
        for document, ids in zip(batch, tokenizer.encode_batch([document.text for document in batch]), strict=True):
            if not _LABEL.fullmatch(document.label):
                raise DataError(f"document {document.id}: label {document.label!r} cannot be a file name")
            tokens = _checked([*ids, tokenizer.eos_id], tokenizer.vocab_size, document).astype(dtype)
            yield document.label, _Encoded(document.id, tokens, len(document.text.encode("utf-8")))


def _checked(ids: Sequence[int], vocab_size: int, document: Document) -> NDArray[np.int64]:
    tokens = np.asarray(ids, dtype=np.int64)
    if tokens.min() < 0 or tokens.max() >= vocab_size:
        raise DataError(
            f"document {document.id}: the tokenizer gave ids {tokens.min()} to {tokens.max()}, "
            f"its vocabulary has {vocab_size}"
        )
    return tokens


def _write_label(folder: Path, label: str, encoded: list[_Encoded], dtype: np.dtype[Any]) -> dict[str, Any]:
    encoded.sort(key=lambda document: document.id)
    binary = folder / f"{label}.bin"
    with binary.open("wb") as stream:
        for document in encoded:
            stream.write(document.tokens.tobytes())
    offsets = np.cumsum([0, *(len(document.tokens) for document in encoded)], dtype=np.int64)
    np.save(folder / f"{label}.index.npy", offsets)
    return {
        "tokens": int(offsets[-1]),
        "documents": len(encoded),
        "bytes": sum(document.bytes for document in encoded),
        "sha256": sha256_of(binary),
    }


def open_shards(folder: Path, split: str) -> dict[str, Shard]:
    """Every label of ``folder/split``."""
    return {label: open_shard(folder, split, label) for label in _manifest(folder, split)["labels"]}


def open_shard(folder: Path, split: str, label: str) -> Shard:
    """Map the tokens of one label. A ``DataError`` says what is wrong with a missing, truncated or damaged file."""
    manifest = _manifest(folder, split)
    entry = manifest["labels"].get(label)
    if entry is None:
        raise DataError(f"{folder / split}: no label {label!r}; there are {', '.join(sorted(manifest['labels']))}")
    dtype = np.dtype(manifest["dtype"])
    binary = folder / split / f"{label}.bin"
    size, expected = _size(binary), entry["tokens"] * dtype.itemsize
    if size != expected:
        raise DataError(f"{binary}: {size:,} bytes instead of {expected:,}; it is damaged, write the shards again")
    return Shard(
        label=label,
        tokens=np.memmap(binary, dtype=dtype, mode="r"),
        offsets=_offsets(folder / split / f"{label}.index.npy", entry),
        eos_id=manifest["eos_id"],
        sha256=entry["sha256"],
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; write the shards again") from None


def _offsets(path: Path, entry: dict[str, Any]) -> NDArray[np.int64]:
    _size(path)
    try:
        offsets = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path}: not a readable index ({error}); write the shards again") from None
    right_shape = offsets.dtype == np.int64 and offsets.shape == (entry["documents"] + 1,)
    if not right_shape or offsets[0] != 0 or offsets[-1] != entry["tokens"] or np.any(np.diff(offsets) < 1):
        raise DataError(f"{path}: not the index of {entry['documents']:,} documents; write the shards again")
    return offsets


def _manifest(folder: Path, split: str) -> dict[str, Any]:
    path = folder / split / MANIFEST
    manifest = read_json(path)
    try:
        problems = _manifest_problems(manifest)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a shard manifest ({type(error).__name__}: {error})") from None
    if problems:
        raise DataError(f"{path}: {problems}")
    return dict(manifest)


def _manifest_problems(manifest: Any) -> str:
    if manifest["dtype"] not in _DTYPES:
        return f"dtype {manifest['dtype']!r} is neither {' nor '.join(_DTYPES)}"
    fields = {"tokens": int, "documents": int, "bytes": int, "sha256": str}
    for label, entry in manifest["labels"].items():
        wrong = [name for name, kind in fields.items() if not isinstance(entry[name], kind)]
        if wrong or not isinstance(manifest["eos_id"], int):
            return f"label {label!r}: bad {', '.join(wrong) or 'eos_id'}"
    return ""

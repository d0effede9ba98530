from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from kaiyuan.corpus.shards import Shard, open_shard, open_shards, write_shards
from kaiyuan.corpus.sources import Document, document_id
from kaiyuan.errors import DataError


@dataclass(frozen=True)
class Bytes:
    """One token a byte, shifted so that large ids occur too."""

    vocab_size: int = 257
    shift: int = 0

    @property
    def eos_id(self) -> int:
        return self.vocab_size - 1

    def encode_batch(self, texts: list[str], /) -> list[list[int]]:
        return [[byte + self.shift for byte in text.encode()] for text in texts]


def document(text: str, label: str = "web") -> Document:
    return Document(document_id(text), text, "test", "en", label)


DOCUMENTS = [
    document(f"文 number {number} " * (number % 7 + 1), "books" if number % 3 else "web") for number in range(600)
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shards(DOCUMENTS, Bytes(), tmp_path, "train")
    return tmp_path


@pytest.mark.parametrize("tokenizer", [Bytes(), Bytes(vocab_size=65_536), Bytes(vocab_size=128_166, shift=100_000)])
def test_round_trip(tmp_path: Path, tokenizer: Bytes) -> None:
    manifest = write_shards(iter(DOCUMENTS), tokenizer, tmp_path, "train")
    assert manifest["dtype"] == ("<u4" if tokenizer.vocab_size > 65_536 else "<u2")
    assert json.loads((tmp_path / "train" / "shards.json").read_text()) == manifest
    for label in ("books", "web"):
        shard = open_shard(tmp_path, "train", label)
        wanted = sorted((doc for doc in DOCUMENTS if doc.label == label), key=lambda doc: doc.id)
        encoded = [[*tokenizer.encode_batch([doc.text])[0], tokenizer.eos_id] for doc in wanted]
        assert shard.tokens.tolist() == [token for document in encoded for token in document]
        assert [shard.document(index).tolist() for index in range(shard.documents)] == encoded
        assert shard.eos_id == tokenizer.eos_id
        assert manifest["labels"][label]["documents"] == len(wanted)
        assert manifest["labels"][label]["tokens"] == len(shard.tokens) == shard.offsets[-1]
        assert manifest["labels"][label]["bytes"] == sum(len(doc.text.encode()) for doc in wanted)


def test_order_does_not_depend_on_the_order_of_arrival(tmp_path: Path) -> None:
    first = write_shards(DOCUMENTS, Bytes(), tmp_path / "a", "train")
    again = write_shards(DOCUMENTS[::-1], Bytes(), tmp_path / "b", "train")
    assert first == again
    assert (tmp_path / "a/train/web.bin").read_bytes() == (tmp_path / "b/train/web.bin").read_bytes()


def test_tokens_are_mapped_read_only(folder: Path) -> None:
    shard = open_shard(folder, "train", "web")
    assert isinstance(shard.tokens, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        shard.tokens[0] = 1


def test_open_all(folder: Path) -> None:
    shards = open_shards(folder, "train")
    assert sorted(shards) == ["books", "web"]
    assert all(isinstance(shard, Shard) and shard.label == label for label, shard in shards.items())


def test_writing_replaces_what_was_there(folder: Path) -> None:
    write_shards([document("new", "code")], Bytes(), folder, "train")
    assert sorted(open_shards(folder, "train")) == ["code"]
    assert sorted(path.name for path in (folder / "train").iterdir()) == ["code.bin", "code.index.npy", "shards.json"]


def test_empty_text_is_an_end_of_sequence(tmp_path: Path) -> None:
    write_shards([document("")], Bytes(), tmp_path, "train")
    assert open_shard(tmp_path, "train", "web").tokens.tolist() == [256]


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("web.bin", lambda path: path.write_bytes(path.read_bytes()[:-2]), r"web\.bin: .* bytes instead of"),
        ("web.bin", lambda path: path.write_bytes(path.read_bytes() + b"\0"), r"web\.bin: .* bytes instead of"),
        ("web.bin", Path.unlink, r"web\.bin: no such file"),
        ("web.index.npy", Path.unlink, r"web\.index\.npy: no such file"),
        ("web.index.npy", lambda path: path.write_bytes(path.read_bytes()[:-8]), r"npy: not a readable index"),
        ("web.index.npy", lambda path: path.write_bytes(b""), r"npy: not a readable index"),
        ("web.index.npy", lambda path: path.write_bytes(b"no numpy file"), r"npy: not a readable index"),
        ("web.index.npy", lambda path: np.save(path, np.arange(201)), r"not the index of 200 documents"),
        ("web.index.npy", lambda path: np.save(path, np.load(path)[:-1]), r"not the index of 200 documents"),
        ("web.index.npy", lambda path: np.save(path, np.load(path).astype(float)), r"not the index of 200 documents"),
        ("shards.json", Path.unlink, r"shards\.json: no such file"),
        ("shards.json", lambda path: path.write_text("{}"), r"shards\.json: not a shard manifest"),
        ("shards.json", lambda path: path.write_text("[1]"), r"shards\.json: not a shard manifest"),
        ("shards.json", lambda path: path.write_text(path.read_text().replace("<u2", "<f4")), "dtype '<f4' is neither"),
        ("shards.json", lambda path: path.write_text(path.read_text().replace('"documents": 200', '"documents": "x"')),
         "label 'web': bad documents"),
    ],
)  # fmt: skip
def test_damage_is_noticed(folder: Path, file: str, change: object, message: str) -> None:
    change(folder / "train" / file)  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        open_shard(folder, "train", "web")


def test_unsorted_offsets_are_noticed(folder: Path) -> None:
    path = folder / "train" / "web.index.npy"
    offsets = np.load(path)
    offsets[[5, 6]] = offsets[[6, 5]]
    np.save(path, offsets)
    with pytest.raises(DataError, match="not the index"):
        open_shard(folder, "train", "web")


def test_unknown_label_and_split(folder: Path) -> None:
    with pytest.raises(DataError, match="no label 'poems'; there are books, web"):
        open_shard(folder, "train", "poems")
    with pytest.raises(DataError, match="no such file"):
        open_shard(folder, "heldout", "web")


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no documents"):
        write_shards([], Bytes(), tmp_path, "train")
    with pytest.raises(DataError, match="cannot be a file name"):
        write_shards([document("text", "../web")], Bytes(), tmp_path, "train")
    with pytest.raises(DataError, match=r"gave ids .* to 320, its vocabulary has 257"):
        write_shards([document("a\x80", "web")], Bytes(shift=126), tmp_path, "train")
    assert not (tmp_path / "train").exists()


def test_a_failure_leaves_the_old_shards(folder: Path) -> None:
    before = (folder / "train" / "web.bin").read_bytes()
    with pytest.raises(DataError):
        write_shards([*DOCUMENTS[:5], document("x", "a/b")], Bytes(), folder, "train")
    assert (folder / "train" / "web.bin").read_bytes() == before
    assert not [path for path in folder.iterdir() if path.name != "train"]


def test_labels_in_chinese(tmp_path: Path) -> None:
    write_shards([document("天地", "诗")], Bytes(), tmp_path, "train")
    shutil.move(tmp_path / "train", tmp_path / "moved")
    assert open_shard(tmp_path, "moved", "诗").documents == 1

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_texts import PIECES, texts

from kaiyuan.corpus.shards import write_shards
from kaiyuan.corpus.sources import Document
from kaiyuan.errors import CheckpointError, DataError
from kaiyuan.tokenizer import StreamDecoder, Tokenizer, has_tokenizer, load_tokenizer
from kaiyuan.tokenizer.special import special_tokens

HALVES = st.text(st.sampled_from("a我\ud83d\ude00\ud800\udfff \ufeff"), max_size=8)


@given(text=texts)
def test_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == unicodedata.normalize("NFC", text)


@given(text=texts)
def test_text_never_becomes_a_special_token(tokenizer: Tokenizer, text: str) -> None:
    assert not set(tokenizer.encode(text)) & set(tokenizer.special_ids.values())


@pytest.mark.parametrize("name", special_tokens(8))
def test_special_strings_are_text_and_special_ids_are_not(tokenizer: Tokenizer, name: str) -> None:
    id = tokenizer.special_id(name)
    assert tokenizer.decode(tokenizer.encode(name)) == name
    assert len(tokenizer.encode(name)) > 1
    assert tokenizer.decode([id]) == ""
    assert tokenizer.decode([id], skip_special_tokens=False) == name
    assert tokenizer.decode_bytes([id], skip_special_tokens=False) == name.encode()


@pytest.mark.parametrize("flag", [True, False])
def test_a_copy_keeps_text_and_special_tokens_apart(tokenizer: Tokenizer, flag: bool) -> None:
    backend = tokenizers.Tokenizer.from_str(pickle.loads(pickle.dumps(tokenizer))._backend.to_str())
    backend.encode_special_tokens = flag
    for copy in (pickle.loads(pickle.dumps(tokenizer)), Tokenizer(backend)):
        assert copy.encode("<|eos|>") == tokenizer.encode("<|eos|>")
        assert copy.special_ids == tokenizer.special_ids


def test_a_batch_is_its_texts(tokenizer: Tokenizer) -> None:
    batch = [*PIECES, "", "".join(PIECES)]
    assert tokenizer.encode_batch(batch) == [tokenizer.encode(text) for text in batch]
    assert tokenizer.encode_batch([]) == []
    assert tokenizer.encode("") == []


def test_special_ids_are_the_last(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 1000
    assert list(tokenizer.special_ids.items()) == list(zip(special_tokens(8), range(987, 1000), strict=True))
    assert (tokenizer.document_end_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (987, 988, 990, 991)
    assert tokenizer.special_id("<|extra_0|>") == 992
    assert tokenizer.end_ids == [990, 987, 997]
    with pytest.raises(CheckpointError, match=r"no special token '<\|extra_99\|>'; it has <\|endoftext\|>"):
        tokenizer.special_id("<|extra_99|>")


@given(ids=st.lists(st.integers(-2, 1100), max_size=30))
def test_decoding_as_the_library_does(tokenizer: Tokenizer, ids: list[int]) -> None:
    known = [id for id in ids if 0 <= id < tokenizer.vocab_size]
    assert tokenizer.decode(known) == tokenizer._backend.decode(known)
    assert tokenizer.decode(known) == tokenizer.decode_bytes(known).decode(errors="replace")
    if len(known) < len(ids):
        assert "\N{REPLACEMENT CHARACTER}" in tokenizer.decode(ids)


@given(ids=st.lists(st.integers(0, 1010), max_size=30), skip=st.booleans())
def test_stream_is_the_whole_in_pieces(tokenizer: Tokenizer, ids: list[int], skip: bool) -> None:
    stream = StreamDecoder(tokenizer, skip_special_tokens=skip)
    pieces = [stream.feed(id) for id in ids]
    assert "".join(pieces) + stream.flush() == tokenizer.decode(ids, skip_special_tokens=skip)


@given(text=texts, size=st.integers(1, 4))
def test_stream_never_cuts_a_character(tokenizer: Tokenizer, text: str, size: int) -> None:
    stream, ids, shown = StreamDecoder(tokenizer), tokenizer.encode(text), ""
    for start in range(0, len(ids), size):
        shown += stream.feed(*ids[start : start + size])
        assert unicodedata.normalize("NFC", text).startswith(shown)
        made = tokenizer.decode_bytes(ids[: start + size])
        assert 0 <= len(made) - len(shown.encode()) <= 3  # as soon as it is whole, it is shown
    assert stream.flush() == ""


@given(text=HALVES)
def test_half_surrogates_do_not_stop_a_batch(tokenizer: Tokenizer, text: str) -> None:
    sound = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert tokenizer.encode_batch(["x", text]) == [tokenizer.encode("x"), tokenizer.encode(sound)]


def test_not_text(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match=r"texts\[1\]: expected a string, got NoneType"):
        tokenizer.encode_batch(["x", None])  # type: ignore[list-item]


def test_documents_end_with_the_end_of_a_document(tokenizer: Tokenizer, tmp_path: Path) -> None:
    documents = [Document(str(n), text, "s", "en", "web") for n, text in enumerate(("One.", "二。"))]
    writer = tokenizer.for_documents()
    assert (writer.eos_id, writer.vocab_size) == (tokenizer.document_end_id, 1000)
    manifest = write_shards(documents, writer, tmp_path, "train")
    assert manifest["labels"]["web"]["tokens"] == sum(len(tokenizer.encode(d.text)) + 1 for d in documents)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_saved_loaded_and_saved_again(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "a")
    loaded = load_tokenizer(tmp_path / "a")
    loaded.save(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert sorted(contents(tmp_path / "a")) == ["generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    assert loaded.encode_batch(PIECES) == tokenizer.encode_batch(PIECES)
    assert loaded.special_ids == tokenizer.special_ids
    assert loaded.names == tokenizer.names
    assert load_tokenizer(tmp_path / "a" / "tokenizer.json").encode("我们") == tokenizer.encode("我们")


def test_generation_settings_of_a_model_are_kept(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "generation_config.json"
    path.write_text('{"top_k": 20, "eos_token_id": 1}')
    tokenizer.save(tmp_path)
    assert json.loads(path.read_text()) == {
        "top_k": 20, "eos_token_id": [990, 987, 997], "pad_token_id": 991, "bos_token_id": 988,
    }  # fmt: skip
    tokenizer.save(tmp_path, {"top_k": 5, "do_sample": True})
    assert json.loads(path.read_text())["top_k"] == 5
    path.write_text("[]")
    with pytest.raises(CheckpointError, match=r"generation_config\.json: expected a JSON object, found list"):
        tokenizer.save(tmp_path)


@pytest.fixture(scope="module")
def theirs(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    return AutoTokenizer.from_pretrained(folder)


@given(text=texts)
def test_transformers_gives_the_same_ids(theirs: Any, tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert theirs(text, split_special_tokens=True, add_special_tokens=False)["input_ids"] == ids
    assert theirs.decode(ids) == tokenizer.decode(ids)


def test_transformers_knows_the_special_tokens(theirs: Any, tokenizer: Tokenizer) -> None:
    assert len(theirs) == 1000
    assert theirs.bos_token_id == tokenizer.bos_id
    assert theirs.eos_token_id == tokenizer.eos_id
    assert theirs.pad_token_id == tokenizer.pad_id
    assert theirs("hello")["input_ids"] == tokenizer.encode("hello")
    assert theirs("hello<|eos|>")["input_ids"] == [*tokenizer.encode("hello"), tokenizer.eos_id]


def foreign_folder(folder: Path, config: dict[str, object], specials: list[str]) -> Path:
    """A byte-level BPE tokenizer as another model has it, cut and padded, with a start token added by itself."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    names = specials[:1]  # GPT-2's way: the special token is in the model's own vocabulary too
    vocabulary = {token: id for id, token in enumerate([*names, *alphabet, "ab"])}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [("a", "b")]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(specials)
    backend.add_tokens(["<é>"])
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{specials[0]} $A", special_tokens=[(specials[0], 0)]
    )
    backend.enable_truncation(3)
    backend.enable_padding(length=5)
    folder.mkdir(parents=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}}
    folder = foreign_folder(tmp_path / "a", config, ["<s>", "</s>", "<pad>"])
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.document_end_id) == (0, 258, 258)
    assert tokenizer.vocab_size == 261
    assert tokenizer.encode_batch(["a", "ab", "aab"]) == [[65], [257], [65, 257]]
    assert tokenizer.end_ids == [258]
    assert tokenizer.special_ids == {"<s>": 0, "</s>": 258, "<pad>": 259}
    ids = tokenizer.encode("abab <s></s>ü<é>")
    assert tokenizer.decode(ids) == "abab <s></s>ü<é>"
    assert ids[-1] == 260
    assert not {0, 258, 259} & set(ids)
    with pytest.raises(CheckpointError, match=r"no special token '<\|pad\|>'"):
        _ = tokenizer.pad_id
    tokenizer.save(tmp_path / "b")
    again = load_tokenizer(tmp_path / "b")
    assert (again.names, again.special_ids) == (tokenizer.names, tokenizer.special_ids)
    assert "chat_template" not in json.loads((tmp_path / "b" / "tokenizer_config.json").read_text())


def test_hunyuan_names_win_over_the_config(tmp_path: Path) -> None:
    config = {"bos_token": "<|bos|>", "eos_token": "<|endoftext|>", "pad_token": "<|pad|>"}
    tokenizer = load_tokenizer(foreign_folder(tmp_path / "a", config, special_tokens(8)))
    assert tokenizer.special_ids[tokenizer.names.eos] == tokenizer.eos_id == tokenizer.special_id("<|eos|>")
    assert tokenizer.bos_id == tokenizer.special_id("<|startoftext|>")
    assert tokenizer.document_end_id == 0


def test_only_byte_level_bpe(tmp_path: Path) -> None:
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match=r"json: not a byte-level BPE tokenizer: its model is WordLevel"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"no tokenizer in this folder: looked for tokenizer\.json and \*\.tiktoken"),
        ({"tokenizer.json": "{"}, r"tokenizer\.json: not a tokenizer that the tokenizers library can read"),
        ({"tokenizer.json": "{}"}, r"tokenizer\.json: not a tokenizer that the tokenizers library can read"),
        ({"a.tiktoken": "", "b.tiktoken": ""}, r"more than one tokenizer \(a\.tiktoken, b\.tiktoken\)"),
    ],
)
def test_folders_that_cannot_be_read(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert has_tokenizer(tmp_path) == bool(files)


def test_paths_that_are_no_tokenizer(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(CheckpointError, match="absent: no such file or folder"):
        load_tokenizer(tmp_path / "absent")
    (tmp_path / "x.bin").touch()
    with pytest.raises(CheckpointError, match=r"x\.bin: not a tokenizer"):
        load_tokenizer(tmp_path / "x.bin")
    tokenizer.save(tmp_path)
    assert has_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("3")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: expected a JSON object, found int"):
        load_tokenizer(tmp_path)


def test_the_package_does_not_import_the_library() -> None:
    code = "import kaiyuan, sys; assert 'tokenizers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

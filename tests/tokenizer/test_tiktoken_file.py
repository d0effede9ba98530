from __future__ import annotations

import base64
import random
import time
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_texts import texts

from kaiyuan.errors import CheckpointError
from kaiyuan.tokenizer import Tokenizer, load_tiktoken, load_tokenizer

# The pattern as in Hunyuan-Large's files, written once more: what is compared must not come from the code under test.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = [bytes([byte]) for byte in range(256)]


def write_ranks(path: Path, tokens: Sequence[bytes]) -> Path:
    path.write_bytes(b"".join(b"%b %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens)))
    return path


def reference(tokens: Sequence[bytes]) -> tiktoken.Encoding:
    """tiktoken on ``tokens``, with Hunyuan-Large's special tokens behind them."""
    names = ["<|endoftext|>", "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>"]
    names += [f"<|extra_{n}|>" for n in range(204)]
    return tiktoken.Encoding(
        "reference",
        pat_str=PATTERN,
        mergeable_ranks={token: rank for rank, token in enumerate(tokens)},
        special_tokens={name: len(tokens) + n for n, name in enumerate(names)},
    )


def expected(encoding: tiktoken.Encoding, text: str) -> list[int]:
    return encoding.encode_ordinary(unicodedata.normalize("NFC", text))


def joined_at_random(rng: random.Random, alphabet: Sequence[bytes], count: int, longest: int) -> list[bytes]:
    """``count`` different joins of two earlier tokens, in random order: a vocabulary that no training would give."""
    made, pool = set(alphabet), list(alphabet)
    while len(pool) < len(alphabet) + count:
        token = rng.choice(pool) + rng.choice(pool)
        if len(token) <= longest and token not in made:
            made.add(token)
            pool.append(token)
    joins = pool[len(alphabet) :]
    rng.shuffle(joins)
    return joins


@pytest.fixture(scope="module")
def tokens(tokenizer: Tokenizer) -> list[bytes]:
    """The trained vocabulary as ranks, and some Chinese words that no two of its tokens make: rank files have them."""
    trained = [tokenizer.decode_bytes([id]) for id in range(tokenizer.document_end_id)]
    words = [word.encode() for word in ("人工智能", "臺灣", "𠮷野家", "naïve")]
    return [*trained, *(word for word in words if word not in trained)]


@pytest.fixture(scope="module")
def loaded(tokens: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tiktoken(write_ranks(tmp_path_factory.mktemp("ranks") / "hy.tiktoken", tokens))


@pytest.fixture(scope="module")
def encoding(tokens: list[bytes]) -> tiktoken.Encoding:
    return reference(tokens)


@settings(max_examples=400)
@given(text=texts)
def test_ids_are_those_of_tiktoken(loaded: Tokenizer, encoding: tiktoken.Encoding, text: str) -> None:
    ids = loaded.encode(text)
    assert ids == expected(encoding, text)
    assert loaded.decode(ids) == encoding.decode(ids)


def test_real_text_as_tiktoken(loaded: Tokenizer, encoding: tiktoken.Encoding, corpus: list[str]) -> None:
    assert loaded.encode_batch(corpus) == [expected(encoding, text) for text in corpus]


def test_a_whole_piece_that_is_a_token_needs_no_merges(loaded: Tokenizer, tokens: list[bytes]) -> None:
    assert loaded.encode("人工智能") == [tokens.index("人工智能".encode())]
    assert len(loaded.encode("人工智能吗")) > 2


def test_special_tokens_are_behind_the_ranks(loaded: Tokenizer, encoding: tiktoken.Encoding) -> None:
    assert loaded.special_ids == {name: encoding.encode_single_token(name) for name in encoding.special_tokens_set}
    assert loaded.vocab_size == encoding.n_vocab
    first = loaded.document_end_id
    assert (loaded.bos_id, loaded.eos_id, loaded.pad_id) == (first + 1, first + 3, first + 4)
    assert loaded.special_id("<|extra_203|>") == loaded.vocab_size - 1
    assert loaded.end_ids[0] == first + 3


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), letters=st.sampled_from(["ab", "abc", "我人a", " -"]), count=st.integers(1, 150))
def test_random_ranks_as_tiktoken(
    tmp_path_factory: pytest.TempPathFactory, seed: int, letters: str, count: int
) -> None:
    rng = random.Random(seed)
    ranks = [*BYTES, *joined_at_random(rng, sorted({bytes([b]) for b in letters.encode()}), count, 12)]
    rng.shuffle(ranks)
    loaded = load_tiktoken(write_ranks(tmp_path_factory.mktemp("random") / "x.tiktoken", ranks))
    encoding = reference(ranks)
    batch = ["".join(rng.choices(letters, k=rng.randint(1, 60))) for _ in range(60)]
    assert loaded.encode_batch(batch) == [expected(encoding, text) for text in batch]


def test_as_many_ranks_as_the_release_has(tmp_path: Path) -> None:
    rng = random.Random(0)
    letters = [*(bytes([byte]) for byte in b"etaoinshrdlu "), *(char.encode() for char in "的一是不了人我在有他")]
    halves = joined_at_random(rng, letters, 600, 12)
    joins = sorted({first + second for first in halves for second in halves} - set(halves))
    rng.shuffle(joins)
    tokens = [*BYTES, *letters[13:], *halves, *joins][:127_957]
    write_ranks(tmp_path / "hy.tiktoken", tokens)
    start = time.process_time()
    loaded = load_tokenizer(tmp_path)
    seconds = time.process_time() - start
    assert loaded.vocab_size == 128_166
    assert (loaded.document_end_id, loaded.eos_id, loaded.pad_id) == (127_957, 127_960, 127_961)
    assert (loaded.special_id("<|extra_0|>"), loaded.special_id("<|extra_5|>")) == (127_962, 127_967)
    encoding = reference(tokens)
    batch = [b"".join(rng.choices(tokens[256:], k=30)).decode() for _ in range(2000)]
    assert loaded.encode_batch(batch) == [expected(encoding, text) for text in batch]
    assert seconds < 15, f"{seconds:.1f} s of processor time to load"


def test_it_is_saved_as_tokenizer_json(loaded: Tokenizer, corpus: list[str], tmp_path: Path) -> None:
    loaded.save(tmp_path / "a")
    again = load_tokenizer(tmp_path / "a")
    assert again.encode_batch(corpus) == loaded.encode_batch(corpus)
    assert again.special_ids == loaded.special_ids
    again.save(tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


@pytest.mark.parametrize(
    ("line", "replacement", "message"),
    [
        (7, b"BQ==", r":7: expected a token in base64 and the rank 6, found 'BQ=='"),
        (7, b"", r":7: expected a token in base64 and the rank 6, found ''"),
        (7, b"BQ== 9", r":7: expected a token in base64 and the rank 6, found 'BQ== 9'"),
        (7, b"BQ== six", r":7: expected .*'BQ== six'"),
        (7, b"BQ== 6 6", r":7: expected .*'BQ== 6 6'"),
        (7, b"B!== 6", r":7: not base64: 'B!=='"),
        (7, b"\xff\xfe 6", r":7: not base64"),
        (7, b"AQ== 6", r":7: the token of line 2 once more"),
        (7, b"==== 6", r":7: (not base64|an empty token)"),
        (1, b"version https://git-lfs.github.com/spec/v1", r":1: expected a token in base64 and the rank 0"),
        (7, b"QUI= 6", r"hy\.tiktoken: no rank for 1 of the 256 bytes, 0x06 among them"),
    ],
)
def test_damaged_lines_are_named(tmp_path: Path, line: int, replacement: bytes, message: str) -> None:
    path = write_ranks(tmp_path / "hy.tiktoken", BYTES)
    lines = path.read_bytes().split(b"\n")
    lines[line - 1] = replacement
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_tiktoken(path)
    assert str(path) in str(caught.value)


def test_files_that_are_not_there_or_empty(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"x\.tiktoken: cannot be read: No such file"):
        load_tiktoken(tmp_path / "x.tiktoken")
    (tmp_path / "x.tiktoken").touch()
    with pytest.raises(CheckpointError, match=r"no rank for 256 of the 256 bytes"):
        load_tiktoken(tmp_path / "x.tiktoken")


def test_a_special_token_among_the_ranks(tmp_path: Path) -> None:
    path = write_ranks(tmp_path / "x.tiktoken", [*BYTES, b"ab", b"<|eos|>"])
    with pytest.raises(CheckpointError, match=r"x\.tiktoken:258: <\|eos\|> is a special token"):
        load_tiktoken(path)


def test_line_ends_of_another_system(tmp_path: Path) -> None:
    path = write_ranks(tmp_path / "x.tiktoken", [*BYTES, b"ab"])
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_tiktoken(path).encode("abb") == [256, ord("b")]

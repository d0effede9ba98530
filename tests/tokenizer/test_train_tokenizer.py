from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaiyuan.errors import ConfigError, DataError
from kaiyuan.tokenizer import Tokenizer, train_tokenizer
from kaiyuan.tokenizer.byte_level import BYTE_TO_CHAR, to_bytes, to_chars


def saved(tokenizer: Tokenizer, folder: Path) -> bytes:
    tokenizer.save(folder)
    return (folder / "tokenizer.json").read_bytes()


def test_every_byte_has_a_token(tokenizer: Tokenizer) -> None:
    singles = {tokenizer.decode_bytes([id]) for id in range(tokenizer.vocab_size)}
    assert {bytes([byte]) for byte in range(256)} <= singles


def test_tokens_are_real_words(tokenizer: Tokenizer) -> None:
    tokens = {tokenizer.decode([id]) for id in range(tokenizer.vocab_size)}
    assert {" the", "。", "的", "ing", "    "} <= tokens
    assert len(tokenizer.encode(" the")) == 1


def test_digits_one_by_one(tokenizer: Tokenizer) -> None:
    numbers = ["2024年"] * 50 + ["1234567890 " * 10] * 50
    tokenizer = train_tokenizer(numbers + ["words for merges, more words"] * 3, 275)
    assert [tokenizer.decode([id]) for id in tokenizer.encode("2024")] == ["2", "0", "2", "4"]


def test_the_same_text_gives_the_same_bytes_on_any_number_of_cores(
    corpus: list[str], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    shuffled = random.Random(0).sample(corpus, len(corpus))
    expected = saved(tokenizer, tmp_path / "a")
    assert saved(train_tokenizer(shuffled, 1000), tmp_path / "b") == expected
    code = (
        "import sys; from tokenizer_texts import training_texts; from kaiyuan.tokenizer import train_tokenizer\n"
        "train_tokenizer(training_texts(), 1000).save(sys.argv[1])"
    )
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "c")], env=environment, check=True, timeout=120)
    assert (tmp_path / "c" / "tokenizer.json").read_bytes() == expected


def test_ties_are_broken_alike() -> None:
    words = [f"{a}{b}" for a in "qxzjkv" for b in "wpymbg"]  # every pair occurs as often as every other
    vocabularies = set()
    for seed in range(6):
        texts = random.Random(seed).sample(words * 2, len(words) * 2)
        tokenizer = train_tokenizer(texts, 290)
        vocabularies.add(tuple(tokenizer.decode_bytes([id]) for id in range(256, 277)))
    assert len(vocabularies) == 1


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(DataError, match="too short for a vocabulary of 5000 tokens: it gives 2"):
        train_tokenizer(["a short text, a short text"], 5000)
    with pytest.raises(DataError, match="too short for a vocabulary of 270 tokens: it gives 269"):
        train_tokenizer([], 270)
    assert train_tokenizer([], 269).vocab_size == 269
    with pytest.raises(ConfigError, match="vocab_size is 268: 256 bytes and 13 special tokens must fit in"):
        train_tokenizer(["a"], 268)
    with pytest.raises(ConfigError, match="extras is 4"):
        train_tokenizer(["a"], 300, extras=4)
    with pytest.raises(DataError, match=r"texts\[1\]: expected a string, got bytes"):
        train_tokenizer(["a", b"a"], 300)  # type: ignore[list-item]


def test_half_surrogates_do_not_stop_training() -> None:
    assert train_tokenizer(["ab\ud800"] * 2, 270).encode("ab") == [256]


@given(st.binary())
def test_bytes_as_characters(data: bytes) -> None:
    assert to_bytes(to_chars(data)) == data


def test_the_alphabet_is_the_librarys() -> None:
    from tokenizers.pre_tokenizers import ByteLevel

    assert sorted(BYTE_TO_CHAR.values()) == sorted(ByteLevel.alphabet())
    for byte in range(128):
        assert ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(chr(byte))[0][0] == to_chars(
            bytes([byte])
        )

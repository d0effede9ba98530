"""Text as it is made: whole characters, stop texts never shown, whatever the tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaiyuan.inference.text import TextStream
from kaiyuan.tokenizer import Tokenizer, train_tokenizer

TEXTS = ["the stop is near, the end is nearer; 停止符在前，终点在后。" * 3, "ababab abc 停停停止 🙂🙃"] * 4


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, vocab_size=320)


@given(
    text=st.lists(st.sampled_from(["a", "b", "ab", "abc", "停", "停止", "🙂", " ", "end"]), max_size=25).map("".join),
    stops=st.lists(st.sampled_from(["abc", "bab", "停止", "end", "🙂🙂", "a b"]), max_size=3, unique=True).map(tuple),
)
def test_pieces_join_to_the_text_before_the_first_stop(tokenizer: Tokenizer, text: str, stops: tuple[str, ...]) -> None:
    stream, shown = TextStream(tokenizer, stops), ""
    places = [text.find(stop) for stop in stops if stop in text]
    expected = text[: min(places)] if places else text
    for token in tokenizer.encode(text):
        piece = stream.feed(token)
        shown += piece
        assert expected.startswith(shown), "nothing is shown that must be taken back"
        assert "\ufffd" not in piece
    assert stream.stopped == bool(places)
    assert shown + stream.flush() == expected


def test_without_stop_texts_nothing_is_held_back(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer)
    assert [stream.feed(token) for token in tokenizer.encode("ab")] != [""]
    assert stream.flush() == ""


def test_an_answer_that_ends_inside_a_character_says_so(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer)
    (first, *_) = [token for token in range(tokenizer.vocab_size) if tokenizer.decode_bytes([token]) == b"\xe5"]
    assert stream.feed(first) == ""
    assert stream.flush() == "\ufffd"

from __future__ import annotations

import itertools
import random

import pytest

from kaiyuan.corpus.dedup import Duplicate, bands, deduplicate, shingles
from kaiyuan.corpus.sources import Document, document_id
from kaiyuan.corpus.split import is_held_out
from kaiyuan.errors import DataError

ENGLISH = [f"{a}{b}" for a in ("ba", "ce", "di", "fo", "gu", "ha") for b in ("lo", "mi", "nar", "pel", "quit", "ros", "t")]
CHINESE = [chr(code) for code in range(0x4E00, 0x4E00 + 400)]


def document(text: str, language: str = "en") -> Document:
    return Document(document_id(text), text, "test", language, "web")


def variants(rng: random.Random, words: list[str], joint: str, length: int) -> list[Document]:
    """A random text and copies of it with more and more words exchanged."""
    base = rng.choices(words, k=length)
    copies = []
    for changes in (0, 1, 2, 4, 8, 16, 32):
        copy = list(base)
        for _ in range(changes):
            copy[rng.randrange(length)] = rng.choice(words)
        copies.append(document(joint.join(copy)))
    return copies


def jaccard(left: str, right: str) -> float:
    first, second = set(shingles(left)), set(shingles(right))
    return len(first & second) / len(first | second)


def test_shingles() -> None:
    assert shingles("One two, THREE four five six!") == ["one two three four five", "two three four five six"]
    assert shingles("天地玄黄，宇宙洪荒。日") == ["天 地 玄 黄 宇 宙 洪 荒", "地 玄 黄 宇 宙 洪 荒 日"]
    assert shingles("Just three words") == ["just three words"]
    assert shingles("……") == [""]


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.9])
@pytest.mark.parametrize(("words", "joint", "length"), [(ENGLISH, " ", 200), (CHINESE, "", 300), (CHINESE, "", 60)])
def test_against_brute_force(words: list[str], joint: str, length: int, threshold: float) -> None:
    """Every pair that is clearly (by 0.15, three standard errors) above the threshold is found, none clearly below."""
    rng = random.Random(f"{len(words)} {length} {threshold}")
    texts = {doc.id: doc for _ in range(40) for doc in variants(rng, words, joint, length)}
    kept, dropped = deduplicate(texts.values(), threshold)
    for left, right in itertools.combinations(kept, 2):
        assert jaccard(left.text, right.text) < threshold + 0.15
    for duplicate in dropped:
        exact = jaccard(texts[duplicate.dropped].text, texts[duplicate.kept].text)
        assert exact > threshold - 0.15
        assert abs(exact - duplicate.similarity) < 0.15
    assert len(kept) + len(dropped) == len(texts)
    assert len(kept) >= 40  # at least one of each group
    assert len(dropped) >= 40  # and the copies with one change never both


def test_the_first_stays_and_order_is_kept() -> None:
    rng = random.Random(0)
    documents = [doc for _ in range(20) for doc in variants(rng, ENGLISH, " ", 300)]
    rng.shuffle(documents)
    kept, dropped = deduplicate(documents)
    ids = [doc.id for doc in documents]
    assert [doc.id for doc in kept] == [doc.id for doc in documents if doc in kept]
    assert {doc.id for doc in kept}.isdisjoint(duplicate.dropped for duplicate in dropped)
    for duplicate in dropped:
        assert duplicate.kept in {doc.id for doc in kept}
        assert ids.index(duplicate.kept) < ids.index(duplicate.dropped)
    assert deduplicate(documents) == (kept, dropped)


def test_exact_duplicates_go_by_id() -> None:
    one, other = document("The same text."), document("天地玄黄")
    copy = Document(one.id, one.text, "elsewhere", "en", "books")
    kept, dropped = deduplicate([one, other, copy, copy])
    assert kept == [one, other]
    assert dropped == [Duplicate(one.id, one.id, 1.0)] * 2


def test_a_copy_of_a_dropped_document_points_to_the_kept_one() -> None:
    words = [f"word{number}" for number in range(300)]
    first, near = document(" ".join(words)), document(" ".join([*words, "end"]))
    _, dropped = deduplicate([first, near, near])
    assert [(duplicate.dropped, duplicate.kept) for duplicate in dropped] == [(near.id, first.id)] * 2
    assert dropped[0].similarity > 0.9


def test_case_spaces_and_punctuation_make_no_difference() -> None:
    text = "The river rises in the hills above the town, and runs for thirty miles before it meets the sea."
    kept, dropped = deduplicate([document(text), document(text.upper().replace(",", " --\n"))])
    assert len(kept) == 1
    assert dropped[0].similarity == 1.0


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_bands_rarely_miss_a_pair_on_the_threshold(threshold: float) -> None:
    count = bands(threshold)
    assert 128 % count == 0
    assert (1 - threshold ** (128 // count)) ** count <= 0.005


def test_threshold_out_of_range() -> None:
    for threshold in (0.0, 1.1, -1.0):
        with pytest.raises(DataError, match="deduplication threshold"):
            deduplicate([], threshold)


def test_held_out_share_is_met_and_nested() -> None:
    ids = [document_id(str(number)) for number in range(20_000)]
    small, large = ({key for key in ids if is_held_out(key, share)} for share in (0.03, 0.1))
    assert abs(len(small) / len(ids) - 0.03) < 0.005
    assert small < large
    assert not any(is_held_out(key, 0.0) for key in ids)
    assert all(is_held_out(key, 1.0) for key in ids)


def test_held_out_edges_and_errors() -> None:
    assert is_held_out("0" * 16, 1e-9)
    assert not is_held_out("f" * 16, 0.999)
    assert is_held_out("7fffffffffffffff" + "ab" * 24, 0.5)  # a whole SHA-256: the first 16 digits decide
    assert not is_held_out("8000000000000000", 0.5)
    with pytest.raises(DataError, match="not a hash"):
        is_held_out("document-1", 0.5)
    with pytest.raises(DataError, match="not between 0 and 1"):
        is_held_out("0" * 16, 1.5)

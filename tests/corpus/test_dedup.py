from __future__ import annotations

import itertools
import math
import random

import pytest

from kaiyuan.corpus.dedup import Duplicate, bands, deduplicate, shingles
from kaiyuan.corpus.sources import Document, document_id
from kaiyuan.errors import DataError

ENGLISH = [a + b for a in ("ba", "ce", "di", "fo", "gu", "ha") for b in ("lo", "mi", "nar", "pel", "quit", "ros", "t")]
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


def jaccard(left: set[str], right: set[str]) -> float:
    return len(left & right) / len(left | right)


def noise(similarity: float) -> float:
    """Four standard errors of an estimate from 128 minima."""
    return 4 * math.sqrt(similarity * (1 - similarity) / 128)


def test_shingles() -> None:
    assert shingles("One two, THREE four five six!") == ["one two three four five", "two three four five six"]
    assert shingles("天地玄黄，宇宙洪荒。日") == ["天 地 玄 黄 宇 宙 洪 荒", "地 玄 黄 宇 宙 洪 荒 日"]
    assert shingles("Just three words") == ["just three words"]
    assert shingles("……") == [""]


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.9])
@pytest.mark.parametrize(("words", "joint", "length"), [(ENGLISH, " ", 800), (CHINESE, "", 1200)])
def test_against_brute_force(words: list[str], joint: str, length: int, threshold: float) -> None:
    """Every pair whose true Jaccard similarity is clearly above the threshold is found, none clearly below."""
    rng = random.Random(f"{length} {threshold}")
    texts = {doc.id: doc for _ in range(15) for doc in variants(rng, words, joint, length)}
    sets = {key: set(shingles(doc.text)) for key, doc in texts.items()}
    exact = {pair: jaccard(sets[pair[0]], sets[pair[1]]) for pair in itertools.combinations(texts, 2)}
    clear = {pair for pair, similarity in exact.items() if similarity - noise(similarity) >= threshold}
    assert len(clear) >= 10
    kept, dropped = deduplicate(texts.values(), threshold)
    assert len(kept) + len(dropped) == len(texts)
    assert clear.isdisjoint(itertools.combinations([doc.id for doc in kept], 2))
    for duplicate in dropped:
        similarity = exact[duplicate.kept, duplicate.dropped]
        assert similarity + noise(similarity) >= threshold
        assert abs(similarity - duplicate.similarity) <= max(noise(similarity), 0.1)


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

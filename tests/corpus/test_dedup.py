"""Near-duplicates on a labelled set, against brute-force Jaccard similarity, in any order and within any memory."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from labelled import Case, cases

from kaiyuan.corpus.dedup import Decisions, Records, Signer, bands, decide, record_type, shingles
from kaiyuan.corpus.dedup.choice import EXACT, NEAR, PAIRS_WITHIN, URL, _similar_pairs
from kaiyuan.corpus.dedup.groups import same_band, same_field
from kaiyuan.corpus.dedup.signature import similarities
from kaiyuan.corpus.sources import document_id
from kaiyuan.corpus.text import Text
from kaiyuan.corpus.units import units

ENGLISH = [a + b for a in ("ba", "ce", "di", "fo", "gu", "ha") for b in ("lo", "mi", "nar", "pel", "quit", "ros", "t")]
CHINESE = [chr(code) for code in range(0x4E00, 0x4E00 + 400)]


def write(folder: Path, texts: Sequence[str], threshold: float = 0.8, *, scores: Sequence[float] = (),
          urls: Sequence[int] = (), files: int = 3) -> Records:  # fmt: skip
    """Records of ``texts`` in some files."""
    folder.mkdir(parents=True, exist_ok=True)
    signer = Signer(threshold)
    table = np.zeros(len(texts), dtype=record_type(signer.bands))
    table["sketch"], table["bands"] = signer.sign([shingles(text) for text in texts])
    table["id"] = [int(document_id(text), 16) for text in texts]
    table["units"] = [len(units(text)) for text in texts]
    table["tie"] = table["id"]
    table["score"] = scores if len(scores) else 0
    table["url"] = urls if len(urls) else 0
    paths = [folder / f"{number}.records" for number in range(files)]
    for path, part in zip(paths, np.array_split(table, files), strict=True):
        path.write_bytes(part.tobytes())
    return Records(paths, signer.bands)


def sets(texts: Sequence[str]) -> list[set[tuple[str, ...]]]:
    """Shingles as the definition has them: tuples of units."""
    found = []
    for text in texts:
        words = units(text.lower())
        size = 8 if 2 * sum("\u3400" <= word[0] <= "\u9fff" for word in words) >= len(words) else 5
        found.append({tuple(words[i : i + size]) for i in range(max(1, len(words) - size + 1))})
    return found


def jaccard(left: set, right: set) -> float:
    return len(left & right) / len(left | right)


def noise(similarity: float) -> float:
    """Four standard errors of an estimate from 128 minima."""
    return 4 * math.sqrt(similarity * (1 - similarity) / 128)


@pytest.fixture(scope="module")
def labelled() -> list[Case]:
    return cases(bases=25)


@pytest.fixture(scope="module")
def exact(labelled: list[Case]) -> dict[tuple[int, int], float]:
    """Jaccard similarities of all pairs from the same base; of others a sample says that they are far apart."""
    found = sets([case.document.text for case in labelled])
    pairs = [(a, b) for a, b in itertools.combinations(range(len(labelled)), 2) if labelled[a].base == labelled[b].base]
    similar = {pair: jaccard(found[pair[0]], found[pair[1]]) for pair in pairs}
    rng = random.Random(1)
    for _ in range(3000):
        a, b = rng.sample(range(len(labelled)), 2)
        if labelled[a].base != labelled[b].base:
            assert jaccard(found[a], found[b]) < 0.6
    return similar


def test_labels_are_what_brute_force_says(labelled: list[Case], exact: dict[tuple[int, int], float]) -> None:
    bases = {case.base: number for number, case in enumerate(labelled) if case.kind == "base"}
    agree = [(exact[bases[case.base], number] >= 0.8) == case.duplicate
             for number, case in enumerate(labelled) if case.kind != "base"]  # fmt: skip
    assert sum(agree) >= 0.97 * len(agree)


def test_precision_and_recall_on_the_labelled_set(
    labelled: list[Case], exact: dict[tuple[int, int], float], tmp_path: Path
) -> None:
    records = write(tmp_path, [case.document.text for case in labelled])
    kept = np.ones(len(records), dtype=bool)
    left, right = _similar_pairs(records, same_band(records, kept, 2**30), 0.8)
    found = set(zip(left.tolist(), right.tolist(), strict=True))
    true = {pair for pair, similarity in exact.items() if similarity >= 0.8}
    assert len(true) > 500
    right_ones = len(found & true)
    assert right_ones / len(found) >= 0.95
    assert right_ones / len(true) >= 0.95
    clear = {pair for pair, similarity in exact.items() if similarity - noise(similarity) >= 0.8}
    assert clear <= found
    assert all(exact.get(pair, 0) + noise(exact.get(pair, 0)) >= 0.8 for pair in found)


def test_decisions_on_the_labelled_set(labelled: list[Case], tmp_path: Path) -> None:
    """Of every base and its duplicates one stays, and everything else does; all kinds, both languages."""
    records = write(tmp_path, [case.document.text for case in labelled])
    gone = decide(records, 0.8).verdicts > 0
    groups: dict[int, list[bool]] = {}
    negatives: dict[str, list[bool]] = {}
    for case, dropped in zip(labelled, gone.tolist(), strict=True):
        if case.duplicate:
            groups.setdefault(case.base, []).append(dropped)
        else:
            negatives.setdefault(case.kind, []).append(dropped)
    right = sum(min(sum(group), len(group) - 1) for group in groups.values())
    lost = sum(map(all, groups.values()))  # for a negative near the threshold that stays instead
    assert right / sum(len(group) - 1 for group in groups.values()) >= 0.99
    assert right / (right + lost + sum(map(sum, negatives.values()))) >= 0.97
    # Far from the threshold nothing goes wrong; 30% cut off is 80% like 12% cut off.
    assert {kind for kind, dropped in negatives.items() if any(dropped)} <= {"cut 30%", "grown 30%"}


def test_order_and_files_make_no_difference(labelled: list[Case], tmp_path: Path) -> None:
    texts = [case.document.text for case in labelled]
    texts += texts[::9]
    scores = [len(text) % 7 / 7 for text in texts]
    rng, found = random.Random(2), []
    for number in range(3):
        order = list(range(len(texts)))
        if number:
            rng.shuffle(order)
        records = write(tmp_path / str(number), [texts[i] for i in order], scores=[scores[i] for i in order],
                        files=1 + 2 * number)  # fmt: skip
        decisions = decide(records, 0.8, memory=2**30 if number < 2 else 2000)
        numbers, keepers, shares = decisions.gone
        ids = [document_id(texts[i]) for i in order]
        near = decisions.verdicts[numbers] == NEAR
        gone = zip(numbers[near], keepers[near], shares[near].tolist(), strict=True)
        kept = sorted(ids[i] for i in np.flatnonzero(decisions.kept))
        found.append((kept, sorted((ids[a], ids[b], share) for a, b, share in gone)))
    assert found[0] == found[1] == found[2]
    assert len(found[0][1]) > 100


def test_the_best_stays(tmp_path: Path) -> None:
    """By score, then length, then id; whatever comes first."""
    words = [f"word{number}" for number in range(300)]
    texts = [" ".join(words), " ".join([*words, "end"]), " ".join(words[1:]), " ".join([*words, "an", "end"])]
    for best, scores in ((2, (0, 0.5, 0.9, 0.1)), (3, (0, 0, 0, 0)), (0, (1, 0, 1, 0))):
        for order in itertools.permutations(range(4)):
            records = write(tmp_path, [texts[i] for i in order], scores=[scores[i] for i in order], files=2)
            decisions = decide(records, 0.8)
            assert [order[i] for i in np.flatnonzero(decisions.kept)] == [best]
            assert set(decisions.gone[1].tolist()) == {order.index(best)}


def test_a_chain_goes_two_steps_at_most(tmp_path: Path) -> None:
    """Each link is like its neighbours only. Two steps from one that stays all go, whichever of them come first."""
    words = [f"word{number}" for number in range(500)]
    chain = [" ".join(words[start : start + 300]) for start in (0, 25, 50, 75, 100, 125)]
    values = sets(chain)
    assert jaccard(values[0], values[1]) > 0.82 > 0.74 > jaccard(values[0], values[2])
    for scores, stay in (([9, 8, 7, 6, 5, 4], [0, 3]), ([4, 5, 6, 7, 8, 9], [2, 5]), ([1, 2, 9, 3, 4, 5], [2, 5]),
                         ([9, 1, 8, 7, 6, 5], [0, 3])):  # fmt: skip
        decisions = decide(write(tmp_path, chain, scores=scores), 0.78)
        assert np.flatnonzero(decisions.kept).tolist() == stay
        for number, keeper, share in zip(*(part.tolist() for part in decisions.gone), strict=True):
            assert scores[keeper] > scores[number]
            exact = jaccard(values[number], values[keeper])
            assert exact >= 2 * 0.78 - 1
            assert abs(exact - share) <= noise(exact)


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.9])
@pytest.mark.parametrize(("words", "joint", "length"), [(ENGLISH, " ", 800), (CHINESE, "", 1200)])
def test_against_brute_force(words: list[str], joint: str, length: int, threshold: float, tmp_path: Path) -> None:
    """Every pair whose true similarity is clearly above the threshold is found, none clearly below is."""
    rng = random.Random(f"{length} {threshold}")
    texts = []
    for _ in range(15):
        base = rng.choices(words, k=length)
        for changes in (0, 1, 2, 4, 8, 16, 32):
            copy = list(base)
            for _ in range(changes):
                copy[rng.randrange(length)] = rng.choice(words)
            texts.append(joint.join(copy))
    found = sets(texts)
    exact = {pair: jaccard(found[pair[0]], found[pair[1]]) for pair in itertools.combinations(range(len(texts)), 2)}
    clear = {pair for pair, similarity in exact.items() if similarity - noise(similarity) >= threshold}
    assert len(clear) >= 10
    decisions = decide(write(tmp_path, texts, threshold), threshold)
    assert clear.isdisjoint(itertools.combinations(np.flatnonzero(decisions.kept).tolist(), 2))
    for number, keeper, share in zip(*(part.tolist() for part in decisions.gone), strict=True):
        similarity = exact[min(number, keeper), max(number, keeper)]
        assert similarity + noise(similarity) >= 2 * threshold - 1
        assert abs(similarity - share) <= max(noise(similarity), 0.1)


def test_large_groups_are_compared_with_their_best(tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(300)]
    texts = [" ".join([*words, f"end{number}"]) for number in range(3 * PAIRS_WITHIN)]
    records = write(tmp_path, texts, scores=np.arange(len(texts)) / 100)
    assert np.flatnonzero(decide(records, 0.8).kept).tolist() == [len(texts) - 1]


def test_one_document_of_each_address_and_text(tmp_path: Path) -> None:
    rng = random.Random(4)
    texts = [" ".join(rng.choices(ENGLISH, k=100)) for _ in range(4)]
    records = write(tmp_path, [*texts, texts[0]], urls=[7, 7, 0, 0, 0], scores=[0, 1, 0, 0, 2], files=2)
    decisions = decide(records, 0.8)
    assert decisions.verdicts.tolist() == [URL, 0, 0, 0, 0]
    assert decide(records, 0.8, urls=False).verdicts.tolist() == [EXACT, 0, 0, 0, 0]
    numbers, keepers, _ = decisions.gone
    assert (numbers.tolist(), keepers.tolist()) == ([0], [1])


def test_groups_do_not_depend_on_memory(tmp_path: Path) -> None:
    rng = random.Random(4)
    texts = [" ".join(rng.choices(ENGLISH, k=60)) for _ in range(300)]
    records = write(tmp_path, texts + texts[:100])
    kept = np.ones(len(records), dtype=bool)

    def groups(memory: int) -> set[tuple[int, ...]]:
        found = itertools.chain(same_band(records, kept, memory), same_field(records, "id", kept, memory))
        return {tuple(sorted(row)) for group in found for row in group.tolist()}

    assert groups(2**30) == groups(4000) == groups(50_000)
    assert len(groups(2**30)) >= 100


def test_shingles() -> None:
    for text in ("One two, THREE four five six!", "天地玄黄，宇宙洪荒。日", "Just three words"):
        assert len(set(shingles(text).tolist())) == len(sets([text])[0])
    assert shingles("……").tolist() == shingles("!!!").tolist() == [0]
    text = "The river rises in the hills above the town, and runs for thirty miles before it meets the sea."
    assert shingles(text).tolist() == shingles(text.upper().replace(",", " --\n")).tolist()


def test_estimates_allow_for_chance() -> None:
    rng = np.random.default_rng(0)
    left = rng.integers(0, 256, (2000, 128), dtype=np.uint8)
    right = rng.integers(0, 256, (2000, 128), dtype=np.uint8)
    assert abs(similarities(left, right).mean()) < 0.004
    half = np.where(np.arange(128) % 2, left, right)
    assert similarities(left, half).mean() == pytest.approx(0.5, abs=0.005)
    assert similarities(left, left).min() == 1.0


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_bands_rarely_miss_a_pair_on_the_threshold(threshold: float) -> None:
    count = bands(threshold)
    assert 128 % count == 0
    assert (1 - threshold ** (128 // count)) ** count <= 0.005


def test_records_are_taken_from_their_files(tmp_path: Path) -> None:
    records = write(tmp_path, [f"text number {number} " * 9 for number in range(20)], files=7)
    everything = np.concatenate([table["id"] for _, table in records.slices(["id"])])
    numbers = np.array([19, 0, 7, 7, 3])
    assert records.take(numbers, ["id", "units"])["id"].tolist() == everything[numbers].tolist()
    assert len(records) == 20


def test_nothing_to_decide(tmp_path: Path) -> None:
    decisions = decide(write(tmp_path, ["a b c d e f g"], files=1), 0.8)
    assert isinstance(decisions, Decisions)
    assert decisions.verdicts.tolist() == [0]
    assert [len(part) for part in decisions.gone] == [0, 0, 0]
    assert Text("").hashes.tolist() == []

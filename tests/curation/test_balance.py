"""Balancing: exact sums, caps and repeats kept, the proportions asked for, a choice by hashes alone."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaiyuan.curation.balance import Balance, choose, full_label, quotas, table

COUNTS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 60), min_size=1)
SETTINGS = st.builds(
    Balance, temperature=st.floats(0, 1), total=st.integers(0, 300), cap=st.integers(0, 50),
    most_repeats=st.integers(1, 4), caps=st.dictionaries(st.sampled_from("abc"), st.integers(0, 30)),
)  # fmt: skip


@given(COUNTS, SETTINGS)
def test_sums_are_exact_and_nothing_passes_its_bounds(counts: dict[str, int], settings: Balance) -> None:
    found = quotas(counts, settings)
    room = {
        label: min(count * settings.most_repeats, settings.caps.get(label, 10**9), settings.cap or 10**9)
        for label, count in counts.items()
    }
    assert all(0 <= found[label] <= room[label] for label in counts)
    assert sum(found.values()) == min(settings.total or sum(counts.values()), sum(room.values()))
    assert found == quotas(dict(reversed(counts.items())), settings)


@given(COUNTS, st.integers(1, 60))
def test_labels_that_are_not_full_have_equal_shares_at_temperature_0(counts: dict[str, int], total: int) -> None:
    """Water-filling by brute force: one at a time to the label that has least and still has room."""
    found = quotas(counts, Balance(temperature=0, total=total))
    plain = dict.fromkeys(counts, 0)
    for _ in range(min(total, sum(counts.values()))):
        label = min((name for name in counts if plain[name] < counts[name]), key=lambda name: (plain[name], name))
        plain[label] += 1
    assert sorted(found.values()) == sorted(plain.values())


def test_temperature_caps_and_weights() -> None:
    counts = {"maths/algebra": 900, "maths/geometry": 100, "law/civil": 25}
    assert quotas(counts, Balance()) == counts
    found = quotas(counts, Balance(temperature=0.5, total=90))
    exact = {label: 90 * count**0.5 / (30 + 10 + 5) for label, count in counts.items()}
    assert all(abs(found[label] - exact[label]) < 1 for label in counts)
    assert quotas(counts, Balance(caps={"maths": 50, "maths/geometry": 10}, total=85)) == {
        "maths/algebra": 50, "maths/geometry": 10, "law/civil": 25,
    }  # fmt: skip
    repeated = quotas(counts, Balance(temperature=0, total=300, most_repeats=4))
    assert repeated == {"maths/algebra": 100, "maths/geometry": 100, "law/civil": 100}
    assert quotas(counts, Balance(weights={"law": 0.0}))["law/civil"] == 0


def test_labels_of_several_dimensions() -> None:
    known = {"language": "zh", "difficulty": 3}
    assert full_label("maths/algebra", ["language", "kind", "difficulty"], known) == "maths/algebra zh - 3"
    counts = {"maths/algebra en": 40, "maths/algebra zh": 10, "maths/geometry zh": 10, "law/civil en": 40}
    assert quotas(counts, Balance(caps={"maths": 8, "maths/algebra": 9, "maths/algebra en": 30, "law/civil": 3})) == {
        "maths/algebra en": 30, "maths/algebra zh": 9, "maths/geometry zh": 8, "law/civil en": 3,
    }  # fmt: skip


@given(st.integers(1, 30), st.integers(0, 90))
def test_all_samples_come_equally_often_give_or_take_one(count: int, wanted: int) -> None:
    names = [f"{number:04x}" for number in range(count)]
    found = choose(names, wanted, 5)
    assert sum(found.values()) == wanted
    assert {found[name] for name in names} <= {wanted // count, wanted // count + 1}
    assert found == choose(names[::-1], wanted, 5)


def test_the_choice_goes_by_hash_so_new_samples_displace_few() -> None:
    names = [f"{number:04x}" for number in range(200)]
    before, after = set(choose(names, 50, 1)), set(choose([*names, "new"], 50, 1))
    assert len(before - after) <= 1
    assert set(choose(names, 50, 2)) != before


def test_the_table() -> None:
    assert table(Counter(a=30, b=10), {"a": 10, "b": 10}).splitlines() == [
        "label    before   share     after   share",
        "a            30   75.0%        10   50.0%",
        "b            10   25.0%        10   50.0%",
        "all          40                20",
    ]


@pytest.mark.parametrize("wrong", [{"temperature": 1.5}, {"most_repeats": 0}, {"unknown": 1}])
def test_wrong_settings(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"temperature|most_repeats|unknown"):
        Balance(**wrong)  # type: ignore[arg-type]

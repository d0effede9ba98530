"""Which samples people see and what their verdicts say: strata, double review, weights."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from curated import decision, sample
from hypothesis import given
from hypothesis import strategies as st

from kaiyuan.curation.log import Decision, Standing, standings
from kaiyuan.curation.review import Plan, next_task, report, shares, tasks
from kaiyuan.curation.sample import Sample

SAMPLES = [sample(f"Q{n}", f"A{n}", labels={"topic": f"{'abc'[n % 3]}/x"}) for n in range(90)]


def graded(*more: Decision) -> dict[str, Standing]:
    """Grades 4, 3 and 1 in turns of ten, every tenth refused by the rules."""
    log = [decision(item, "rules", "drop" if n % 10 == 0 else "keep") for n, item in enumerate(SAMPLES)]
    log += [decision(item, "critique", "431"[n // 10 % 3]) for n, item in enumerate(SAMPLES) if n % 10]
    return standings([*log, *more])


def test_every_stratum_is_seen_and_early_on() -> None:
    known, plan = graded(), Plan(samples=40, double_share=0.25, at_least=2)
    found = tasks(SAMPLES, known, plan)
    assert len(found) == len({task.sample.hash for task in found}) == 40
    by_stratum = Counter(task.stratum for task in found)
    assert len(by_stratum) == 12
    assert min(by_stratum.values()) >= 2
    assert {task.stratum for task in found[:14]} == set(by_stratum)
    assert sum(task.needed == 2 for task in found) == 10
    assert max(sum(task.needed == 2 for task in found[start : start + 8]) for start in range(0, 40, 8)) == 2
    assert [task.sample.hash for task in tasks(SAMPLES[::-1], known, plan)] == [task.sample.hash for task in found]


@given(st.dictionaries(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), st.integers(1, 40), min_size=1),
       st.integers(1, 100), st.integers(0, 5))  # fmt: skip
def test_shares_add_up(counts: Any, wanted: int, at_least: int) -> None:
    found = shares(counts, Plan(samples=wanted, at_least=at_least))
    least = {stratum: min(count, at_least) for stratum, count in counts.items()}
    assert all(least[stratum] <= found[stratum] <= count for stratum, count in counts.items())
    assert sum(found.values()) == max(min(wanted, sum(counts.values())), sum(least.values()))


def test_nobody_sees_a_sample_twice_and_open_ones_count() -> None:
    items = tasks(SAMPLES, graded(), Plan(samples=4, double_share=0.5, at_least=0))
    doubles = [task.sample.hash for task in items if task.needed == 2]
    known: dict[str, Standing] = {}
    seen: dict[str, list[str]] = {"ann": [], "bo": [], "cy": []}
    while any((chosen := {who: next_task(items, known, who, {}) for who in seen}).values()):
        for who in seen:
            task = next_task(items, known, who, {})
            if task:
                seen[who].append(task.sample.hash)
                known.setdefault(task.sample.hash, Standing()).people[who] = decision(
                    task.sample, "human", "keep", by=who
                )
    assert not any(chosen.values())
    assert all(len(names) == len(set(names)) for names in seen.values())
    assert Counter(name for names in seen.values() for name in names) == Counter(
        {task.sample.hash: task.needed for task in items}
    )
    first = items[0]
    busy = {f"p{n}": first.sample.hash for n in range(first.needed)}
    found = next_task(items, {}, "ann", busy)
    assert found is not None
    assert found.sample.hash != first.sample.hash
    assert next_task(items, {}, "p0", busy) is first
    assert len(doubles) == 2


def test_the_report_weighs_strata_and_names_pairs() -> None:
    """Ten of grade 4 shown of thirty, with eight kept; grade 1 shown whole, with three kept."""
    top = [sample(f"T{n}", "A", labels={"topic": "a/x"}) for n in range(30)]
    low = [sample(f"L{n}", "A", labels={"topic": "a/x"}) for n in range(6)]
    base = [decision(item, "rules", "keep") for item in top + low]
    base += [decision(item, "critique", "4") for item in top] + [decision(item, "critique", "1") for item in low]
    items = tasks(top + low, standings(base), Plan(samples=16, at_least=6, double_share=0))
    shown: dict[str, list[Sample]] = {"4": [], "1": []}
    for task in items:
        shown[task.stratum[1][-1]].append(task.sample)
    assert len(shown["1"]) == 6
    votes = [decision(item, "human", "keep" if n < 8 else "drop", by="ann") for n, item in enumerate(shown["4"])]
    votes += [decision(item, "human", "keep" if n < 3 else "drop", by="ann") for n, item in enumerate(shown["1"])]
    votes += [decision(item, "human", "keep" if n < 3 else "drop", by="bo") for n, item in enumerate(shown["1"])]
    found = report(items, top + low, standings([*base, *votes]), min_grade=4)
    critique = found["all"]["critique"]
    assert critique["precision"]["share"] == pytest.approx(0.8)
    assert critique["recall"]["share"] == pytest.approx(24 / 27)
    assert found["pairs"] == [{"people": ["ann", "bo"], "samples": 6, "agreed": 1.0, "kappa": 1.0}]
    assert found["all"]["alpha"] == 1.0
    assert found["all"]["grades"] == {"1": {"samples": 6, "kept": 3}, "4": {"samples": 10, "kept": 8}}
    assert found["people"]["ann"] == {"drop": 5, "keep": 11}
    assert found["labels"]["a"] == found["all"]

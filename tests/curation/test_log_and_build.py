"""The log survives kills and refuses edits; a version is a function of candidates, log and settings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from curated import decision, folder_of, sample

from kaiyuan.curation.balance import Balance
from kaiyuan.curation.build import Selection, build, describe, diff
from kaiyuan.curation.command import trace_sample
from kaiyuan.curation.log import DecisionLog, read_log, standings
from kaiyuan.curation.places import DECISIONS
from kaiyuan.errors import DataError, KaiyuanError
from kaiyuan.files import read_jsonl, write_jsonl

SAMPLES = [sample(f"Question {n}?", f"Answer {n}.", labels={"topic": f"{'ab'[n % 2]}/{n % 4}"}) for n in range(12)]


def everything_kept(*more: object) -> list:  # type: ignore[type-arg]
    kept = [decision(item, "rules", "keep") for item in SAMPLES]
    return [*kept, *(decision(item, "critique", "4") for item in SAMPLES), *more]


def test_a_torn_write_is_cut_off_and_what_was_whole_stays(tmp_path: Path) -> None:
    path = tmp_path / DECISIONS
    with DecisionLog(path) as log:
        log.append([decision(item, "rules", "keep") for item in SAMPLES])
    content = path.read_bytes()
    for cut in (1, 20, 60):
        path.write_bytes(content[:-cut])
        assert len(read_log(path)) == 11, "a reader beside the writer sees whole lines only"
        with DecisionLog(path) as log:
            assert [item.sample for item in log.decisions] == [item.hash for item in SAMPLES[:11]]
            log.append([decision(SAMPLES[11], "rules", "keep")])
        assert path.read_bytes() == content


def test_a_second_writer_is_refused_and_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / DECISIONS
    with DecisionLog(path) as log, pytest.raises(KaiyuanError, match="another process"):
        log.append([decision("a", "rules", "keep"), decision("b", "rules", "keep")])
        DecisionLog(path)
    path.write_text(path.read_text().replace('"tier": "rules"', '"tier": "mood"', 1))
    with pytest.raises(DataError, match=r"decisions.jsonl:1: not a decision"):
        read_log(path)


def test_a_killed_writer_loses_nothing_that_was_confirmed(tmp_path: Path) -> None:
    path = tmp_path / DECISIONS
    code = (
        "import sys; from pathlib import Path\n"
        "from curated import decision; from kaiyuan.curation.log import DecisionLog\n"
        "log = DecisionLog(Path(sys.argv[1]))\n"
        "for n in range(10**6):\n"
        "    log.append([decision(f'{n:016x}', 'rules', 'keep')]); print(n, flush=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    confirmed = [process.stdout.readline() for _ in range(20)]
    process.send_signal(signal.SIGKILL)
    confirmed += process.stdout.readlines()
    process.wait()
    with DecisionLog(path) as log:
        assert len(log.decisions) >= len(confirmed) >= 20
        assert [int(item.sample, 16) for item in log.decisions] == list(range(len(log.decisions)))


def test_newest_decisions_stand_and_undoing_takes_back() -> None:
    found = standings([
        decision("a", "rules", "drop"), decision("a", "rules", "keep"), decision("a", "critique", "2"),
        decision("a", "human", "keep", by="ann"), decision("a", "human", "drop", by="bo"),
        decision("a", "human", "drop", by="ann"), decision("a", "human", "undo", by="bo"),
        decision("b", "critique", "none"),
    ])  # fmt: skip
    assert found["a"].rules is not None
    assert (found["a"].rules.verdict, found["a"].grade, found["a"].votes) == ("keep", 2, -1)
    assert list(found["a"].people) == ["ann"]
    assert found["b"].grade == 0


@pytest.mark.parametrize(
    ("decisions", "expected"),
    [
        ([], (False, "unchecked")),
        ([("rules", "drop")], (False, "rules")),
        ([("rules", "keep")], (False, "ungraded")),
        ([("rules", "keep"), ("critique", "3")], (False, "critique 3")),
        ([("rules", "keep"), ("critique", "4")], (True, "critique 4")),
        ([("rules", "drop"), ("human", "keep")], (True, "human")),
        ([("rules", "keep"), ("critique", "4"), ("human", "drop")], (False, "human")),
    ],
)
def test_who_outweighs_whom(tmp_path: Path, decisions: list[tuple[str, str]], expected: tuple[bool, str]) -> None:
    log = [decision(SAMPLES[0], tier, verdict) for tier, verdict in decisions]
    manifest = build(folder_of(tmp_path, SAMPLES[:1], log), "v", Selection())
    kept, tier = expected
    assert (manifest["samples"], manifest["tiers" if kept else "dropped"]) == (int(kept), {tier: 1})


def test_a_tie_of_people_waits(tmp_path: Path) -> None:
    votes = [decision(SAMPLES[0], "human", "keep", by="ann"), decision(SAMPLES[0], "human", "drop", by="bo")]
    assert build(folder_of(tmp_path, SAMPLES, everything_kept(*votes)), "v", Selection())["dropped"] == {"disputed": 1}


def test_a_version_comes_out_the_same_and_never_changes(tmp_path: Path) -> None:
    settings = Selection(balance=Balance(temperature=0.5, total=20, most_repeats=3), seed=4)
    one = folder_of(tmp_path / "one", SAMPLES, everything_kept())
    two = folder_of(tmp_path / "two", SAMPLES, [*everything_kept(), decision(SAMPLES[0], "human", "drop")])
    first = build(one, "v1", settings)
    assert build(two, "v1", settings, at=24) == first
    assert (one / "versions/v1/sft.jsonl").read_bytes() == (two / "versions/v1/sft.jsonl").read_bytes()
    assert (first["samples"], first["different"]) == (20, 12)
    assert build(one, "v1", settings) == first
    with pytest.raises(KaiyuanError, match="choose another --name"):
        build(two, "v1", settings)
    rows = list(read_jsonl(one / "versions/v1/sft.jsonl"))
    assert {row["tier"] for row in rows} == {"critique 4"}
    assert {row["labels"]["domain"] for row in rows} == {"a", "b"}
    assert "20 samples, 12 different; kept by critique 4 20; not kept: none" in describe(first)


def test_the_difference_of_versions_says_why(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, SAMPLES, everything_kept())
    build(folder, "v1", Selection())
    with DecisionLog(folder / DECISIONS) as log:
        log.append([decision(SAMPLES[3], "human", "drop", by="ann", reasons=("wrong",))])
    write_jsonl(folder / "candidates.jsonl", (item.row() for item in SAMPLES[:-1]))
    build(folder, "v2", Selection())
    lines = diff(folder, "v1", "v2").splitlines()
    assert lines[0] == "v1 -> v2: 12 -> 10 samples, 1 decisions"
    assert sorted(lines[1:]) == sorted([f"- {SAMPLES[3].hash}  human by ann: drop: wrong",
                                        f"- {SAMPLES[11].hash}  other settings or candidates"])  # fmt: skip
    with pytest.raises(DataError, match=r"no version 'v3'; there are v1, v2"):
        diff(folder, "v1", "v3")


def test_every_decision_about_a_sample_can_be_traced(tmp_path: Path) -> None:
    of = SAMPLES[3]
    folder = folder_of(tmp_path, SAMPLES, [
        decision(of, "rules", "keep", by="rules"), decision(SAMPLES[4], "rules", "keep"),
        decision(of, "critique", "2", by="large", reasons=("a step is missing",)),
        decision(of, "human", "drop", by="ann"),
    ])  # fmt: skip
    assert trace_sample(folder, of.hash[:6]).splitlines() == [
        of.hash,
        "       1  2026-01-01T00:00:00  rules by rules: keep  [1]",
        "       3  2026-01-01T00:00:00  critique by large: 2: a step is missing  [1]",
        "       4  2026-01-01T00:00:00  human by ann: drop  [1]",
    ]
    for name, problem in (("", "more than one"), ("xyz", "the log knows nothing")):
        with pytest.raises(DataError, match=problem):
            trace_sample(folder, name)


def test_labels_of_the_log_outweigh_those_of_the_sample(tmp_path: Path) -> None:
    label = decision(SAMPLES[0], "label", "c/0", details={"kind": "open", "difficulty": 2})
    folder = folder_of(tmp_path, SAMPLES[:1], [decision(SAMPLES[0], "rules", "keep"), label])
    build(folder, "v", Selection(critique=False))
    row = json.loads((folder / "versions/v/sft.jsonl").read_text())
    assert row["labels"] == {"topic": "c/0", "domain": "c", "kind": "open", "difficulty": 2}
    assert row["tier"] == "rules"

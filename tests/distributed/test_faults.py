"""What may happen to a run of many processes in a month: kills at any moment, a clock that jumps, a request to stop."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import time
from pathlib import Path

import parallel_runs
import pytest
import torch
from parallel_runs import LONG, RandomRows, Run
from process_group import Group
from safetensors.torch import load_file

KILLS = int(os.environ.get("KAIYUAN_KILLS", "5"))
EVERY = int(LONG["checkpoint_every"])


@pytest.fixture(scope="module")
def undisturbed(groups: dict[int, Group], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return groups[2].run(parallel_runs.train_long, tmp_path_factory.mktemp("undisturbed"))[0]


def steps_logged(folder: Path) -> list[int]:
    log = folder / "metrics.jsonl"
    text = log.read_text() if log.exists() else ""
    return [json.loads(line)["step"] for line in text[: text.rfind("\n") + 1].splitlines()]


def assert_ended_alike(weights: dict[str, torch.Tensor], folder: Path, expected: Run) -> None:
    assert steps_logged(folder) == list(range(int(LONG["steps"])))
    for name, value in expected.weights.items():
        assert torch.equal(weights[name], value), name


@pytest.mark.slow
def test_kills_at_random_moments_lose_no_more_than_an_interval(undisturbed: Run, tmp_path: Path) -> None:
    """``KAIYUAN_KILLS=50`` for more. A save under way when the kill comes may cost the interval before it too."""
    rng, number = random.Random(7), 0
    for kill in range(KILLS):
        folder = tmp_path / str(number)
        folder.mkdir(exist_ok=True)
        group = Group(2)
        before = len(steps_logged(folder))
        group.start(parallel_runs.train_long, folder, 0.02)
        if kill % 2:  # every other kill comes while it trains, the rest may come while it starts
            deadline = time.monotonic() + 20
            while len(steps_logged(folder)) <= before and time.monotonic() < deadline and before < LONG["steps"]:
                time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 1.5))
        group.kill()
        done = len(steps_logged(folder))
        saved = [int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-*")]
        assert done - max(saved, default=0) <= 2 * EVERY, f"kill {kill}: {done} steps done, saved are {saved}"
        number += done == LONG["steps"]
    group = Group(2)
    folder = tmp_path / str(number)
    folder.mkdir(exist_ok=True)
    found = group.run(parallel_runs.train_long, folder)[0]
    group.close()
    assert_ended_alike(found.weights, folder, undisturbed)


def test_sigterm_saves_and_leaves(undisturbed: Run, tmp_path: Path) -> None:
    group = Group(2)
    group.start(parallel_runs.train_long, tmp_path, 0.02)
    while len(steps_logged(tmp_path)) < 8:
        time.sleep(0.005)
    os.kill(group.processes[1].pid or 0, signal.SIGTERM)
    with pytest.raises(AssertionError, match=r"(?s)rank 0: .*SystemExit: 143.*rank 1: .*SystemExit: 143"):
        group.answers()
    group.close()
    saved = sorted((tmp_path / "checkpoints").glob("step-*"))[-1]
    assert int(saved.name.removeprefix("step-")) == len(steps_logged(tmp_path)), "every step done was saved"
    group = Group(2)
    found = group.run(parallel_runs.train_long, tmp_path)[0]
    group.close()
    assert_ended_alike(found.weights, tmp_path, undisturbed)


def test_a_clock_that_jumps_changes_nothing(groups: dict[int, Group], undisturbed: Run, tmp_path: Path) -> None:
    found = groups[2].run(parallel_runs.train_long, tmp_path, 0.0, True)[0]
    assert_ended_alike(found.weights, tmp_path, undisturbed)


def test_a_bad_layer_is_named_with_its_rank_and_batch(groups: dict[int, Group], tmp_path: Path) -> None:
    first, second = groups[2].run(parallel_runs.train_with_a_bad_layer, tmp_path)
    assert [math.isfinite(loss) for loss in first.losses] == [True, False, False], "no rank applied the update"
    assert str(first.losses) == str(second.losses)
    found = json.loads((tmp_path / "incidents" / "step-00000001.json").read_text())
    assert [rank["first_bad_layer"] for rank in found["ranks"]] == [None, "layers.2"]
    batch = load_file(tmp_path / "incidents" / "step-00000001.safetensors")
    assert torch.equal(batch["ids"], RandomRows().batch(1, None).ids_BT)  # type: ignore[arg-type]

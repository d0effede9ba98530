"""What a user types: ``torchrun -m kaiyuan pretrain RECIPE``."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kaiyuan.checkpoint import load_model
from kaiyuan.recipe import load_recipe
from kaiyuan.run import execute
from tiny_run import write_recipe

CHANGES = ["run.precision=fp32", "pretrain.tokens=10240", "pretrain.routing={draw='place', capacity_factor=1.0}",
           "pretrain.checkpoint_every=2"]  # fmt: skip


def log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "pretrain" / "metrics.jsonl").read_text().splitlines()]


def workers(agent: int) -> list[int]:
    """The ids of the processes that ``agent`` has started, in order of rank."""
    ranks = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = (process / "stat").read_text().rsplit(")", 1)[1].split()[1]
            values = dict(
                pair.split(b"=", 1) for pair in (process / "environ").read_bytes().split(b"\0") if b"=" in pair
            )
            if int(parent) == agent and b"RANK" in values:
                ranks[values[b"RANK"]] = int(process.name)
    return [number for _, number in sorted(ranks.items())]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for the workers in /proc")
def test_pretraining_by_two_processes_one_of_which_is_killed(tmp_path: Path) -> None:
    recipe, alone, two = write_recipe(tmp_path), tmp_path / "alone", tmp_path / "two"
    for stage in ("corpus", "tokenizer"):
        execute(load_recipe(recipe, CHANGES), alone, stage)
    shutil.copytree(alone, two)
    execute(load_recipe(recipe, CHANGES), alone, "pretrain")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1",
               "--standalone", "--local-addr", "127.0.0.1", "-m", "kaiyuan", "pretrain", str(recipe), "--out", str(two),
               *(f"--set={change}" for change in (*CHANGES, "parallel.expert=2"))]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    agent = subprocess.Popen(command, text=True, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    metrics, deadline = two / "pretrain.partial" / "metrics.jsonl", time.monotonic() + 90
    while agent.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and metrics.read_text().count("\n") >= 10:
            os.kill(workers(agent.pid)[1], signal.SIGKILL)
            break
        time.sleep(0.002)
    output, errors = agent.communicate(timeout=120)
    assert agent.returncode == 0, errors
    assert output.split() == [str(two / "pretrain")], "one process talks"
    assert "2 processes: data_shard=2, expert=2" in errors
    assert "pretrain: goes on from step" in errors
    found, expected = log(two), log(alone)
    assert [line["step"] for line in found] == list(range(len(expected)))
    assert [line["loss"] for line in found] == pytest.approx([line["loss"] for line in expected], abs=1e-3)
    assert [line["grad_norm"] for line in found] == pytest.approx([line["grad_norm"] for line in expected], rel=0.01)
    assert load_model(two / "pretrain" / "model").config == load_model(alone / "pretrain" / "model").config

"""What a user types: ``torchrun -m kaiyuan pretrain RECIPE``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kaiyuan.checkpoint import load_model
from kaiyuan.recipe import load_recipe
from kaiyuan.run import execute
from tiny_run import write_recipe

CHANGES = ["run.precision=fp32", "pretrain.tokens=1536", "pretrain.routing={draw='place', capacity_factor=1.0}",
           "pretrain.checkpoint_every=2"]  # fmt: skip


def log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "pretrain" / "metrics.jsonl").read_text().splitlines()]


def torchrun(recipe: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "--local-addr",
               "127.0.0.1", "-m", "kaiyuan", "pretrain", str(recipe), "--out", str(out)]  # fmt: skip
    for change in (*CHANGES, *more):
        command += ["--set", change]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_pretraining_by_two_processes(tmp_path: Path) -> None:
    recipe, alone, two = write_recipe(tmp_path), tmp_path / "alone", tmp_path / "two"
    for stage in ("corpus", "tokenizer"):
        execute(load_recipe(recipe, CHANGES), alone, stage)
    shutil.copytree(alone, two)
    execute(load_recipe(recipe, CHANGES), alone, "pretrain")
    done = torchrun(recipe, two, "parallel.expert=2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(two / "pretrain")], "one process talks"
    assert "2 processes: data_shard=2, expert=2" in done.stderr
    found, expected = log(two), log(alone)
    assert [line["loss"] for line in found] == pytest.approx([line["loss"] for line in expected], abs=1e-4)
    assert [line["grad_norm"] for line in found] == pytest.approx([line["grad_norm"] for line in expected], rel=1e-3)
    assert load_model(two / "pretrain" / "model").config == load_model(alone / "pretrain" / "model").config
    refused = torchrun(recipe, tmp_path / "refused", "parallel.tensor=3")
    assert refused.returncode != 0
    assert "kaiyuan: " in refused.stderr

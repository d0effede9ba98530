"""A whole run, undisturbed and killed in every stage: both must end with the same report."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kaiyuan.files import read_jsonl
from kaiyuan.run import STAGES
from kaiyuan.serving.settings import generation_defaults
from kaiyuan.training.metrics import METRICS, names
from tiny_run import write_recipe

COMMAND = [sys.executable, "-m", "kaiyuan.cli"]


def start(recipe: Path, out: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*COMMAND, "run", str(recipe), "--out", str(out)],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out + err


def kill_in(stage: str, process: subprocess.Popen[str], run: Path) -> bool:
    """Kill -9 in the middle of ``stage``: after its first checkpoint if it trains. False if it was over before."""
    assert process.stderr is not None
    for line in process.stderr:
        if f" {stage}: starts" in line:
            partial = run / f"{stage}.partial"
            while (
                stage in ("pretrain", "extend", "sft", "dpo") and partial.exists() and not any(partial.rglob("step-*"))
            ):
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.wait()
            return not (run / stage).exists()
    process.wait()
    return False


def results(run: Path) -> dict[str, object]:
    data = json.loads((run / "report.json").read_text(encoding="utf-8"))
    data.pop("time")
    return data


def steps(path: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key != "time"} for line in lines]


@pytest.mark.slow
def test_a_run_killed_in_every_stage_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(recipe, whole))
    interrupted = 0
    for stage in STAGES:
        interrupted += kill_in(stage.name, start(recipe, killed), killed)
    assert interrupted == len(STAGES)
    log = finish(start(recipe, killed))
    assert "corpus: done before" in log
    assert results(killed) == results(whole)
    for stage in ("pretrain", "sft", "dpo"):
        assert steps(killed / stage / "metrics.jsonl") == steps(whole / stage / "metrics.jsonl")
        model = Path("model") / "model.safetensors"
        assert (killed / stage / model).read_bytes() == (whole / stage / model).read_bytes()
    logged = names(line for path in whole.rglob("metrics.jsonl") for line in read_jsonl(path))
    assert logged == METRICS.keys(), "every metric of every stage has its meaning, and none is only described"


@pytest.mark.slow
def test_a_finished_run_is_a_report_and_a_model_to_chat_with(tmp_path: Path) -> None:
    recipe, run = write_recipe(tmp_path), tmp_path / "run"
    finish(start(recipe, run))
    assert "<html" in (run / "report.html").read_text(encoding="utf-8")
    chat = subprocess.run(
        [*COMMAND, "chat", str(run), "--max-tokens", "4"], input="hi\n", capture_output=True, text=True, timeout=120
    )
    assert chat.returncode == 0, chat.stderr
    assert chat.stdout.endswith("\n")
    recommended = {"temperature": 0.7, "top_p": 0.6, "top_k": 20}  # the release's, which a server takes
    assert generation_defaults(run / "sft" / "model") == generation_defaults(run / "dpo" / "model") == recommended
    assert generation_defaults(run / "pretrain" / "model") == {}
    changed = subprocess.run(
        [*COMMAND, "pretrain", str(recipe), "--out", str(run), "--set", "pretrain.lr=0.001"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert changed.returncode == 1
    assert "settings have changed (pretrain.lr)" in changed.stderr
    assert "Traceback" not in changed.stderr

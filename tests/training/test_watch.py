"""Watching a run: hangs, refused steps, a request to stop."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_trainer import SETTINGS, BadBatches, log, trainer
from training_process import RandomTokens

from kaiyuan.training.watch import HangWatch


def test_a_hang_leaves_the_stacks_and_ends_the_process(tmp_path: Path) -> None:
    ended = threading.Event()
    with HangWatch(tmp_path / "incidents" / "hang.txt", 0.2, ended.set) as watch:
        watch.beat(17)
        assert ended.wait(5)
    text = (tmp_path / "incidents" / "hang.txt").read_text()
    assert text.startswith("no step for 0.2 s after step 17\n")
    assert "test_a_hang_leaves_the_stacks" in text


def test_steps_keep_the_watch_quiet(tmp_path: Path) -> None:
    ended = threading.Event()
    with HangWatch(tmp_path / "hang.txt", 0.4, ended.set) as watch:
        for step in range(12):
            watch.beat(step)
            time.sleep(0.05)
    assert not ended.is_set()
    assert not (tmp_path / "hang.txt").exists()


def test_a_refused_step_names_its_layer_and_keeps_its_batch(tmp_path: Path) -> None:
    made = trainer(tmp_path, replace(SETTINGS, steps=3))

    def spoil(step: int) -> None:
        if step == 0:
            with torch.no_grad():
                made.model.layers[1].attention.o_proj.weight[0, 0] = torch.nan

    made.on_step = spoil
    made.fit()
    assert [line["applied"] for line in log(tmp_path)] == [True, False, False]
    found = json.loads((tmp_path / "incidents" / "step-00000001.json").read_text())
    assert found["ranks"][0]["first_bad_layer"] == "layers.1"
    batch = load_file(tmp_path / "incidents" / "step-00000001.safetensors")
    expected = RandomTokens().batch(1, made.model)
    assert torch.equal(batch["ids"], expected.ids_BT)
    assert torch.equal(batch["targets"], expected.targets_BT)


def test_a_spoilt_batch_blames_no_layer(tmp_path: Path) -> None:
    trainer(tmp_path, replace(SETTINGS, steps=2), source=BadBatches(1)).fit()
    found = json.loads((tmp_path / "incidents" / "step-00000001.json").read_text())
    assert found["ranks"][0]["first_bad_layer"] is None
    assert found["metrics"]["loss"] == "nan"


def test_sigterm_saves_the_step_and_leaves(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    expected = whole.fit()
    first = trainer(tmp_path / "stopped")
    first.on_step = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 3 else None
    with pytest.raises(SystemExit) as left:
        first.fit()
    assert left.value.code == 143
    second = trainer(tmp_path / "stopped")
    assert second.step == 4
    found = second.fit()
    assert log(tmp_path / "stopped") == log(tmp_path / "whole")
    assert all(torch.equal(found[name], value) for name, value in expected.items())

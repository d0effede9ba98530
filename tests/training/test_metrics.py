"""The log of a run, its meaning in the docs, and the same numbers in TensorBoard."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray
from training_process import CONFIG, SETTINGS, RandomTokens

from kaiyuan.errors import KaiyuanError
from kaiyuan.model.transformer import Transformer
from kaiyuan.training import mfu
from kaiyuan.training.board import Board
from kaiyuan.training.metrics import METRICS, names
from kaiyuan.training.objective import language_model_loss
from kaiyuan.training.trainer import Trainer, TrainerSettings

DOCS = Path(__file__).parents[2] / "docs" / "training.md"
BOARD = replace(SETTINGS, steps=7, checkpoint_every=3, tensorboard=True)


def trainer(folder: Path, settings: TrainerSettings) -> Trainer:
    folder.mkdir(exist_ok=True)
    model = Transformer(CONFIG, torch.bfloat16)
    model.init_weights()
    return Trainer("test", model, RandomTokens(), language_model_loss, settings, folder)


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def board(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard"), {"tensors": 0}).Reload()


def points(events: EventAccumulator, tag: str) -> dict[int, float]:
    found = [(event.step, float(make_ndarray(event.tensor_proto))) for event in events.Tensors(tag)]
    assert len(dict(found)) == len(found), f"{tag} has a step twice"
    return dict(found)


def test_the_docs_have_every_metric() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| (.+?) \| (.+?) \|$", DOCS.read_text(), re.M)
    assert rows == [(name, metric.unit, metric.meaning) for name, metric in METRICS.items()]


def test_every_number_is_a_known_metric(tmp_path: Path) -> None:
    trainer(tmp_path, replace(SETTINGS, steps=2)).fit()
    found = names(log(tmp_path))
    assert found <= METRICS.keys()
    assert found >= {"loss", "router.load", "time.mfu", "time.left"}


def test_tensorboard_reads_what_the_log_has(tmp_path: Path) -> None:
    trainer(tmp_path, BOARD).fit()
    lines, events = log(tmp_path), board(tmp_path)
    for name in ("loss", "grad_norm", "lr", "applied"):
        assert points(events, f"train/{name}") == pytest.approx({line["step"]: float(line[name]) for line in lines})
    for name in ("tokens_per_second", "mfu", "left"):
        assert points(events, f"time/{name}") == pytest.approx({line["step"]: line["time"][name] for line in lines})
    routed = [line for line in lines if "router" in line]
    assert points(events, "violation/layer 1") == pytest.approx(
        {line["step"]: line["router"]["violation"][1] for line in routed}
    )
    for event, line in zip(events.Tensors("expert load/layer 0"), routed, strict=True):
        assert event.step == line["step"]
        lefts, rights, shares = make_ndarray(event.tensor_proto).T
        assert (lefts.tolist(), rights.tolist()) == ([0, 1, 2, 3], [1, 2, 3, 4])
        assert shares.tolist() == pytest.approx(line["router"]["load"][0])
    meaning = events.SummaryMetadata("time/left").summary_description
    assert meaning == f"{METRICS['time.left'].meaning} (s)"


def test_an_interrupted_run_shows_every_step_once(tmp_path: Path) -> None:
    first = trainer(tmp_path, BOARD)

    def die(step: int) -> None:
        if step == 5:
            raise KeyboardInterrupt

    first.on_step = die
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    trainer(tmp_path, BOARD).fit()
    losses = {line["step"]: line["loss"] for line in log(tmp_path)}
    assert list(losses) == list(range(7))
    assert points(board(tmp_path), "train/loss") == pytest.approx(losses)


def test_without_tensorboard_one_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(KaiyuanError, match=r"^TensorBoard is not installed: pip install 'kaiyuan\[track\]'"):
        Board(tmp_path, 0)


def test_a_cpu_is_measured_by_a_product_of_its_own() -> None:
    peak = mfu.measured_peak(torch.float32, torch.get_num_threads(), size=256, seconds=0.01)
    assert 1e8 < peak < 1e14
    cpu = torch.device("cpu")
    assert mfu.peak_flops(cpu, torch.float32) == mfu.peak_flops(cpu, torch.float32), "once for a process"
    expected = 1e6 * CONFIG.flops(128).training / mfu.peak_flops(cpu, torch.float32)
    assert mfu.mfu(CONFIG, 128, 1e6, cpu, torch.float32) == pytest.approx(expected)

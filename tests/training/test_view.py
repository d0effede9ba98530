"""What a person sees while a model trains, on terminals of any size and in a log."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from kaiyuan import progress
from kaiyuan.training import view as view_module
from kaiyuan.training.view import LEVELS, TrainingView, curve, squeezed

SCRIPT = Path(__file__).with_name("training_process.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}


def line(step: int, layers: int = 2, experts: int = 4, **changes: Any) -> dict[str, Any]:
    load = [[2 / experts, 0.0, *[(1 - 2 / experts) / (experts - 2)] * (experts - 2)] for _ in range(layers)]
    return {
        "step": step, "loss": 5.0 - step / 100, "lr": 0.00432, "grad_norm": 0.84321, "applied": True,
        "time": {"tokens_per_second": 13708.2, "mfu": 0.3123},
        "router": {"load": load, "violation": [1.0 + layer / 100 for layer in range(layers)],
                   "dropped": [0.0] * layers, "recycled": [0.031] * layers}, **changes,
    }  # fmt: skip


def drawn(view: TrainingView, width: int, height: int) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width, height=height)
    console.print(view.render(console))
    return out.getvalue().splitlines()


def test_the_view_has_loss_speed_use_of_the_machine_load_and_time_left() -> None:
    view = TrainingView("pretrain", 400)
    for step in range(100):
        view.record(line(step))
    view.start -= 50
    found = drawn(view, 100, 24)
    assert found[0] == f"pretrain  step 100 of 400   25%  {'━' * 40}"
    assert re.fullmatch(rf"loss 4\.01  [{LEVELS}]{{60}}", found[1])
    assert found[2].startswith("13,708 tokens/s · MFU 31.2% · 50s gone, 2m30s left · learning rate 0.00432 · gradient")
    assert found[-2:] == ["  0 █▁▄▄  fullest x2.00, 3.1% recycled", "  1 █▁▄▄  fullest x2.01, 3.1% recycled"]


@pytest.mark.parametrize(("width", "height"), [(20, 5), (40, 24), (80, 12), (200, 50)])
@pytest.mark.parametrize(("layers", "experts"), [(1, 4), (64, 256)])
def test_the_view_fits_any_terminal(width: int, height: int, layers: int, experts: int) -> None:
    view = TrainingView("pretrain", 10**7)
    assert drawn(view, width, height)
    for step in range(30):
        view.record(line(step, layers, experts, applied=step % 2 == 0))
    found = drawn(view, width, height)
    assert max(len(row) for row in found) < width
    assert len(found) <= max(height, 8)


def test_a_long_run_keeps_a_short_history() -> None:
    view = TrainingView("pretrain", 10**5)
    for step in range(9000):
        view.record(line(step, loss=float(step)))
    assert len(view.losses) <= 4096
    assert view.losses == sorted(view.losses)


@given(st.lists(st.floats(width=32), max_size=300), st.integers(0, 80))
def test_a_curve_has_its_width(values: list[float], width: int) -> None:
    found = curve(values, width)
    assert len(found) <= width
    assert set(found) <= set(LEVELS)


def test_a_curve_falls_with_its_values() -> None:
    assert curve([8, 8, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0], 6) == "██▆▅▃▁"
    assert curve([1.0, float("nan"), 1.0], 10) == "▁▁"
    assert squeezed([1, 5, 2, 3, 9, 0], 3) == [5, 3, 9]


def test_a_log_has_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingView("pretrain", 4) as view:
        view.every = 0.0
        for step in range(4):
            view.record(line(step))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5, "one each, and one at the end"
    end = r"loss 4\.97  lr 0\.00432  tok_s 13708  mfu 31\.2%  fullest x2\.01"
    assert re.fullmatch(rf"\d\d:\d\d:\d\d pretrain 100\.0%  \S+ step/s  0s \(left 0s\)  {end}", lines[-1])


@pytest.mark.parametrize(("term", "draws"), [("xterm-256color", True), ("dumb", False), ("", False)])
def test_terminals_that_cannot_draw_get_the_line(term: str, draws: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", term)
    assert view_module._can_draw() is draws


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs pseudo-terminals")
def test_a_terminal_is_left_with_one_line_and_a_cursor(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    running = subprocess.Popen([sys.executable, str(SCRIPT), str(tmp_path)], stderr=theirs, env=ENVIRONMENT)
    os.close(theirs)
    parts = []
    try:
        while part := os.read(ours, 65536):
            parts.append(part)
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    assert running.wait() == 0
    text = b"".join(parts).decode()
    assert "tokens of each expert by layer" in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l"), "the cursor is visible"
    assert re.search(r"test 100\.0%  [^\r\n]*loss [^\r\n]*\r?\n$", text)


def test_a_line_is_cut_to_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "_columns", lambda: 20)
    shown = progress.Progress("a label that is long", 10)
    shown.live, shown.shown = True, 0.0
    shown.update(1)
    assert capsys.readouterr().err == "\r\x1b[2Ka label that is lon"


def test_a_number_is_shown_whole_or_not_at_all() -> None:
    shown = progress.Progress("train", 10)
    shown.start -= 100  # the rate keeps its digits from line to line
    shown.update(1, loss=2.345, tok_s=13708)
    whole = shown.line()
    assert whole.endswith("loss 2.345  tok_s 13708")
    assert shown.line(len(whole) + 1).endswith("tok_s 13708")
    assert shown.line(len(whole) - 1).endswith("loss 2.345")

"""Training metrics: one JSON object a step in ``metrics.jsonl``, TensorBoard on request.

A resumed run must leave the same file as an undisturbed one, so lines from steps after the checkpoint are cut off
first. What depends on the clock sits under ``time`` in each line, the rest is exactly reproducible.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from kaiyuan.errors import KaiyuanError
from kaiyuan.files import atomic_file, read_jsonl
from kaiyuan.model.routing import RouterStats


def router_metrics(layers: list[RouterStats]) -> dict[str, Any]:
    """Metrics as lists over layers: load per expert, fullest over mean, dropped, recycled, entropy, balance loss."""
    return {
        "load": [[round(value, 5) for value in stats.load_E.tolist()] for stats in layers],
        "violation": [round(float(stats.violation), 4) for stats in layers],
        "dropped": [round(float(stats.dropped), 5) for stats in layers],
        "recycled": [round(float(stats.recycled), 5) for stats in layers],
        "entropy": [round(float(stats.entropy), 4) for stats in layers],
        "balance_loss": [round(float(stats.balance_loss.detach()), 5) for stats in layers],
    }


class MetricsLog:
    """Appends to ``folder/metrics.jsonl``. ``first_step`` is where the run goes on; later lines of a killed run are
    removed.
    """

    def __init__(self, folder: Path, first_step: int, tensorboard: bool = False) -> None:
        self.path = folder / "metrics.jsonl"
        self._cut(first_step)
        self._stream = self.path.open("a", encoding="utf-8")
        self._board = _tensorboard(folder / "tensorboard") if tensorboard else None

    def _cut(self, first_step: int) -> None:
        kept = []
        if self.path.exists():
            for line in _whole_lines(self.path):
                if line["step"] >= first_step:
                    break
                kept.append(json.dumps(line))
        with atomic_file(self.path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def write(self, line: dict[str, Any]) -> None:
        self._stream.write(json.dumps({name: _finite(value) for name, value in line.items()}) + "\n")
        self._stream.flush()
        if self._board is not None:
            for name, value in line.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(name, value, line["step"])

    def close(self) -> None:
        self._stream.close()
        if self._board is not None:
            self._board.close()


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: a number that is not finite is written as null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a log whose last one a kill may have cut short."""
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise KaiyuanError(
            "TensorBoard is not installed: pip install 'kaiyuan[track]', or set tensorboard = false"
        ) from None
    return SummaryWriter(str(folder))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All lines of a finished log."""
    return list(read_jsonl(path))

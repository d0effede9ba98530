"""Training metrics: one JSON object a step in ``metrics.jsonl``, TensorBoard on request, and what each number means.

A resumed run must leave the same file as an undisturbed one, so lines from steps after the checkpoint are cut off
first. What depends on the clock sits under ``time`` in each line, the rest is exactly reproducible.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from kaiyuan.files import atomic_file, read_jsonl
from kaiyuan.model.routing import RouterStats


class Metric(NamedTuple):
    unit: str
    meaning: str


METRICS = {
    "step": Metric("steps", "the update's number, from 0"),
    "tokens": Metric("tokens", "positions computed in the step, padding included"),
    "loss": Metric("nats", "what is minimised, without the router's losses: mean -log p of a target that counts; in "
                   "DPO `dpo_loss` + `sft_weight` times `sft_loss`"),
    "balance_loss": Metric("1", "experts' shares of choices times their mean probabilities, times experts, mean of "
                           "layers; 1 if even"),
    "z_loss": Metric("1", "mean square of the log-sum-exp of the router's logits, mean of layers"),
    "grad_norm": Metric("1", "norm of all gradients together, before clipping"),
    "lr": Metric("1", "learning rate of all parameters but the specialised experts'"),
    "expert_lr": Metric("1", "learning rate of specialised experts"),
    "applied": Metric("true or false", "whether the update was made; the guard refuses what would ruin the run"),
    "dpo_loss": Metric("nats", "DPO: mean of -log sigmoid of `beta` times the margin"),
    "sft_loss": Metric("nats", "DPO: mean -log p of the chosen answers' tokens"),
    "chosen_reward": Metric("nats", "DPO: `beta` times how much likelier the chosen answers became than under the "
                            "reference"),
    "rejected_reward": Metric("nats", "DPO: the same of rejected answers"),
    "margin": Metric("nats", "DPO: chosen minus rejected reward"),
    "accuracy": Metric("share", "DPO: pairs whose chosen answer has the greater reward"),
    "chosen_logprob": Metric("nats", "DPO: mean log p of a whole chosen answer"),
    "online_pairs": Metric("pairs", "DPO: pairs made of the model's own answers in the step's batch"),
    "sample_reward": Metric("1", "DPO: mean reward of the model's own answers"),
    "mixed_prompts": Metric("share", "DPO: prompts with both better and worse answers of the model"),
    "router.load": Metric("share", "assignments that each expert of each layer computed, after dropping and recycling"),
    "router.violation": Metric("1", "by layer: the fullest expert's load over the mean load, minus 1"),
    "router.dropped": Metric("share", "by layer: assignments that no expert computed"),
    "router.recycled": Metric("share", "by layer: assignments that another expert computed than the one chosen"),
    "router.entropy": Metric("nats", "by layer: mean entropy of the router's probabilities; log(experts) if it knows "
                             "nothing"),
    "router.balance_loss": Metric("1", "by layer: as `balance_loss`"),
    "time.seconds": Metric("s", "the whole step, making its batch included"),
    "time.tokens_per_second": Metric("tokens/s", "`tokens` over `time.seconds`"),
    "time.mfu": Metric("share", "FLOP/s that the model's products need at this rate, over a GPU's data sheet or a "
                       "product measured on this CPU"),
    "time.left": Metric("s", "to the end of the stage, at the mean speed since it was started"),
}  # fmt: skip
"""Every number that training logs; a dot parts it from the object that holds it. docs/training.md shows them."""


def names(lines: Iterable[dict[str, Any]]) -> set[str]:
    """The metrics in a log's lines, named as in ``METRICS``."""
    return {
        f"{name}.{part}" if part else name
        for line in lines
        for name, value in line.items()
        for part in (value if isinstance(value, dict) else [""])
    }


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
        self._board = None
        if tensorboard:
            from kaiyuan.training.board import Board

            self._board = Board(folder / "tensorboard", first_step)
        self._cut(first_step)
        self._stream = self.path.open("a", encoding="utf-8")

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
            self._board.write(line)

    def flush(self) -> None:
        """Leave nothing in memory: before a checkpoint, from which a killed run goes on."""
        if self._board is not None:
            self._board.flush()

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


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All lines of a finished log."""
    return list(read_jsonl(path))

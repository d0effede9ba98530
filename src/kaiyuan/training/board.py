"""The log's lines in TensorBoard's files: every number as a curve, the experts' load as a histogram of experts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kaiyuan.errors import KaiyuanError
from kaiyuan.training.metrics import METRICS, Metric


class Board:
    """Writes to ``folder``. Of an interrupted run, what was shown for ``first_step`` and later is hidden."""

    def __init__(self, folder: Path, first_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise KaiyuanError(
                "TensorBoard is not installed: pip install 'kaiyuan[track]', or set run.tensorboard = false"
            ) from None
        # A start's mark in the first file too: TensorBoard takes the first it sees for no restart.
        self._writer: Any = SummaryWriter(str(folder), purge_step=first_step)

    def write(self, line: dict[str, Any]) -> None:
        """Add one line of the log."""
        step = line["step"]
        for name, tag, value in curves(line):
            self._curve(tag, value, step, METRICS.get(name, None))
        for layer, load in enumerate(line.get("router", {}).get("load", [])):
            ends = [expert + 1.0 for expert in range(len(load))]
            sums = {
                "num": 1.0,
                "sum": sum(end * share for end, share in zip(ends, load, strict=True)),
                "sum_squares": sum(end * end * share for end, share in zip(ends, load, strict=True)),
            }
            self._writer.add_histogram_raw(
                f"expert load/layer {layer}", min=0.0, max=ends[-1], bucket_limits=ends, bucket_counts=load,
                global_step=step, **sums,
            )  # fmt: skip

    def _curve(self, tag: str, value: float, step: int, metric: Metric | None) -> None:
        """One point; the page shows what it means beside the curve (``add_scalar`` takes no description)."""
        from torch.utils.tensorboard.summary import scalar

        summary = scalar(tag, value, new_style=True)
        if metric is not None:
            summary.value[0].metadata.summary_description = f"{metric.meaning} ({metric.unit})"
        self._writer.file_writer.add_summary(summary, step)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def curves(line: dict[str, Any]) -> Iterator[tuple[str, str, float]]:
    """Metric, TensorBoard's tag and value of every number of a line but the step and the experts' load."""
    for name, value in line.items():
        if name == "step":
            continue
        if name == "router":
            for part, layers in value.items():
                if part != "load":
                    yield from ((f"router.{part}", f"{part}/layer {index}", each) for index, each in enumerate(layers))
        elif isinstance(value, dict):
            yield from ((f"{name}.{part}", f"{name}/{part}", each) for part, each in value.items())
        else:
            yield name, f"train/{name}", float(value)

"""Watching a run: what a refused step looked like, kept for replay; a step that never ends; a request to stop.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

import faulthandler
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from kaiyuan.files import atomic_file, write_json
from kaiyuan.model.linear import gradient
from kaiyuan.progress import say
from kaiyuan.training.batch import Batch


class StopRequest:
    """Within it SIGTERM is noted in ``wanted`` instead of ending the process: the step under way can be saved."""

    def __init__(self) -> None:
        self.wanted = False

    def __enter__(self) -> Self:
        self._mine = threading.current_thread() is threading.main_thread()
        self._before = signal.signal(signal.SIGTERM, self._note) if self._mine else None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._mine:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.wanted = True


class HangWatch:
    """Ends the process, with a trace of all its threads in ``file``, when ``beat`` has not been called for ``limit``
    seconds. Whoever started the processes then starts them again from the last checkpoint.

    Time is measured by the monotonic clock: setting the machine's clock changes nothing.
    """

    def __init__(self, file: Path, limit: float, end: Callable[[], None] = lambda: os._exit(70)) -> None:
        self.file, self.limit, self.end = file, limit, end
        self._last, self._step, self._done = time.monotonic(), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def beat(self, step: int) -> None:
        self._last, self._step = time.monotonic(), step

    def __enter__(self) -> Self:
        if self.limit > 0:
            self.beat(0)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()

    def _watch(self) -> None:
        while not self._done.wait(min(self.limit / 4, 5.0)):
            if time.monotonic() - self._last > self.limit:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                with self.file.open("w") as stream:
                    stream.write(f"no step for {self.limit:g} s after step {self._step}\n")
                    stream.flush()
                    faulthandler.dump_traceback(stream, all_threads=True)
                self.end()
                return


def first_bad_layer(model: nn.Module, run: Callable[[], Any]) -> str | None:
    """The name of the first block whose output is not finite when ``run()`` computes ``model``; None if all are.

    Nothing is kept for gradients, so a run in fp8 is looked at in its compute dtype.
    """
    found: list[str] = []

    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, outputs: Any) -> None:
            value = outputs[0] if isinstance(outputs, tuple) else outputs
            if not found and not bool(value.isfinite().all()):
                found.append(name)

        return hook

    blocks = [(name, block) for name, block in model.named_modules() if name.startswith("layers.")
              and name.count(".") == 1]  # fmt: skip
    hooks = [block.register_forward_hook(look(name)) for name, block in blocks]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def gradient_norms(model: nn.Module) -> dict[str, float]:
    """The norm of this rank's part of the gradient by layer (``embed``, ``layers.0``, ...)."""
    squares: dict[str, float] = {}
    for name, weight in model.named_parameters():
        if (grad := gradient(weight)) is not None:
            local = grad.to_local() if hasattr(grad, "to_local") else grad
            layer = ".".join(name.split(".")[: 2 if name.startswith("layers.") else 1])
            squares[layer] = squares.get(layer, 0.0) + float(local.float().square().sum())
    return {layer: value**0.5 for layer, value in squares.items()}


def keep_incident(folder: Path, step: int, batch: Batch, seen: dict[str, Any]) -> None:
    """Write ``step-N.safetensors``, the whole batch of a refused step, and ``step-N.json``, what was ``seen``."""
    tensors: dict[str, Tensor | None] = {
        "ids": batch.ids_BT, "targets": batch.targets_BT, "weights": batch.weights_BT, "documents": batch.documents_BT,
        **batch.extra,
    }  # fmt: skip
    with atomic_file(folder / f"step-{step:08d}.safetensors") as path:
        save_file({name: value.cpu().contiguous() for name, value in tensors.items() if value is not None}, path)
    write_json(folder / f"step-{step:08d}.json", {"step": step, **_spelled(seen)})
    say(f"step {step}: the update was refused; its batch and what each rank saw are in {folder}")


def _spelled(value: Any) -> Any:
    """JSON has no NaN and no infinity: such numbers become words."""
    if isinstance(value, dict):
        return {name: _spelled(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_spelled(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value

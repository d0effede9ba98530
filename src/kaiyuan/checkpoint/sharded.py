"""Checkpoints that many processes write together: DCP in safetensors, checked by sums, renamed into place when whole.

A checkpoint is a folder ``step-00000100`` with each rank's parts of weights (``NAME``), moments (``NAME/exp_avg``,
``NAME/exp_avg_sq``) and average (``ema:NAME``) in ``shard-*.safetensors``, ``state.json``, and ``sums.json`` with the
sha256 of every file. Any layout can read it, and so can one process; the folders one process writes are read here
too. Nothing in it is pickled.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from kaiyuan.checkpoint.training import training_checkpoints
from kaiyuan.errors import CheckpointError, DataError
from kaiyuan.files import read_json, replace_folder, sha256_of, sync, write_json
from kaiyuan.progress import say

SUMS = "sums.json"
_MOMENTS = ("exp_avg", "exp_avg_sq")


def state_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, ema: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Everything a checkpoint holds, by the names above, as the model and optimiser hold it. Moments that are not
    there yet are made, of zeros.
    """
    tensors = {name: value.detach() for name, value in model.state_dict().items()}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            slots = optimizer.state[parameter]
            if not slots:
                slots["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                slots.update({moment: torch.zeros_like(parameter) for moment in _MOMENTS})
            tensors.update({f"{name}/{moment}": slots[moment] for moment in _MOMENTS})
    tensors.update({f"ema:{name}": value for name, value in (ema or {}).items()})
    return tensors


def _updates(optimizer: torch.optim.Optimizer) -> float:
    """How many updates AdamW has made: the same for all parameters."""
    return max((float(slots["step"]) for slots in optimizer.state.values()), default=0.0)


def _copied(value: Tensor) -> Tensor:
    """A copy in the CPU's memory, sharded as ``value`` is, that training cannot change any more."""
    if not isinstance(value, DTensor):
        return value.detach().to("cpu", copy=True)
    local = value.to_local().detach().to("cpu", copy=True)
    return DTensor.from_local(
        local, value.device_mesh, value.placements, run_check=False, shape=value.shape, stride=value.stride()
    )


class ShardedCheckpoints:
    """The checkpoints in ``folder``, written by all ranks in the background and read by all ranks.

    Training waits only for the copy to the CPU's memory, and for the save before if that is not done yet. A failed
    save (a full disk, say) is told and leaves the checkpoints before it; ``patience`` of them in a row are an error.
    """

    def __init__(self, folder: Path, keep: int = 2, patience: int = 3) -> None:
        self.folder, self.keep, self.patience = folder, keep, patience
        self.group = dist.new_group(backend="gloo")
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._failures = 0

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        state: dict[str, Any],
        ema: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Begin to write ``step-...``. All ranks must call it."""
        self.wait()
        tensors = {name: _copied(value) for name, value in state_tensors(model, optimizer, ema).items()}
        state = {**state, "updates": _updates(optimizer)}
        self._thread = threading.Thread(target=self._guarded_write, args=(step, tensors, state), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until the save under way is done. ``CheckpointError`` if too many have failed."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        self._failures = 0 if error is None else self._failures + 1
        if error is not None:
            say(f"{self.folder}: a checkpoint could not be written, training goes on: {_short(error)}")
        if self._failures >= self.patience:
            raise CheckpointError(f"{self.folder}: {self._failures} checkpoints in a row failed: {_short(error)}")

    def _guarded_write(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        temporary = self.folder / f".step-{step:08d}.tmp"
        try:
            self._write(step, tensors, state, temporary)
        except BaseException as error:
            self._error = error
            if self.rank == 0:
                shutil.rmtree(temporary, ignore_errors=True)

    def _write(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any], temporary: Path) -> None:
        def fresh() -> None:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)

        self._on_first(fresh)
        writer = dcp.HuggingFaceStorageWriter(str(temporary), save_distributed=True)
        dcp.save(tensors, storage_writer=writer, process_group=self.group)
        sums: list[Any] = [None] * self.world
        dist.all_gather_object(sums, self._own_sums(temporary), group=self.group)
        if failed := [part for part in sums if isinstance(part, str)]:
            raise CheckpointError(failed[0])

        def rename() -> None:
            write_json(temporary / "state.json", state)
            files = {name: value for part in sums for name, value in part.items()}
            write_json(temporary / SUMS, {**files, "state.json": sha256_of(temporary / "state.json")})
            sync(temporary)
            replace_folder(temporary, self.folder / f"step-{step:08d}")
            for old in training_checkpoints(self.folder)[: -self.keep]:
                shutil.rmtree(old)

        self._on_first(rename)

    def _own_sums(self, folder: Path) -> dict[str, str] | str:
        """sha256 of this rank's files, or why they cannot be read."""
        try:
            return {path.name: sha256_of(path) for path in folder.glob(f"shard-{self.rank + 1:05d}-*.safetensors")}
        except OSError as error:
            return str(error)

    def _on_first(self, do: Any) -> None:
        """``do()`` on rank 0; its failure is every rank's."""
        found: list[str | None] = [None]
        if self.rank == 0:
            try:
                do()
            except Exception as error:
                found[0] = str(error)
        dist.broadcast_object_list(found, src=0, group=self.group)
        if found[0] is not None:
            raise CheckpointError(found[0])

    def load(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, ema: Mapping[str, Tensor] | None = None
    ) -> dict[str, Any] | None:
        """Fill everything from the newest checkpoint that is whole; returns its state, or None if there is none."""
        if self.rank == 0:
            for unfinished in self.folder.glob(".step-*.tmp"):
                shutil.rmtree(unfinished, ignore_errors=True)
        names: list[Any] = [[path.name for path in training_checkpoints(self.folder)]]
        dist.broadcast_object_list(names, src=0, group=self.group)
        for name in reversed(names[0]):
            problems: list[Any] = [None] * self.world
            mine = problem_of(self.folder / name, self.rank, self.world)
            dist.all_gather_object(problems, mine, group=self.group)
            found = next((problem for problem in problems if problem), None)
            if found is None:
                return load_sharded(self.folder / name, model, optimizer, ema, self.group)
            say(f"{found}; going on from the checkpoint before it")
        return None


def problem_of(folder: Path, part: int = 0, parts: int = 1) -> str | None:
    """What is wrong with a checkpoint's files, None if nothing. Every ``parts``-th file is looked at, from ``part``."""
    if not (folder / SUMS).exists():
        return None if (folder / "model.safetensors").exists() else f"{folder}: no {SUMS}"
    try:
        sums = read_json(folder / SUMS)
    except DataError as error:
        return str(error)
    for name in sorted(sums)[part::parts]:
        path = folder / name
        if not path.exists():
            return f"{path}: missing"
        if sha256_of(path) != sums[name]:
            return f"{path}: damaged (its sha256 is not the one that was written)"
    return None


def newest_whole(folders: list[Path]) -> Path:
    """The last of ``folders`` whose files are as they were written. ``CheckpointError`` if there is none."""
    problem: str | None = None
    for folder in reversed(folders):
        if (problem := problem_of(folder)) is None:
            return folder
        say(f"{problem}; going on from the checkpoint before it")
    raise CheckpointError(f"{problem}; no checkpoint is left that is whole")


def load_sharded(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: Mapping[str, Tensor] | None = None,
    group: dist.ProcessGroup | None = None,
) -> dict[str, Any]:
    """Fill model, optimiser and average in place from ``folder``, whatever layout wrote it; returns its state."""
    tensors = state_tensors(model, optimizer, ema)
    reader = dcp.HuggingFaceStorageReader(str(folder))
    try:
        dcp.load(tensors, storage_reader=reader, process_group=group, no_dist=group is None)
    except (dcp.api.CheckpointException, RuntimeError, ValueError, KeyError, OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder} does not fit this model: {_short(error)}") from None
    state = dict(read_json(folder / "state.json"))
    updates = state.pop("updates") if "updates" in state else _updates_alone(folder)
    for slots in optimizer.state.values():
        slots["step"].fill_(updates)
    return state


def _updates_alone(folder: Path) -> float:
    """The number of updates in a folder that one process wrote."""
    with safe_open(folder / "optimizer.safetensors", "pt") as file:
        names = [name for name in list(file.keys()) if name.endswith("/step")]
        return max((float(file.get_tensor(name)) for name in names), default=0.0)


def _short(error: BaseException | None) -> str:
    """The first line that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "Error" in line or "error" in line or "space" in line]
    return (telling or lines or [type(error).__name__])[-1][:300]

"""Training checkpoints: everything that the next step depends on, in safetensors and JSON, whole or absent.

A checkpoint is a folder ``step-00000100`` with ``model.safetensors``, ``optimizer.safetensors``, ``ema.safetensors``
if there is an average, and ``state.json``. It is written under another name and renamed, so a kill at any moment
leaves the one before it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kaiyuan.errors import CheckpointError, listing
from kaiyuan.files import atomic_folder, read_json, write_json

_SLOTS = ("exp_avg", "exp_avg_sq", "step")
CODES = ("codes_largest", "codes_following")
"""What AdamW's state of a weight with codes in fp8 has besides: ``Codes.largest_E``, and that of the next update."""


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's state by parameter name: ``layers.0....weight/exp_avg`` and so on."""
    tensors = {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for slot, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{name}/{slot}"] = value
    return tensors


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], folder: Path) -> None:
    problems = []
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            found = {slot: tensors[f"{name}/{slot}"] for slot in (*_SLOTS, *CODES) if f"{name}/{slot}" in tensors}
            if not found:
                continue
            problems += [f"{name}/{slot}: missing" for slot in _SLOTS if slot not in found]
            problems += [
                f"{name}/{slot}: has shape {tuple(value.shape)}, the model needs {tuple(parameter.shape)}"
                for slot, value in found.items()
                if slot in ("exp_avg", "exp_avg_sq") and value.shape != parameter.shape
            ]
            optimizer.state[parameter] = {slot: value.to(parameter.device) for slot, value in found.items()}
    if problems:
        raise CheckpointError(listing(f"{folder}/optimizer.safetensors does not fit this model", problems))


def save_training_checkpoint(
    parent: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    ema: Mapping[str, Tensor] | None = None,
    keep: int = 2,
) -> Path:
    """Write ``parent/step-...`` and remove all but the ``keep`` newest. ``state`` is any JSON value."""
    target = parent / f"step-{step:08d}"
    weights = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    with atomic_folder(target) as folder:
        save_file(weights, folder / "model.safetensors")
        save_file(_optimizer_tensors(optimizer), folder / "optimizer.safetensors")
        if ema is not None:
            save_file(dict(ema), folder / "ema.safetensors")
        write_json(folder / "state.json", state)
    for old in training_checkpoints(parent)[:-keep]:
        shutil.rmtree(old)
    return target


def training_checkpoints(parent: Path) -> list[Path]:
    """The checkpoints in ``parent``, oldest first."""
    return sorted(parent.glob("step-*"))


def load_training_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Any], dict[str, Tensor] | None]:
    """Fill ``model`` and ``optimizer`` in place; returns the saved state and the averaged weights, if any."""
    try:
        tensors = load_file(folder / "model.safetensors")
        optimizer_tensors = load_file(folder / "optimizer.safetensors")
        ema = load_file(folder / "ema.safetensors") if (folder / "ema.safetensors").exists() else None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: {error}; remove this folder to go on from the checkpoint before it") from None
    own = model.state_dict()
    problems = [f"{name}: missing" for name in own.keys() - tensors.keys()]
    problems += [f"{name}: not part of the model" for name in tensors.keys() - own.keys()]
    problems += [
        f"{name}: has shape {tuple(tensors[name].shape)}, the model needs {tuple(own[name].shape)}"
        for name in own.keys() & tensors.keys()
        if tensors[name].shape != own[name].shape
    ]
    if problems:
        raise CheckpointError(listing(f"{folder}/model.safetensors does not fit this model", sorted(problems)))
    model.load_state_dict(tensors)
    _restore_optimizer(optimizer, optimizer_tensors, folder)
    return read_json(folder / "state.json"), ema

"""Load a model from a folder of the released or of our own form.

Names and shapes are checked from headers before any weight is read. The model is then filled tensor by tensor, so
memory peaks at the model plus what one stored tensor takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from kaiyuan.checkpoint.hf_config import read_config
from kaiyuan.checkpoint.names import Index, layout
from kaiyuan.checkpoint.plan import Plan, checked_plan, finite, tied_problems
from kaiyuan.checkpoint.storage import Storage, TensorReader, in_file_order, open_storage
from kaiyuan.errors import CheckpointError, listing
from kaiyuan.model.config import ModelConfig
from kaiyuan.model.transformer import Transformer
from kaiyuan.progress import Progress, say

_SHOW_PROGRESS_FROM = 2**30


def load_model(
    folder: str | Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Transformer:
    """The model in ``folder``, in evaluation mode, its parameters in ``dtype`` (routers in float32) on ``device``.

    Reads Hunyuan-Large, HunYuan-V1 (MoE) and our own folders; safetensors or ``.bin``, whole or in shards. Raises
    ``ConfigError`` or ``CheckpointError``, which list everything that is wrong at once.
    """
    folder = Path(folder)
    storage = open_storage(folder)
    config = read_config(folder)
    plan = checked_plan(config, storage, folder)
    report_biases(plan)
    with torch.device("meta"):
        model = Transformer(config)
    model.load_state_dict(_read_state(config, storage, plan, model, dtype, device), assign=True)
    return model.eval()


def report_biases(plan: Plan) -> None:
    """Say how many stored biases are left out, if any."""
    if plan.biases:
        say(f"skipped {len(plan.biases)} biases ({plan.biases[0]}, ...): these layers have none")


def _read_state(
    config: ModelConfig,
    storage: Storage,
    plan: Plan,
    model: Transformer,
    dtype: torch.dtype,
    device: torch.device | str,
) -> dict[str, Tensor]:
    """The model's ``state_dict``, filled stored tensor by stored tensor; ``model`` gives the shapes."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    places = _places(config)
    parts = plan.parts()
    read = TensorReader(storage)
    state: dict[str, Tensor] = {}
    problems = []
    for name, stored in _each(storage, in_file_order(storage, parts), read):
        for released, part in parts[name]:
            ours, index = places[released]
            if ours not in state:
                state[ours] = torch.empty(shapes[ours], dtype=target_dtype(ours, dtype), device=device)
            value = (stored if part is None else part.take(stored)).to(state[ours].dtype)
            if not finite(value):
                problems.append(not_finite(released, name, stored, value))
            state[ours][index].copy_(value)
    problems.extend(tied_problems(plan, read))
    if problems:
        raise CheckpointError(listing("the weights cannot be used", problems))
    return state


def _each(storage: Storage, names: list[str], read: TensorReader) -> Iterator[tuple[str, Tensor]]:
    """Read ``names`` in turn, with a progress line if there is much to read."""
    total = sum(file.stat().st_size for file in storage.files)
    if total < _SHOW_PROGRESS_FROM:
        yield from ((name, read(name)) for name in names)
        return
    with Progress("loading", total, "B") as progress:
        for name in names:
            tensor = read(name)
            yield name, tensor
            progress.update(tensor.nbytes)


def _places(config: ModelConfig) -> dict[str, tuple[str, Index]]:
    """By released name: which of our tensors it is part of, and where it lies there."""
    return {piece.name: (ours, piece.index) for ours, pieces in layout(config).items() for piece in pieces}


def target_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype of one of our tensors in a model kept in ``dtype``."""
    return torch.float32 if name.endswith("moe.router.weight") else dtype


def not_finite(released: str, stored_name: str, stored: Tensor, value: Tensor) -> str:
    """The line that reports a tensor with NaN or infinite elements, and whether conversion alone is to blame."""
    where = "" if released == stored_name else f" (part of {stored_name})"
    if stored.dtype != value.dtype and finite(stored):
        return f"{released}{where}: too large for {str(value.dtype).removeprefix('torch.')}"
    return f"{released}{where}: holds NaN or infinite values"

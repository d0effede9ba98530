"""Write models as folders of safetensors under the released names.

All weights are first written under temporary names. Only when they are complete and on disk is the old ``config.json``
taken away, the new files renamed into place, and the new ``config.json`` written last. Other files of the folder (a
tokenizer, say) stay. So an interrupted save leaves either the old model or a folder without config, never a mixture.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from kaiyuan.checkpoint.hf_config import config_keys
from kaiyuan.checkpoint.names import layout
from kaiyuan.checkpoint.storage import FLOATS
from kaiyuan.errors import CheckpointError, listing
from kaiyuan.files import atomic_file, write_json
from kaiyuan.model.config import ModelConfig
from kaiyuan.model.transformer import Transformer

DEFAULT_SHARD_BYTES = 5 * 2**30
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Entry:
    """A tensor to be written: its name, its size in bytes, and how to get it."""

    name: str
    nbytes: int
    read: Callable[[], Tensor]


def save_model(
    model: Transformer,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write ``model`` to ``folder``; see ``save_state``."""
    save_state(model.state_dict(), model.config, folder, dtype=dtype, max_shard_bytes=max_shard_bytes, extra=extra)


def save_state(
    state: Mapping[str, Tensor],
    config: ModelConfig,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a model's ``state_dict`` (whole tensors, on any device) to ``folder``.

    Weights are converted to ``dtype`` if one is given, except those of routers, which keep theirs: rounding them would
    send tokens to other experts. Files larger than ``max_shard_bytes`` are split, with an index. ``extra`` are keys for
    ``config.json`` that do not describe the model (token ids). The same model always gives the same bytes. Memory: one
    shard beside the model.
    """
    _check_state(state, config)
    entries = []
    for ours, pieces in layout(config).items():
        target = written_dtype(ours, state[ours].dtype, dtype)
        for piece in pieces:
            view = state[ours][piece.index]
            entries.append(Entry(piece.name, view.numel() * target.itemsize, functools.partial(view.to, "cpu", target)))
    noted = main_dtype({name: tensor.dtype for name, tensor in state.items()}, dtype)
    write_folder(entries, Path(folder), max_shard_bytes, config_keys(config, dtype=noted, extra=extra))


def written_dtype(name: str, have: torch.dtype, wanted: torch.dtype | None) -> torch.dtype:
    """The dtype in which a tensor, called by our or by its released name, is written."""
    is_router = name.endswith(("moe.router.weight", "mlp.gate.wg.weight"))
    return have if wanted is None or is_router else wanted


def main_dtype(dtypes: Mapping[str, torch.dtype], wanted: torch.dtype | None) -> str:
    """What ``config.json`` calls the weights' dtype: that of the embedding."""
    embedding = next(dtype for name, dtype in dtypes.items() if name.endswith(("embed.weight", "embed_tokens.weight")))
    return str(wanted or embedding).removeprefix("torch.")


def _check_state(state: Mapping[str, Tensor], config: ModelConfig) -> None:
    """Raise a ``CheckpointError`` unless ``state`` has exactly the tensors that ``config`` asks for."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Transformer(config).state_dict().items()}
    problems = [f"{name}: missing" for name in shapes if name not in state]
    problems += [f"{name}: surplus, the model has no such tensor" for name in state if name not in shapes]
    for name in shapes.keys() & state.keys():
        if state[name].shape != shapes[name]:
            problems.append(f"{name}: has shape {list(state[name].shape)}, the model needs {list(shapes[name])}")
        if state[name].dtype not in FLOATS.values():
            problems.append(f"{name}: holds {state[name].dtype}, not one of {', '.join(FLOATS)}")
    if problems:
        raise CheckpointError(listing("this state does not fit its config", sorted(problems)))


def shards(entries: Iterable[Entry], max_bytes: int) -> list[list[Entry]]:
    """Cut ``entries``, in order, into runs of at most ``max_bytes``; a larger tensor has a run of its own."""
    if max_bytes < 1:
        raise CheckpointError(f"max_shard_bytes: {max_bytes} is not a positive number of bytes")
    runs: list[list[Entry]] = []
    size = 0
    for entry in entries:
        if not runs or size + entry.nbytes > max_bytes:
            runs.append([])
            size = 0
        runs[-1].append(entry)
        size += entry.nbytes
    return runs


def write_folder(
    entries: list[Entry], folder: Path, max_shard_bytes: int, config: dict[str, Any], copied: Iterable[Path] = ()
) -> None:
    """Write ``entries`` as safetensors with their index, copies of the files ``copied``, and ``config.json`` last."""
    runs = shards(entries, max_shard_bytes)
    names = [f"model-{i:05d}-of-{len(runs):05d}.safetensors" for i in range(1, len(runs) + 1)]
    names = names if len(runs) > 1 else ["model.safetensors"]
    with contextlib.ExitStack() as stack:
        for name, run in zip(names, runs, strict=True):
            temporary = stack.enter_context(atomic_file(folder / name))
            # format "pt" is what transformers requires of a file that it is to read as PyTorch's
            save_file({entry.name: entry.read().contiguous() for entry in run}, temporary, metadata={"format": "pt"})
        (folder / "config.json").unlink(missing_ok=True)
        for stale in {*folder.glob("model-*-of-*.safetensors"), folder / "model.safetensors", folder / INDEX}:
            if stale.name not in names:
                stale.unlink(missing_ok=True)
    for file in copied:
        with atomic_file(folder / file.name) as temporary:
            shutil.copyfile(file, temporary)
    if len(runs) > 1:
        weight_map = {entry.name: name for name, run in zip(names, runs, strict=True) for entry in run}
        total = sum(entry.nbytes for entry in entries)
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    write_json(folder / "config.json", config)

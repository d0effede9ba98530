"""Writes one model in every form of folder there is, from its tensors under released names.

Written from the description of the formats alone: nothing here uses the code that is tested.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]


def read(folder: Path) -> tuple[Tensors, dict]:
    return load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())


def write(tensors: Tensors, config: dict, folder: Path) -> Path:
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def edit(folder: Path, change: Callable[[Tensors], object]) -> None:
    """Rewrite the folder's single safetensors file after ``change`` has altered its tensors in place."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")


def shard(folder: Path, target: Path, *, suffix: str, index: bool, count: int = 3, **options: bool) -> Path:
    """Split a single-file folder into ``count`` shards of "safetensors" or "bin"."""
    tensors, _ = read(folder)
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    target.mkdir()
    shutil.copy(folder / "config.json", target)
    weight_map = {}
    for i in range(count):
        name = f"{stem}-{i + 1:05d}-of-{count:05d}.{suffix}" if count > 1 else f"{stem}.{suffix}"
        part = {key: tensors[key].contiguous() for key in sorted(tensors)[i::count]}
        if suffix == "safetensors":
            save_file(part, target / name)
        else:
            torch.save(part, target / name, **options)
        weight_map |= dict.fromkeys(part, name)
    if index:
        body = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        (target / f"{stem}.{suffix}.index.json").write_text(json.dumps(body))
    return target


def fuse(tensors: Tensors, config: dict) -> Tensors:
    """The release's fused names: per key/value head its queries, key and value; up rows before gate rows."""
    fused = dict(tensors)
    groups = config["num_key_value_heads"]
    for name in tensors:
        if match := re.fullmatch(r"(.*\.self_attn)\.q_proj\.weight", name):
            query = fused.pop(name).chunk(groups)
            if f"{match[1]}.k_proj.weight" not in tensors:
                fused[f"{match[1]}.qkv_proj.weight"] = torch.cat(query)
                continue
            key = fused.pop(f"{match[1]}.k_proj.weight").chunk(groups)
            value = fused.pop(f"{match[1]}.v_proj.weight").chunk(groups)
            rows = [part for group in zip(query, key, value, strict=True) for part in group]
            fused[f"{match[1]}.qkv_proj.weight"] = torch.cat(rows)
        if match := re.fullmatch(r"(.*)\.gate_proj\.weight", name):
            rows = [fused.pop(f"{match[1]}.up_proj.weight"), fused.pop(name)]
            fused[f"{match[1]}.gate_and_up_proj.weight"] = torch.cat(rows)
    return fused


def stack(tensors: Tensors) -> Tensors:
    """The names transformers 5 has in memory: all experts of a layer in two tensors, gate rows before up rows."""
    stacked = dict(tensors)
    layers = {name.split(".experts.")[0] for name in tensors if ".experts." in name}
    for layer in layers:
        count = len([name for name in tensors if name.startswith(f"{layer}.experts.") and "gate_proj" in name])
        gate_up, down = [], []
        for e in range(count):
            one = f"{layer}.experts.{e}"
            gate_up.append(torch.cat([stacked.pop(f"{one}.gate_proj.weight"), stacked.pop(f"{one}.up_proj.weight")]))
            down.append(stacked.pop(f"{one}.down_proj.weight"))
        stacked[f"{layer}.experts.gate_up_proj"] = torch.stack(gate_up)
        stacked[f"{layer}.experts.down_proj"] = torch.stack(down)
    return stacked


def with_biases(tensors: Tensors) -> Tensors:
    """With the biases that a conversion left in the released folders."""
    biases = {}
    for name, tensor in tensors.items():
        if re.search(r"\.(q|k|v|o|gate|up|down)_proj\.weight$", name):
            biases[name.replace(".weight", ".bias")] = torch.ones(len(tensor))
    return tensors | biases


def forms(folder: Path, root: Path) -> dict[str, Callable[[], Path]]:
    """Ways to store the model of ``folder`` under ``root``; each makes its folder when it is called."""
    tensors, config = read(folder)
    embedding = tensors["model.embed_tokens.weight"]
    return {
        "as it is": lambda: folder,
        "sharded safetensors": lambda: shard(folder, root / "a", suffix="safetensors", index=True),
        "safetensors without index": lambda: shard(folder, root / "b", suffix="safetensors", index=False),
        "sharded bin": lambda: shard(folder, root / "c", suffix="bin", index=True),
        "bin without index": lambda: shard(folder, root / "d", suffix="bin", index=False),
        "single bin": lambda: shard(folder, root / "e", suffix="bin", index=False, count=1),
        "old bin": lambda: shard(folder, root / "f", suffix="bin", index=True, _use_new_zipfile_serialization=False),
        "fused": lambda: write(fuse(tensors, config), config, root / "g"),
        "stacked experts": lambda: write(stack(tensors), config, root / "h"),
        "biases": lambda: write(with_biases(tensors), config, root / "i"),
        "repeated head": lambda: write(tensors | {"lm_head.weight": embedding.clone()}, config, root / "j"),
    }


FORMS = [
    "as it is", "sharded safetensors", "safetensors without index", "sharded bin", "bin without index", "single bin",
    "old bin", "fused", "stacked experts", "biases", "repeated head",
]  # fmt: skip

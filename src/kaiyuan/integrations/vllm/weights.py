"""Which parameter of the vLLM model each tensor of a folder goes to, and whether the folder holds exactly those.

Tensors come as a stream, in any order, under released or fused names (``checkpoint/names.py``). Nothing here needs
vLLM.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from kaiyuan.checkpoint.names import EMBEDDING, HEAD, fused_tensors, released_tensors
from kaiyuan.errors import CheckpointError, listing
from kaiyuan.model.config import ModelConfig


class Place(NamedTuple):
    """Where a released tensor goes: a parameter, and which part of it."""

    parameter: str
    shard: str | int | None = None
    """The part's name as vLLM's merged layers call it: q, k, v; 0 and 1; w1, w2, w3. None: the whole parameter."""
    expert: int | None = None


_EXPERT = re.compile(r"(.*\.mlp\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")
_SHARED = re.compile(r"(.*\.shared_mlp)\.(gate|up)_proj\.weight")
_QKV = re.compile(r"model\.layers\.(\d+)\.self_attn\.([qkv])_proj\.weight")
_EXPERT_SHARDS = {"gate": ("w13", "w1"), "up": ("w13", "w3"), "down": ("w2", "w2")}


def place(name: str, config: ModelConfig) -> Place:
    """Where the released tensor ``name`` goes. Gains of queries and keys go to one parameter: see ``Gains``."""
    if match := _EXPERT.fullmatch(name):
        parameter, shard = _EXPERT_SHARDS[match[3]]
        return Place(f"{match[1]}.routed_experts.{parameter}_weight", shard, int(match[2]))
    if match := _SHARED.fullmatch(name):
        return Place(f"{match[1]}.gate_up_proj.weight", ("gate", "up").index(match[2]))
    if (match := _QKV.fullmatch(name)) and config.layer(int(match[1])).owns_kv:
        return Place(f"model.layers.{match[1]}.self_attn.qkv_proj.weight", match[2])
    return Place(name.replace(".mlp.gate.wg.", ".mlp.gate.").replace(".key_layernorm.", ".query_layernorm."))


class Gains:
    """Folds every layer's key gain into its query gain, once both have come: the cache keeps keys without gain."""

    def __init__(self) -> None:
        self._first: dict[str, Tensor] = {}

    def fold(self, parameter: str, gain: Tensor) -> Tensor | None:
        """Take one of the two gains of ``parameter``; their product, float32 (d,), when it is the second."""
        if parameter in self._first:
            return self._first.pop(parameter) * gain.float()
        self._first[parameter] = gain.float().clone()
        return None


def is_gain(name: str) -> bool:
    return name.endswith((".query_layernorm.weight", ".key_layernorm.weight"))


def released(weights: Iterable[tuple[str, Tensor]], config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the model under its released name, once.

    Fused tensors are taken apart; biases that a conversion left behind are skipped, as the release's own code does.
    When the stream is at its end, one ``CheckpointError`` lists all that was missing, surplus or of a wrong shape.
    """
    wanted, fused = released_tensors(config), fused_tensors(config)
    problems: list[str] = []
    seen: set[str] = set()
    tied: dict[str, Tensor] = {}
    for stored, tensor in weights:
        if stored == HEAD and config.tie_word_embeddings:
            tied[HEAD] = tensor
            continue
        if stored == EMBEDDING:
            tied[EMBEDDING] = tensor
        if stored in fused and tensor.shape == fused[stored].shape:
            parts = {name: part.take(tensor) for name, part in fused[stored].parts.items()}
        elif _is_bias(stored, wanted, fused):
            continue
        else:
            parts = {stored: tensor}
        for name, part in parts.items():
            problem = _problem(name, part, wanted, seen)
            seen.add(name)
            if problem:
                problems.append(problem)
            else:
                yield name, part
    problems += [f"{name}: missing" for name in wanted if name not in seen]
    if HEAD in tied and EMBEDDING in tied and not torch.equal(tied[HEAD], tied[EMBEDDING]):
        problems.append(f"{HEAD}: differs from {EMBEDDING}, though tie_word_embeddings is true")
    if problems:
        raise CheckpointError(listing("the weights do not fit config.json", problems))


def _problem(name: str, tensor: Tensor, wanted: dict[str, tuple[int, ...]], seen: set[str]) -> str:
    if name not in wanted:
        return f"{name}: surplus, the model has no such tensor"
    if name in seen:
        return f"{name}: stored twice"
    if tuple(tensor.shape) != wanted[name]:
        return f"{name}: has shape {list(tensor.shape)}, the model needs {list(wanted[name])}"
    if not tensor.is_floating_point():
        return f"{name}: holds {str(tensor.dtype).removeprefix('torch.')}, no floating-point numbers"
    return ""


def _is_bias(name: str, wanted: dict[str, tuple[int, ...]], fused: Iterable[str]) -> bool:
    weight = f"{name.removesuffix('.bias')}.weight"
    return name.endswith(".bias") and (len(wanted.get(weight, ())) == 2 or weight in fused)

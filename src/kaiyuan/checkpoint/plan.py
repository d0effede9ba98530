"""Which stored tensor each tensor of the model comes from, decided from headers before any data is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from kaiyuan.checkpoint.names import EMBEDDING, HEAD, Part, Shape, fused_tensors, released_tensors
from kaiyuan.checkpoint.storage import FLOATS, Storage, TensorReader
from kaiyuan.errors import CheckpointError, listing
from kaiyuan.model.config import ModelConfig


@dataclass(frozen=True)
class Source:
    """A stored tensor, and the part of it that is meant (None: all of it)."""

    stored: str
    part: Part | None = None


@dataclass
class Plan:
    """Where every released tensor of a model comes from."""

    sources: dict[str, Source]
    """By released name, in the order in which tensors are written."""
    fused: list[str] = field(default_factory=list)
    biases: list[str] = field(default_factory=list)
    """Stored biases of layers that have none; they are skipped, as the release's own code does."""
    repeats_embedding: bool = False
    """Whether the folder holds an output head that must equal the embedding it is tied to."""

    def parts(self) -> dict[str, list[tuple[str, Part | None]]]:
        """By stored tensor: the released tensors taken from it."""
        parts: dict[str, list[tuple[str, Part | None]]] = {}
        for name, source in self.sources.items():
            parts.setdefault(source.stored, []).append((name, source.part))
        return parts


def make_plan(config: ModelConfig, storage: Storage) -> tuple[Plan, list[str]]:
    """Match the stored tensors with the model's; also returns everything that does not match."""
    released, fused = released_tensors(config), fused_tensors(config)
    problems = list(storage.problems)
    plan = Plan({name: Source(name) for name in released if name in storage.tensors})
    for name in fused:
        if name in storage.tensors:
            plan.fused.append(name)
            for member, part in fused[name].parts.items():
                if member in plan.sources:
                    problems.append(f"{member}: stored twice, alone and in {name}")
                plan.sources[member] = Source(name, part)
    wanted = {**released, **{name: fused[name].shape for name in plan.fused}}
    if config.tie_word_embeddings and HEAD in storage.tensors:
        plan.repeats_embedding = True
        wanted[HEAD] = released[EMBEDDING]
    plan.biases = [name for name in storage.tensors if _is_bias(name, {**released, HEAD: (0, 0)}, fused)]
    problems.extend(_misfits(storage, wanted))
    lost = storage.lost.union(*(fused[name].parts for name in fused if name in storage.lost))
    if not storage.unknown:
        problems.extend(f"{name}: missing" for name in released if name not in plan.sources and name not in lost)
    surplus = set(storage.tensors) - set(wanted) - set(plan.biases)
    problems.extend(f"{name}: surplus, the model has no such tensor" for name in sorted(surplus))
    plan.sources = {name: plan.sources[name] for name in released if name in plan.sources}
    return plan, problems


def checked_plan(config: ModelConfig, storage: Storage, folder: Path) -> Plan:
    """The plan, or one ``CheckpointError`` that lists everything that does not match."""
    plan, problems = make_plan(config, storage)
    if problems:
        raise CheckpointError(listing(f"{folder} cannot be loaded", problems))
    return plan


def _is_bias(name: str, released: dict[str, Shape], fused: Iterable[str]) -> bool:
    """Whether ``name`` is the bias of one of the model's linear layers."""
    if not name.endswith(".bias"):
        return False
    weight = f"{name.removesuffix('.bias')}.weight"
    return len(released.get(weight, ())) == 2 or weight in fused


def _misfits(storage: Storage, wanted: dict[str, Shape]) -> Iterator[str]:
    for name, shape in wanted.items():
        stored = storage.tensors.get(name)
        if stored is None:
            continue
        if stored.shape != shape:
            yield f"{name}: has shape {list(stored.shape)}, the model needs {list(shape)}"
        if stored.dtype not in FLOATS:
            yield f"{name}: holds {stored.dtype}, not one of {', '.join(FLOATS)}"


def finite(tensor: Tensor) -> bool:
    """Whether every element is a finite number; one pass, no temporary."""
    return tensor.numel() == 0 or all(bool(torch.isfinite(bound)) for bound in torch.aminmax(tensor))


def tied_problems(plan: Plan, read: TensorReader) -> list[str]:
    """What is wrong with a stored output head that should repeat the embedding."""
    if not plan.repeats_embedding:
        return []
    head, embedding = read(HEAD), read(EMBEDDING)
    common = torch.promote_types(head.dtype, embedding.dtype)
    if torch.equal(head.to(common), embedding.to(common)):
        return []
    return [f"{HEAD}: differs from {EMBEDDING}, though tie_word_embeddings is true"]

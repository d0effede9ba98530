"""What a training run and its model will cost: computed from the config alone, before you pay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from kaiyuan.errors import ConfigError, listing
from kaiyuan.model import presets
from kaiyuan.model.config import ModelConfig
from kaiyuan.model.flops import Flops, KVBytes, ParameterCount
from kaiyuan.scaling.law import PAPER_COST, PAPER_LAW, Optimum, exact_flops
from kaiyuan.scaling.memory import (
    GIB,
    USABLE,
    InferenceMemory,
    TrainingMemory,
    inference_memory,
    least_gpus,
    training_memory,
)  # fmt: skip

DAY = 86_400


@dataclass(frozen=True)
class Plan:
    """One model, one machine, one amount of data, and all that follows from them. Bytes and FLOPs are plain numbers."""

    model: str
    config: ModelConfig
    gpus: int
    gpu_memory_gib: float
    tflops: float
    """What one GPU really reaches, in 1e12 FLOPs a second."""
    tokens: float
    context: int
    parameters: ParameterCount
    memory: TrainingMemory
    """On each GPU, state evenly sharded, one sequence in flight."""
    least_gpus: int | None
    """The fewest GPUs that hold it with all activations kept; None if none do."""
    least_gpus_recomputing: int | None
    """The same if layers are computed again in the backward pass."""
    flops: Flops
    """Of one token."""
    exact_flops: float
    """Of all training, every product counted."""
    paper_flops: float
    """The same by the paper's form, with N without the embedding: what its law calls C."""
    optimum: Optimum
    """The best model and data for ``paper_flops`` by the paper's law."""
    kv: KVBytes
    inference: tuple[InferenceMemory, ...]

    @property
    def usable_bytes(self) -> float:
        """What may be planned with on one GPU."""
        return USABLE * self.gpu_memory_gib * GIB

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.usable_bytes

    @property
    def fits_recomputing(self) -> bool:
        return self.memory.total_recomputing <= self.usable_bytes

    @property
    def days(self) -> float:
        """Of training on all GPUs at ``tflops`` each, by the exact count."""
        return self.exact_flops / (self.gpus * self.tflops * 1e12) / DAY


def plan(
    model: str | Path,
    gpus: int = 8,
    gpu_memory_gib: float = 80.0,
    tflops: float = 350.0,
    tokens: float = 7e12,
    context: int = 4096,
) -> Plan:
    """Work out the plan for a preset's name or a model folder; a ``ConfigError`` says what cannot be planned."""
    _check(gpus=gpus, gpu_memory_gib=gpu_memory_gib, tflops=tflops, tokens=tokens, context=context)
    config = find_config(model)
    count, gpu_bytes = config.parameters(), USABLE * gpu_memory_gib * GIB
    paper_flops = PAPER_COST.flops(count.active_without_embedding, tokens)
    return Plan(
        model=str(model),
        config=config,
        gpus=gpus,
        gpu_memory_gib=gpu_memory_gib,
        tflops=tflops,
        tokens=tokens,
        context=context,
        parameters=count,
        memory=training_memory(config, gpus, context),
        least_gpus=least_gpus(config, gpu_bytes, context, recompute=False),
        least_gpus_recomputing=least_gpus(config, gpu_bytes, context, recompute=True),
        flops=config.flops(context),
        exact_flops=exact_flops(config, tokens, context),
        paper_flops=paper_flops,
        optimum=PAPER_LAW.optimum(paper_flops),
        kv=config.kv_bytes(),
        inference=inference_memory(config),
    )


def _check(**values: float) -> None:
    limits = {"gpus": (1, 1e7), "gpu_memory_gib": (0.1, 1e6), "tflops": (1e-3, 1e6), "tokens": (1, 1e18),
              "context": (1, 1e9)}  # fmt: skip
    problems = [
        f"{name}: {value:g} is not a number from {limits[name][0]:g} to {limits[name][1]:g}"
        for name, value in values.items()
        if not (math.isfinite(value) and limits[name][0] <= value <= limits[name][1])
    ]
    if problems:
        raise ConfigError(listing("nothing can be planned with these numbers", problems))


def number(text: str) -> float:
    """``7T``, ``1.5B``, ``8M``, ``64K`` or plain digits as a number."""
    units = {"T": 1e12, "B": 1e9, "M": 1e6, "K": 1e3}
    digits, unit = (text[:-1], units[text[-1].upper()]) if text[-1:].upper() in units else (text, 1.0)
    try:
        value = float(digits) * unit
    except ValueError:
        value = math.nan
    if not 1 <= value <= 1e18:
        raise ConfigError(f"{text!r} is not a number of tokens from 1 to 1e18, such as 7T or 7e12")
    return value


def find_config(model: str | Path) -> ModelConfig:
    """The config of a preset's name, or of a model folder's ``config.json``."""
    if str(model) in presets.names():
        return presets.preset(str(model))
    try:
        if Path(model).is_dir():
            from kaiyuan.checkpoint import read_config  # loads torch, which a preset does not need

            return read_config(model)
    except OSError:
        pass  # a name that no file system takes is no folder
    raise ConfigError(f"{model}: neither a model folder nor a preset ({', '.join(presets.names())})")


def describe_plan(
    model: str | Path, gpus: int, gpu_memory_gib: float, tflops: float, tokens: float, context: int
) -> str:
    """``plan`` for people: tables, with emphasis where standard output is a terminal."""
    from kaiyuan.scaling.plan_text import render_plan

    return render_plan(plan(model, gpus, gpu_memory_gib, tflops, tokens, context))

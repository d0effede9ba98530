"""A step's forward and backward pass as one CUDA graph.

A step launches two thousand kernels, and some of them run for a shorter time than Python needs to launch the next. A
graph is launched as one. It is captured when a few batches of one shape have been trained on, and replayed for each
one after: inputs, gradients and statistics keep their places in memory, and so do the seeds of recycle routing, which
are all that else differs from step to step. What is computed is what was computed before, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from kaiyuan.model.fused import on_gpu
from kaiyuan.model.linear import holder
from kaiyuan.model.routing import RouterStats, Seeds, mix_seed
from kaiyuan.model.transformer import Transformer
from kaiyuan.training.batch import Batch

Found: TypeAlias = tuple[dict[str, Tensor], list[RouterStats]]
WARM_UP = 2
"""Batches of a shape that are trained on as usual first: kernels are compiled and libraries plan in them."""


class GraphedPasses:
    """Calls ``passes`` (forward and backward of a whole batch) itself, or replays a graph of it where that is possible:
    on a GPU with our kernels, in bfloat16, for plain rows of tokens without dropout.
    """

    def __init__(self, model: Transformer, passes: Callable[[Batch], Found], wanted: bool) -> None:
        self.model, self.passes = model, passes
        self.wanted = wanted
        self.shape: torch.Size | None = None
        self.seen = 0
        self.graph: _StepGraph | None = None

    def __call__(self, batch: Batch) -> Found:
        if not (self.wanted and can_capture(self.model, batch)):
            return self.passes(batch)
        if batch.ids_BT.shape != self.shape:
            self.close()
            self.shape = batch.ids_BT.shape
        self.seen += 1
        if self.seen <= WARM_UP:
            return self.passes(batch)
        if self.graph is None:
            self.graph = _StepGraph(self.model, self.passes, batch)
        return self.graph.replay(batch)

    def close(self) -> None:
        """Give the graph's memory back."""
        self.graph, self.seen = None, 0


def can_capture(model: Transformer, batch: Batch) -> bool:
    """Whether nothing in a pass over ``batch`` waits for the device, or depends on what is not in its tensors."""
    mode = model.mode
    plain = batch.documents_BT is None and not batch.extra and batch.group == 1 and batch.whole is None
    steady = mode.attention_dropout == mode.hidden_dropout == 0 and mode.recompute != "blocks"
    return plain and steady and model.compute_dtype == torch.bfloat16 and on_gpu(model.embed.weight)


class _StepGraph:
    def __init__(self, model: Transformer, passes: Callable[[Batch], Found], batch: Batch) -> None:
        self.model = model
        self.batch = batch.clone()
        self.seeds = torch.zeros(len(model.layers), 2, dtype=torch.int64, device=model.device)
        model.mode.seeds = [Seeds(*row) for row in self.seeds]
        try:
            self.graph, self.found = captured(lambda: passes(self.batch))
        finally:
            model.mode.seeds = None
        places = [place for parameter in model.parameters() for place in {parameter, holder(parameter)}]
        self.gradients = [(place, place.grad) for place in places if place.grad is not None]

    def replay(self, batch: Batch) -> Found:
        """Gradients, metrics and statistics of ``batch``, where the capture left them; the next replay overwrites
        them.
        """
        self.batch.copy_(batch)
        self.seeds.copy_(_pinned(self._numbers(), self.seeds), non_blocking=True)
        self.graph.replay()
        for place, gradient in self.gradients:
            place.grad = gradient
        return self.found

    def _numbers(self) -> list[Seeds]:
        mode = self.model.mode
        return [Seeds.of(mode.routing, mix_seed(mode.step, layer)) for layer in range(len(self.seeds))]


def captured(run: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    """A graph of ``run``, and what it returned: tensors that a replay fills."""
    torch.cuda.empty_cache()  # a graph has memory of its own, and needs what steps without it have used
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run()
    return graph, found


def _pinned(rows: Sequence[Sequence[Any]], like: Tensor) -> Tensor:
    """int64, in memory from which a copy to the device of ``like`` does not wait for it."""
    found = torch.tensor(rows, dtype=torch.int64)
    return found.pin_memory() if like.is_cuda else found

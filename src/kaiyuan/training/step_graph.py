"""A step's forward and backward pass as one CUDA graph.

A step launches over a thousand kernels, and some of them run for a shorter time than Python needs to launch the next.
A graph is launched as one. It is captured when a few batches of one shape have been trained on, and replayed for each
one after: inputs, gradients and statistics keep their places in memory, and so do the seeds of recycle routing, which
are all that else differs from step to step. What is computed is what was computed before, to the bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from kaiyuan.model.fused import on_gpu
from kaiyuan.model.linear import holder
from kaiyuan.model.routing import RouterStats, Seeds, mix_seed
from kaiyuan.model.transformer import Transformer
from kaiyuan.progress import say
from kaiyuan.training.batch import Batch

Found: TypeAlias = tuple[dict[str, Tensor], list[RouterStats]]
WARM_UP = 2
"""Batches of a shape that are trained on as usual first: kernels are compiled and libraries plan in them. Twice as
many after each change of shape, since a capture that is used once does not pay.
"""


class GraphedPasses:
    """Calls ``passes`` (forward and backward of a whole batch) itself, or replays a graph of it where that is possible:
    on a GPU with our kernels, in bfloat16, for plain rows of tokens without dropout.
    """

    def __init__(self, model: Transformer, passes: Callable[[Batch], Found], wanted: bool) -> None:
        self.model, self.passes, self.wanted = model, passes, wanted
        self.seeds: _SeedsInMemory | None = None
        self.shape: torch.Size | None = None
        self.seen, self.warm_up = 0, WARM_UP
        self.graph: _StepGraph | None = None

    def __call__(self, batch: Batch) -> Found:
        if not (self.wanted and can_capture(self.model, batch)):
            self.close()
            return self.passes(batch)
        self._note(batch.ids_BT.shape)
        self.seeds = self.seeds or _SeedsInMemory(self.model)
        self.seeds.fill()
        if self.graph is None and self.seen > self.warm_up:
            self._capture(batch)
        if self.graph is not None:
            return self.graph.replay(batch)
        with self.seeds.used():  # so that the kernels that read them are compiled before a capture
            return self.passes(batch)

    def _note(self, shape: torch.Size) -> None:
        if shape != self.shape:
            self.warm_up = WARM_UP if self.shape is None else 2 * self.warm_up
            self.shape = shape
            self.close()
        self.seen += 1

    def _capture(self, batch: Batch) -> None:
        assert self.seeds is not None
        try:
            with self.seeds.used():
                self.graph = _StepGraph(self.model, self.passes, batch)
        except RuntimeError as error:  # out of memory is one
            self.wanted = False
            for place in _gradient_places(self.model):
                place.grad = None
            say(f"the step cannot be captured as a CUDA graph, each kernel is launched apart (run.graphs): {error}")

    def close(self) -> None:
        """Give the graph's memory back."""
        self.graph, self.seen = None, 0


def can_capture(model: Transformer, batch: Batch) -> bool:
    """Whether nothing in a pass over ``batch`` waits for the device, or depends on what is not in its tensors."""
    mode = model.mode
    plain = batch.documents_BT is None and not batch.extra and batch.group == 1 and batch.whole is None
    steady = mode.attention_dropout == mode.hidden_dropout == 0 and mode.recompute != "blocks"
    return plain and steady and model.compute_dtype == torch.bfloat16 and on_gpu(model.embed.weight)


class _SeedsInMemory:
    """What each layer's routing draws from in a step, where a replay finds it."""

    def __init__(self, model: Transformer) -> None:
        self.mode = model.mode
        self.numbers = torch.zeros(len(model.layers), 2, dtype=torch.int64, device=model.device)

    def fill(self) -> None:
        """Put the step's in."""
        policy, step = self.mode.routing, self.mode.step
        numbers = [Seeds.of(policy, mix_seed(step, layer)) for layer in range(len(self.numbers))]
        self.numbers.copy_(_pinned(numbers, self.numbers), non_blocking=True)

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Within it the model draws from them."""
        self.mode.seeds = [Seeds(*row) for row in self.numbers]
        try:
            yield
        finally:
            self.mode.seeds = None


class _StepGraph:
    def __init__(self, model: Transformer, passes: Callable[[Batch], Found], batch: Batch) -> None:
        self.batch = batch.clone()
        self.graph, self.found = captured(lambda: passes(self.batch))
        self.gradients = [(place, place.grad) for place in _gradient_places(model) if place.grad is not None]

    def replay(self, batch: Batch) -> Found:
        """Gradients, metrics and statistics of ``batch``, where the capture left them; the next replay overwrites
        them.
        """
        self.batch.copy_(batch)
        self.graph.replay()
        for place, gradient in self.gradients:
            place.grad = gradient
        return self.found


def captured(run: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    """A graph of ``run``, and what it returned: tensors that a replay fills."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run()
    return graph, found


def _gradient_places(model: Transformer) -> list[Tensor]:
    """Where gradients may be: one micro-batch's in a weight's copy, the sum of several in the weight itself."""
    return [place for weight in model.parameters() for place in dict.fromkeys((weight, holder(weight)))]


def _pinned(rows: Sequence[Sequence[Any]], like: Tensor) -> Tensor:
    """int64, in memory from which a copy to the device of ``like`` does not wait for it."""
    found = torch.tensor(rows, dtype=torch.int64)
    return found.pin_memory() if like.is_cuda else found

"""A whole training step of the real program on one of many ranks, with neither the others nor a GPU.

Model, layout, FSDP, pipeline schedule, loss, clipping and AdamW are those that train. What is pretended: a process
group that sends nothing, tensors with sizes and no memory (``FakeTensorMode``), Triton kernels that are not launched,
and a GPU, so that the code of one runs. Routing cannot be known without numbers; loads are taken as even, which recycle
routing and the balance loss are there to bring about.
"""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor

from kaiyuan.model.config import ModelConfig
from kaiyuan.model.experts import Dispatch
from kaiyuan.model.fused import pretended_gpu
from kaiyuan.model.transformer import Transformer
from kaiyuan.training.batch import Batch, Whole
from kaiyuan.training.objective import language_model_loss
from kaiyuan.training.parallel import collectives, expert, tokens
from kaiyuan.training.parallel.data import fill
from kaiyuan.training.parallel.layout import Layout
from kaiyuan.training.parallel.ledger import Ledger, Traffic
from kaiyuan.training.parallel.mesh import DIMS, Mesh
from kaiyuan.training.parallel.parallel import Parallel
from kaiyuan.training.trainer import Trainer, TrainerSettings


@dataclass(frozen=True)
class StepTrace:
    """What one rank held and sent in one step. Bytes."""

    rank: int
    parameters: int
    moments: int
    peak: int
    """The most that was alive at once, parameters and moments included."""
    traffic: dict[str, Traffic]
    """By kind: ``weights`` and ``gradients`` (FSDP), ``replicas`` (HSDP), ``experts``, ``routing``, ``tensor``,
    ``context``, ``pipeline``, ``tied`` (a tied embedding of two stages), ``sums`` of losses, norms and statistics, and
    ``once`` what is told once for each shape of a batch."""

    @property
    def rest(self) -> int:
        """Gradients, activations, gathered weights and buffers at the fullest moment."""
        return self.peak - self.parameters - self.moments


class _Zeros:
    """Batches of nothing."""

    def __init__(self, rows: int, length: int) -> None:
        self.batch_size, self.length = rows, length

    def batch(self, step: int, model: Transformer) -> Batch:
        return replace(self.share(step, range(self.batch_size)), whole=None)

    def share(self, step: int, numbers: Sequence[int]) -> Batch:
        ids = torch.zeros(len(numbers), self.length, dtype=torch.long)
        whole = Whole(self.batch_size, float(self.batch_size * self.length))
        return Batch(ids, ids, torch.ones(ids.shape), whole=whole)


def trace_step(
    config: ModelConfig, layout: Layout, rows: int, length: int, settings: TrainerSettings,
    dtype: torch.dtype = torch.bfloat16,
) -> StepTrace:  # fmt: skip
    """A step, not the first, of a batch of ``rows`` sequences in all, on this rank. Needs a
    process group of ``layout.size`` ranks, such as ``rank_state.pretend`` makes; ``ConfigError`` if the trainer would
    refuse the layout.
    """
    layout.check(config, rows, length, settings.micro_batches)
    with torch.device("meta"):
        model = Transformer(config, dtype)
    parallel = Parallel(layout, torch.device("cpu"))
    source = _Zeros(rows, length)
    parallel.check(model, source.batch(0, model), settings.micro_batches, settings.attention_dropout)
    parallel.divide(model)
    _make_groups(parallel.mesh)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_pretending())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        ledger = stack.enter_context(watched(parallel))
        fill(model, torch.device("cpu"), 0)
        trainer = Trainer("trace", model, source, language_model_loss, settings, folder)
        trainer.parallel = parallel
        trainer._set_mode()
        _make_moments(trainer.optimizer)
        ledger.reset()
        trainer._one_step()
    own = sum(_bytes(weight) for weight in model.parameters())
    moments = sum(_bytes(value) for state in trainer.optimizer.state.values() for value in state.values())
    return StepTrace(dist.get_rank(), own, moments, ledger.peak, ledger.traffic)


def _make_moments(optimizer: torch.optim.Optimizer) -> None:
    """What the first step leaves behind."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            weight.grad = torch.zeros_like(weight)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _bytes(value: Tensor) -> int:
    return (value.to_local() if isinstance(value, DTensor) else value).nbytes


def _make_groups(mesh: Mesh) -> None:
    """Every view of the mesh that a step asks for: made from numbers, which fake tensors have none of."""
    for name in DIMS:
        mesh.rank(name)
    assert mesh.tokens is not None


_WITHOUT_CALLER = {"gather": "weights", "reduce_scatter": "gradients", "send": "pipeline", "receive": "pipeline",
                   "objects": "objects"}  # fmt: skip


class _Kinds:
    """Names collectives: those of ``collectives.py`` by who called, FSDP's and the trainer's by what they do."""

    def __init__(self, parallel: Parallel) -> None:
        mesh: Mesh = parallel.mesh
        self.now: str | None = None
        self.replicas = mesh.group("replicate").group_name
        self.of_group = {str(mesh.group(name).group_name): name for name in ("tensor", "context")}
        ends = None if parallel.pipeline is None else parallel.pipeline.ends
        self.ends = "" if ends is None else ends.group_name

    def __call__(self, operation: str, group: str) -> str:
        if self.now is not None:
            return self.of_group[group] if self.now == "attention" else self.now
        if operation == "all_reduce":
            return "replicas" if group == self.replicas else "tied" if group == self.ends else "sums"
        return _WITHOUT_CALLER[operation]

    def named(self, name: str, function: Any) -> Any:
        """``function``, whose collectives are of kind ``name`` unless the caller's have one."""

        def call(*inputs: Any, **more: Any) -> Any:
            before, self.now = self.now, self.now or name
            try:
                return function(*inputs, **more)
            finally:
                self.now = before

        return call


@contextlib.contextmanager
def watched(parallel: Parallel) -> Iterator[Ledger]:
    """Within it a ``Ledger`` keeps books on a run of ``parallel``, pretended or not, its collectives named by kind."""
    kinds = _Kinds(parallel)
    named = [
        (collectives, "gathered", "attention"), (collectives, "scattered_sum", "attention"),
        (collectives, "exchanged", "experts"), (expert, "exchanged", "routing"), (expert, "gathered", "routing"),
        (expert, "summed", "routing"), (tokens, "gathered", "once"),
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:
        for where, what, name in named:
            stack.enter_context(mock.patch.object(where, what, kinds.named(name, getattr(where, what))))
        yield stack.enter_context(Ledger(kinds))


@contextlib.contextmanager
def _pretending() -> Iterator[None]:
    """Within it nothing is launched, every rank has the same objects, and loads are even."""
    from triton.runtime.jit import KernelInterface

    def nothing(self: Any, grid: Any) -> Any:
        return lambda *inputs, **more: None

    with (
        mock.patch.object(KernelInterface, "__getitem__", nothing),
        mock.patch.object(dist, "all_gather_object", _same_everywhere),
        mock.patch.object(expert, "rows_each", _even),
        pretended_gpu(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def _same_everywhere(found: list[Any], value: Any, group: Any = None) -> None:
    found[:] = [value] * len(found)


def _even(dispatch: Dispatch, sent_PL: Tensor, received_PL: Tensor) -> tuple[list[int], list[int]]:
    """All assignments of this rank, divided evenly; others send this rank what it sends itself."""
    ranks, count = len(sent_PL), len(dispatch.order_N)
    sent = [count * (rank + 1) // ranks - count * rank // ranks for rank in range(ranks)]
    return sent, [sent[0]] * ranks

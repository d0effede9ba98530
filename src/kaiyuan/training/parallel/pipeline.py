"""Pipeline parallelism: layers divided among stages, cut only between groups of layers that share keys and values.

Micro-batches go through the stages one forward, one backward (1F1B). A rank with several chunks of layers has as many
stages, the others' between them (interleaved 1F1B). A stage's router losses enter the gradient where its output leaves
it. A tied embedding lives on the first and the last rank, which add up their gradients.

Shapes: B rows of a micro-batch on this rank, O positions of this rank, D hidden size.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleInterleaved1F1B
from torch.distributed.tensor import DTensor

from kaiyuan.model.attention import Context, KeyValue
from kaiyuan.model.recompute import recomputing
from kaiyuan.model.routing import RouterStats
from kaiyuan.model.transformer import Features, Transformer
from kaiyuan.training.batch import Batch, Objective
from kaiyuan.training.parallel.local_weights import replace_forward
from kaiyuan.training.parallel.mesh import Mesh


class Elsewhere(nn.Module):
    """Stands where another stage has a part of the model: the names of a stage's own parts stay what they are."""


class _WithLoss(torch.autograd.Function):
    """``x``, whose gradient brings that of ``loss`` (times 1) with it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, grad.new_ones((), dtype=torch.float32)


class _Chunk(nn.Module):
    """A chunk of ``model`` as a schedule sees it: without weights, since FSDP sees a rank's layers as one module."""

    def __init__(self, model: Transformer, chunk: int) -> None:
        super().__init__()
        self.compute = partial(model, chunk=chunk)

    def forward(self, x: Tensor, number: Tensor) -> Tensor:
        return self.compute(x, number)


class Pipeline:
    """This rank's chunks of ``model``, and the schedule of a whole batch."""

    def __init__(self, model: Transformer, mesh: Mesh) -> None:
        self.model, self.mesh = model, mesh
        self.rank, layout = mesh.rank("pipeline"), mesh.layout
        self.first, self.last = self.rank == 0, self.rank == layout.pipeline - 1
        """Whether this rank has the first, the last stage."""
        self.tied = model.lm_head is None
        config = model.config
        self.chunks = layout.chunks(config.num_layers, config.cla_share_factor, self.rank)
        self.layers = [index for chunk in self.chunks for index in chunk]
        self.ends = self._group_of_ends() if self.tied else None
        for index in range(config.num_layers):
            if index not in self.layers:
                model.layers[index] = Elsewhere()
        if not (self.first or (self.last and self.tied)):
            model.embed = Elsewhere()  # type: ignore[assignment]
        if not self.last:
            model.norm = Elsewhere()  # type: ignore[assignment]
            model.lm_head = None if self.tied else Elsewhere()  # type: ignore[assignment]
        self.run = _Step()
        replace_forward(model, self.forward)

    def _group_of_ends(self) -> dist.ProcessGroup | None:
        """This rank and the one at the same place of the other end of the pipeline, if it is at an end."""
        mine = None
        ranks = self.mesh.root.mesh.flatten(1)
        for pair in ranks[[0, -1]].t().tolist():
            group = dist.new_group(pair)
            if dist.get_rank() in pair:
                mine = group
        return mine

    def forward(self, x: Tensor, number: Tensor, chunk: int = 0) -> Tensor:
        """Ids (B, O) in the first stage, else features (B, O, D), to features (B, O, D). ``number`` (1,) says which
        micro-batch.
        """
        model, run = self.model, self.run
        if self.first and chunk == 0:
            x = nn.functional.embedding(x, model.embed.weight).to(model.compute_dtype or model.embed.weight.dtype)
        context, shared = run.contexts[int(number)], None
        call = recomputing if model.mode.recompute == "blocks" and torch.is_grad_enabled() else _call
        stats: list[RouterStats] = []
        for index in self.chunks[chunk]:
            x, shared, found = call(model.layers[index], x, shared, context, model.mode)
            stats.append(found)
        if self.last and chunk == len(self.chunks) - 1:
            x = model.norm(x)
        run.router[chunk] = stats
        share = 1 / (len(run.contexts) * model.config.num_layers)
        balance = torch.stack([each.balance_loss for each in stats]).sum() * share
        z_loss = torch.stack([each.z_loss for each in stats]).sum() * share
        run.add(balance_loss=balance, z_loss=z_loss)
        return _WithLoss.apply(x, run.balance_weight * balance + run.z_weight * z_loss)

    def forward_backward(
        self, parts: list[Batch], ids: list[Tensor], contexts: list[Context], whole: Batch, objective: Objective,
        balance_weight: float, z_weight: float,
    ) -> tuple[dict[str, Tensor], list[RouterStats]]:  # fmt: skip
        """Gradients of all micro-batches; this rank's parts of the metrics and its layers' last statistics."""
        device = ids[0].device
        self.run = _Step(contexts, balance_weight, z_weight)
        stages = self._stages(ids[0])
        loss = partial(self._loss, objective, parts, whole)
        schedule: Schedule1F1B | ScheduleInterleaved1F1B
        if len(stages) == 1:
            schedule = Schedule1F1B(stages[0], len(parts), loss_fn=loss, scale_grads=False)
        else:
            schedule = ScheduleInterleaved1F1B(list(stages), len(parts), loss_fn=loss, scale_grads=False)
        numbers = torch.arange(len(parts), device=device)
        inputs = [torch.cat(ids)] if self.first else []
        sharded = cast(FSDPModule, self.model)
        sharded.set_is_last_backward(False)
        sharded.set_reshard_after_backward(False)
        sharded.set_requires_gradient_sync(False)
        schedule.step(*inputs, target=numbers if self.last else None, number=numbers)
        stages[0].submod = self.model
        stages[0].perform_reduce_grad(1)  # of all stages, which are one module to FSDP
        if self.ends is not None:
            self._add_up_tied()
        metrics = {"loss": torch.zeros((), device=device), **self.run.metrics}
        return metrics, [stats for chunk in sorted(self.run.router) for stats in self.run.router[chunk]]

    def _stages(self, ids_BO: Tensor) -> list[PipelineStage]:
        """The stages of this rank for micro-batches like ``ids_BO``."""
        model, layout, device = self.model, self.mesh.layout, ids_BO.device
        dtype = model.compute_dtype or torch.float32
        x = torch.empty(*ids_BO.shape, model.config.hidden_size, dtype=dtype, device=device, requires_grad=True)
        return [
            PipelineStage(
                _Chunk(model, chunk), chunk * layout.pipeline + self.rank, layout.stages, device,
                input_args=ids_BO if self.first and chunk == 0 else x, output_args=x,
                group=self.mesh.group("pipeline"),
            )
            for chunk in range(len(self.chunks))
        ]  # fmt: skip

    def _loss(self, objective: Objective, parts: list[Batch], whole: Batch, x_BOD: Tensor, number: Tensor) -> Tensor:
        """What the objective makes of features that have come through the pipeline."""
        features = Features(x_BOD, self.run.router[len(self.chunks) - 1], [])
        received = SimpleNamespace(features=lambda *ids, **more: features, head_weight=self.model.head_weight)
        loss = objective(received, parts[int(number)], whole)  # type: ignore[arg-type]
        self.run.add(**loss.metrics)
        return loss.total

    def _add_up_tied(self) -> None:
        grad = self.model.embed.weight.grad
        assert isinstance(grad, DTensor)
        dist.all_reduce(grad.to_local(), group=self.ends)

    def counts_here(self, weight: nn.Parameter) -> bool:
        """Whether the norm counts ``weight`` on this rank: a tied embedding is counted on the first."""
        return self.first or not (self.last and self.tied) or weight is not self.model.embed.weight


class _Step:
    """What a step's micro-batches share."""

    def __init__(
        self, contexts: list[Context] | None = None, balance_weight: float = 0.0, z_weight: float = 0.0
    ) -> None:  # fmt: skip
        self.contexts, self.balance_weight, self.z_weight = contexts or [], balance_weight, z_weight
        self.metrics: dict[str, Tensor] = {}
        self.router: dict[int, list[RouterStats]] = {}
        """Of each chunk's layers, in the last micro-batch that it has seen."""

    def add(self, **found: Tensor) -> None:
        for name, value in found.items():
            self.metrics[name] = self.metrics.get(name, 0) + value.detach()


def _call(block: nn.Module, x: Tensor, shared: KeyValue | None, context: Context, mode: Any) -> Any:
    return block(x, shared, context, mode)

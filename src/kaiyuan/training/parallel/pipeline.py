"""Pipeline parallelism: layers divided among stages, cut only between groups of layers that share keys and values.

Micro-batches go through the stages one forward, one backward (1F1B). A stage's router losses enter the gradient where
its output leaves it. A tied embedding lives on the first and the last stage, which add up their gradients.

Shapes: B rows of a micro-batch on this rank, O positions of this rank, D hidden size.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.distributed.tensor import DTensor

from kaiyuan.model.attention import Context, KeyValue
from kaiyuan.model.recompute import recomputing
from kaiyuan.model.routing import RouterStats
from kaiyuan.model.transformer import Features, Transformer
from kaiyuan.training.batch import Batch, Objective
from kaiyuan.training.parallel.layout import own_layers
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


class Pipeline:
    """This rank's stage of ``model``, and the schedule of a whole batch."""

    def __init__(self, model: Transformer, mesh: Mesh) -> None:
        self.model, self.mesh = model, mesh
        self.stage, self.stages = mesh.rank("pipeline"), mesh.layout.pipeline
        self.first, self.last = self.stage == 0, self.stage == self.stages - 1
        self.tied = model.lm_head is None
        config = model.config
        self.layers = own_layers(config.num_layers, config.cla_share_factor, self.stages, self.stage)
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

    def forward(self, x: Tensor, number: Tensor) -> Tensor:
        """Ids (B, O) on the first stage, else features (B, O, D), to features (B, O, D). ``number`` (1,) says which
        micro-batch.
        """
        model, run = self.model, self.run
        if self.first:
            x = nn.functional.embedding(x, model.embed.weight).to(model.compute_dtype or model.embed.weight.dtype)
        context, shared = run.contexts[int(number)], None
        call = recomputing if model.mode.recompute == "blocks" and torch.is_grad_enabled() else _call
        stats: list[RouterStats] = []
        for index in self.layers:
            x, shared, found = call(model.layers[index], x, shared, context, model.mode)
            stats.append(found)
        if self.last:
            x = model.norm(x)
        run.router = stats
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
        model, device = self.model, ids[0].device
        self.run = _Step(contexts, balance_weight, z_weight)
        rows, positions = ids[0].shape
        dtype = model.compute_dtype or torch.float32
        x = torch.empty(rows, positions, model.config.hidden_size, dtype=dtype, device=device, requires_grad=True)
        stage = PipelineStage(
            model, self.stage, self.stages, device, input_args=ids[0] if self.first else x, output_args=x,
            group=self.mesh.group("pipeline"),
        )  # fmt: skip
        schedule = Schedule1F1B(
            stage, len(parts), loss_fn=partial(self._loss, objective, parts, whole), scale_grads=False
        )  # fmt: skip
        numbers = torch.arange(len(parts), device=device)
        inputs = [torch.cat(ids)] if self.first else []
        schedule.step(*inputs, target=numbers if self.last else None, number=numbers)
        if self.ends is not None:
            self._add_up_tied()
        metrics = {"loss": torch.zeros((), device=device), **self.run.metrics}
        return metrics, self.run.router

    def _loss(self, objective: Objective, parts: list[Batch], whole: Batch, x_BOD: Tensor, number: Tensor) -> Tensor:
        """What the objective makes of features that have come through the pipeline."""
        features = Features(x_BOD, self.run.router, [])
        received = SimpleNamespace(features=lambda *ids, **more: features, head_weight=self.model.head_weight)
        loss = objective(received, parts[int(number)], whole)  # type: ignore[arg-type]
        self.run.add(**loss.metrics)
        return loss.total

    def _add_up_tied(self) -> None:
        grad = self.model.embed.weight.grad
        assert isinstance(grad, DTensor)
        dist.all_reduce(grad.to_local(), group=self.ends)

    def counts_here(self, weight: nn.Parameter) -> bool:
        """Whether the norm counts ``weight`` on this stage: a tied embedding is counted on the first."""
        return self.first or not self.tied or weight is not self.model.embed.weight


class _Step:
    """What a step's micro-batches share."""

    def __init__(
        self, contexts: list[Context] | None = None, balance_weight: float = 0.0, z_weight: float = 0.0
    ) -> None:  # fmt: skip
        self.contexts, self.balance_weight, self.z_weight = contexts or [], balance_weight, z_weight
        self.metrics: dict[str, Tensor] = {}
        self.router: list[RouterStats] = []

    def add(self, **found: Tensor) -> None:
        for name, value in found.items():
            self.metrics[name] = self.metrics.get(name, 0) + value.detach()


def _call(block: nn.Module, x: Tensor, shared: KeyValue | None, context: Context, mode: Any) -> Any:
    return block(x, shared, context, mode)

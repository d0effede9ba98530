"""What the trainer sees of a layout: a model that computes its share, and sums over ranks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from kaiyuan.errors import ConfigError
from kaiyuan.model.attention import Context
from kaiyuan.model.routing import RouterStats
from kaiyuan.model.transformer import Block, Features, Transformer
from kaiyuan.training.batch import Batch, Objective, RowSource
from kaiyuan.training.parallel.context import context_of
from kaiyuan.training.parallel.data import copies, fill, shard_model
from kaiyuan.training.parallel.expert import parallelize_experts
from kaiyuan.training.parallel.layout import Layout
from kaiyuan.training.parallel.mesh import mesh_of
from kaiyuan.training.parallel.pipeline import Pipeline
from kaiyuan.training.parallel.tensor import parallelize_attention
from kaiyuan.training.parallel.tokens import Tokens


class Parallel:
    """A ``Layout`` at work on the ranks of the default process group."""

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self.layout, self.device = layout, device
        self.mesh = mesh_of(layout, device)
        self.tokens = Tokens(self.mesh)
        self.pipeline: Pipeline | None = None

    def parallelize(self, model: Transformer, seed: int = 0) -> None:
        """Divide ``model``, whose weights are whole and the same on every rank, in place. One on the meta device gets
        the weights that ``init_weights(seed)`` would give it, and no rank ever holds all of them.
        """
        self.divide(model)
        if model.device.type == "meta":
            fill(model, self.device, seed)

    def divide(self, model: Transformer) -> None:
        """The same, leaving a model on the meta device there: enough to see what each rank would hold."""
        if self.layout.pipeline > 1:
            self.pipeline = Pipeline(model, self.mesh)
        for block in model.layers:
            if not isinstance(block, Block):
                continue
            if self.layout.tensor > 1:
                parallelize_attention(block.attention, self.mesh)
            parallelize_experts(block.moe, self.tokens)
        if self.pipeline is None:
            object.__setattr__(model, "features", self._features(model, model.features))
        shard_model(model, self.mesh)

    def _features(self, model: Transformer, compute: Callable[..., Features]) -> Callable[..., Features]:
        """``features`` of whole sequences of ids, at this rank's own positions."""

        def features(ids_BT: Tensor, *, documents_BT: Tensor | None = None, **more: Any) -> Features:
            context = self._context(model, ids_BT, documents_BT)
            return compute(self._own(ids_BT), context=context, **more)

        return features

    def _context(self, model: Transformer, ids_BT: Tensor, documents_BT: Tensor | None) -> Context:
        self.tokens.shape = (ids_BT.shape[0], ids_BT.shape[1])
        if self.layout.context > 1:
            return context_of(model, self.tokens, ids_BT, documents_BT)
        return model._context(ids_BT, documents_BT)

    def _own(self, ids_BT: Tensor) -> Tensor:
        return ids_BT[:, self.tokens.own(ids_BT.shape[1]).to(ids_BT.device)]

    def through_stages(
        self, model: Transformer, parts: list[Batch], whole: Batch, objective: Objective, balance: float, z_loss: float
    ) -> tuple[dict[str, Tensor], list[RouterStats]]:
        """Gradients of all micro-batches ``parts`` of ``whole`` through the pipeline; this rank's metrics and stats."""
        assert self.pipeline is not None
        mine = [self.local(part) for part in parts]
        contexts = [self._context(model, part.ids_BT, part.documents_BT) for part in mine]
        ids = [self._own(part.ids_BT) for part in mine]
        return self.pipeline.forward_backward(mine, ids, contexts, whole, objective, balance, z_loss)

    def check(self, model: Transformer, batch: Batch, micro_batches: int, attention_dropout: float) -> None:
        """``ConfigError`` with one reason if batches like this one cannot be divided."""
        rows, length = batch.ids_BT.shape
        if attention_dropout and self.layout.context > 1:
            raise ConfigError("[parallel] attention_dropout needs context=1: keys that were gathered have no dropout")
        self.layout.check(model.config, rows, length, micro_batches)
        if rows // micro_batches // self.layout.data_ranks % batch.group:
            raise ConfigError(f"[parallel] a micro-batch of {rows // micro_batches // batch.group} pairs cannot be "
                              f"divided among {self.layout.data_ranks} data ranks")  # fmt: skip

    def divides(self, model: nn.Module) -> bool:
        """Whether ``model`` has been divided."""
        return any(isinstance(weight, DTensor) for weight in model.parameters())

    @torch.no_grad()
    def everywhere(self, model: Transformer) -> Transformer:
        """A whole copy of a divided model for this rank alone, for evaluation. All ranks must call it."""
        with torch.device("meta"):
            copy = Transformer(model.config, model.compute_dtype)
        weights = {name: cast(DTensor, value).full_tensor() for name, value in model.state_dict().items()}
        copy.load_state_dict(weights, assign=True)
        return copy.requires_grad_(False).eval()

    @property
    def ranks_a_row(self) -> int:
        """How many ranks hold tokens of the same rows."""
        return self.layout.context * self.layout.tensor

    def row_sums(self, own_R: Tensor) -> Tensor:
        """Sums over whole rows of what this rank's tokens contribute. Their gradient goes to this rank's part alone:
        the other ranks, which compute the same from the sums, take care of theirs.
        """
        if self.ranks_a_row == 1:
            return own_R
        whole_R = own_R.detach().clone()
        dist.all_reduce(whole_R, group=self.mesh.sequence)
        return own_R + (whole_R - own_R.detach())

    @property
    def number(self) -> int:
        """This rank's number among those that hold different tokens: seeds of dropout differ by it."""
        return self.mesh.tokens.rank()

    def share(self, source: RowSource, step: int, micro_batches: int) -> Batch:
        """This rank's rows of the batch of ``step``, and no others."""
        return source.share(step, self.tokens.own_rows(source.batch_size, micro_batches))

    def local(self, part: Batch) -> Batch:
        """This rank's share of a micro-batch."""
        return self.tokens.local(part)

    def sum_metrics(self, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        """Every metric summed over all ranks; float32. Stages that do not compute the loss know fewer metrics."""
        names = sorted(set().union(*self.gather_objects(list(metrics)))) if self.pipeline else list(metrics)
        zero = torch.zeros((), device=self.device)
        values = torch.stack([metrics.get(name, zero).detach().float() for name in names])
        dist.all_reduce(values)
        return dict(zip(names, values.unbind(), strict=True))

    def sum_stats(self, layers: list[RouterStats]) -> list[RouterStats]:
        """The statistics of all tokens, from every rank's part of them."""
        flat = [value.detach().float().flatten() for stats in layers for value in stats]
        sums = torch.cat(flat)
        dist.all_reduce(sums, group=self.mesh.tokens)
        parts = iter(sums.split([len(value) for value in flat]))
        whole = [RouterStats(*(next(parts).view_as(value) for value in stats)) for stats in layers]
        if self.pipeline is None:
            return whole
        ranks: list[Any] = [None] * self.layout.pipeline
        numbers = [tuple(value.tolist() for value in stats) for stats in whole]
        mine = list(zip(self.pipeline.layers, numbers, strict=True))
        dist.all_gather_object(ranks, mine, group=self.mesh.group("pipeline"))
        of_layer = dict(pair for rank in ranks for pair in rank)
        return [RouterStats(*map(torch.tensor, of_layer[index])) for index in sorted(of_layer)]

    @torch.no_grad()
    def clip(self, model: nn.Module, limit: float) -> Tensor:
        """Scale the gradients so that their norm over all ranks is at most ``limit``; returns the norm before."""
        total = torch.zeros((), device=self.device)
        grads = []
        for weight in model.parameters():
            if isinstance(weight.grad, DTensor):
                grads.append(weight.grad.to_local())
                if self.pipeline is None or self.pipeline.counts_here(weight):
                    total += grads[-1].float().square().sum() / copies(weight, self.mesh.token_ranks)
        dist.all_reduce(total)
        norm = total.sqrt()
        if math.isfinite(limit):
            factor = (limit / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(grads, torch.where(norm.isfinite(), factor, 1.0))  # else leave them to be looked at
        return norm

    def any(self, wanted: bool) -> bool:
        """Whether it is true on any rank."""
        count = torch.tensor(float(wanted), device=self.device)
        dist.all_reduce(count)
        return bool(count)

    def gather_objects(self, value: Any) -> list[Any]:
        """Every rank's ``value``, in order of rank."""
        found: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(found, value)
        return found

    def whole(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Full tensors on the CPU of rank 0; an empty dict elsewhere. All ranks must call it."""
        found = {}
        for name, value in weights.items():
            full = value.full_tensor() if isinstance(value, DTensor) else value
            if self.mesh.tokens.rank() == 0:
                found[name] = full.detach().cpu()
        if self.pipeline is not None:
            stages = self.gather_objects(found)
            found = {name: value for stage in reversed(stages) for name, value in stage.items()}
        return found if dist.get_rank() == 0 else {}

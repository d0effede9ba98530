"""The one trainer. Pre-training, long context, SFT and DPO give it a batch source and a loss, and it does the rest.

A step depends on nothing but the weights, the optimiser's state and the step's number: batches, dropout and recycle
routing all derive their randomness from it. So a run killed anywhere and started again ends with the same bits.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from kaiyuan.checkpoint.training import load_training_checkpoint, save_training_checkpoint, training_checkpoints
from kaiyuan.model.linear import collect_gradients, drop_copies
from kaiyuan.model.routing import RouterStats, RoutingPolicy, mix_seed
from kaiyuan.model.transformer import Recompute, Transformer
from kaiyuan.progress import say
from kaiyuan.team import is_main
from kaiyuan.training.allocator import keep_freed_memory
from kaiyuan.training.batch import Batch, BatchSource, Objective, RowSource
from kaiyuan.training.fp8 import check_fp8
from kaiyuan.training.guard import LossGuard
from kaiyuan.training.master_adamw import MasterAdamW
from kaiyuan.training.metrics import MetricsLog, router_metrics
from kaiyuan.training.mfu import mfu
from kaiyuan.training.optimizer import PAPER_RATIO, adamw, clip, set_lr
from kaiyuan.training.profiling import StepProfiler
from kaiyuan.training.schedule import Schedule
from kaiyuan.training.step_graph import GraphedPasses
from kaiyuan.training.view import TrainingView
from kaiyuan.training.watch import HangWatch, StopRequest, first_bad_layer, gradient_norms, keep_incident

if TYPE_CHECKING:
    from kaiyuan.checkpoint.sharded import ShardedCheckpoints
    from kaiyuan.training.parallel.parallel import Parallel

MOMENTS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class TrainerSettings:
    """How to train, whatever the stage. Lengths of time are in steps; a step is one update of the weights."""

    steps: int
    lr: float
    warmup: int = 0
    decay_to: float = 0.4
    final_lr: float = 0.1
    anneal_share: float = 0.05
    expert_lr_ratio: float = PAPER_RATIO
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""
    balance_loss: float = 0.01
    z_loss: float = 0.0
    routing: RoutingPolicy = field(default_factory=RoutingPolicy)
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.0
    micro_batches: int = 1
    ema_decay: float = 0.0
    """Keep an exponential moving average of the weights if over 0 (paper 3.2)."""
    checkpoint_every: int = 100
    router_metrics_every: int = 10
    tensorboard: bool = False
    recompute: Recompute = "none"
    hang_after: float = 1800.0
    """Seconds without a step after which a process of many ends itself, to be started again; 0 for never."""
    moments: Literal["fp32", "bf16"] = "fp32"
    """Of AdamW, in one process; bf16 takes less memory and time and wants a beta2 of about 0.95."""
    fp8: bool = False
    """Feed-forward layers and attention's projections multiply in fp8, forwards and to their inputs; on one GPU that
    can (Hopper or later).
    """
    graphs: bool = True
    """Replay forward and backward pass as a CUDA graph where that is possible; see ``step_graph``."""
    profile: bool = False
    """Write a trace of two steps, and where their time went, to ``profile/`` in the folder."""
    seed: int = 0

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.lr, self.steps, self.warmup, self.decay_to, self.final_lr, self.anneal_share)


class Trainer:
    """Trains ``model`` in place for ``settings.steps`` steps, in ``folder``, from its newest checkpoint if there is
    one.
    """

    def __init__(
        self,
        label: str,
        model: Transformer,
        source: BatchSource,
        objective: Objective,
        settings: TrainerSettings,
        folder: Path,
        on_step: Callable[[int], None] | None = None,
        parallel: Parallel | None = None,
    ) -> None:
        self.label, self.model, self.source, self.objective = label, model, source, objective
        self.settings, self.folder, self.on_step = settings, folder, on_step
        self.schedule, self.parallel = settings.schedule, parallel
        if settings.fp8:
            check_fp8(model, alone=parallel is None)
        if parallel is not None:
            for step in {0, settings.steps - 1}:  # the last may be smaller
                parallel.check(model, source.batch(step, model), settings.micro_batches, settings.attention_dropout)
            parallel.parallelize(model, settings.seed)
        self.optimizer = adamw(
            model,
            weight_decay=settings.weight_decay,
            betas=settings.betas,
            eps=settings.eps,
            expert_ratio=settings.expert_lr_ratio,
            moments=MOMENTS[settings.moments],
        )
        self.guard = LossGuard()
        self.step = 0
        self.tokens = 0
        self.ema: dict[str, Tensor] | None = None
        if settings.ema_decay > 0:
            self.ema = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.stop = StopRequest()
        self.passes = GraphedPasses(model, self._forward_backward, settings.graphs and parallel is None)
        self.store = None if parallel is None else _store(self.checkpoints)
        self._resume()

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def _resume(self) -> None:
        state = self._load_alone() if self.store is None else self.store.load(self.model, self.optimizer, self.ema)
        if state is not None:
            self.step, self.tokens = state["step"], state["tokens"]
            self.guard.restore(state["guard"])
            if isinstance(self.optimizer, MasterAdamW):
                self.optimizer.resume_codes()
            say(f"{self.label}: goes on from step {self.step} of {self.settings.steps}")

    def _load_alone(self) -> dict[str, Any] | None:
        """Fill everything from the newest checkpoint, of this process or of many; returns its state."""
        found = training_checkpoints(self.checkpoints)
        if not found:
            return None
        if (found[-1] / "sums.json").exists():
            from kaiyuan.checkpoint.sharded import load_sharded, newest_whole

            return load_sharded(newest_whole(found), self.model, self.optimizer, self.ema)
        state, ema = load_training_checkpoint(found[-1], self.model, self.optimizer)
        self.ema = None if ema is None else {name: value.to(self.model.device) for name, value in ema.items()}
        return state

    def fit(self) -> Mapping[str, Tensor]:
        """Train to the end; returns the final weights, averaged if there is an average."""
        if self.model.device.type == "cpu":
            keep_freed_memory()
        self.model.train()
        self._set_mode()
        log = MetricsLog(self.folder, self.step, self.settings.tensorboard) if is_main() else None
        view = TrainingView(self.label, self.settings.steps, done=self.step)
        profiler = StepProfiler(self.folder / "profile" if self.settings.profile else None)
        try:
            with view, profiler, self.stop, self._hang_watch() as hang:
                while self.step < self.settings.steps:
                    line = self._one_step()
                    line["time"]["left"] = round(view.left(1), 1)
                    if log is not None:
                        log.write(line)
                    view.record(line)
                    profiler.step()
                    hang.beat(self.step)
                    if self.step % self.settings.checkpoint_every == 0 and self.step < self.settings.steps:
                        if log is not None:
                            log.flush()
                        self._save()
                    if self._wants_to_stop():
                        self._leave()
            if self.store is not None:
                self.store.wait()
        finally:
            self.passes.close()
            if log is not None:
                log.close()
        self.model.eval()
        drop_copies(self.model.parameters())
        weights = self.ema if self.ema is not None else self.model.state_dict()
        return weights if self.parallel is None else self.parallel.whole(weights)

    def _wants_to_stop(self) -> bool:
        """Whether SIGTERM has come, to this process or to any other of the run."""
        return self.stop.wanted if self.parallel is None else self.parallel.any(self.stop.wanted)

    def _leave(self) -> None:
        """Save what has been done and end the process as SIGTERM would have."""
        self._save()
        if self.store is not None:
            self.store.wait()
        say(f"{self.label}: stopped after step {self.step}, which is saved")
        raise SystemExit(128 + signal.SIGTERM)

    def _hang_watch(self) -> HangWatch:
        rank = os.environ.get("RANK", "0")
        limit = 0.0 if self.parallel is None else self.settings.hang_after
        return HangWatch(self.folder / "incidents" / f"hang-rank-{rank}.txt", limit)

    @property
    def _ranks(self) -> int:
        return 1 if self.parallel is None else self.parallel.layout.size

    def _set_mode(self) -> None:
        mode, settings = self.model.mode, self.settings
        mode.routing = settings.routing
        mode.attention_dropout, mode.hidden_dropout = settings.attention_dropout, settings.hidden_dropout
        self.model.recompute(settings.recompute)
        self.model.multiply_in_fp8(settings.fp8)

    def _one_step(self) -> dict[str, Any]:
        start = time.perf_counter()
        rank = () if self.parallel is None else (self.parallel.number,)
        torch.manual_seed(mix_seed(self.settings.seed, self.step, *rank))
        self.model.mode.step = mix_seed(self.settings.seed, self.step, 1)
        batch = self._batch().to(self.model.device)
        self.model.train()
        found, router = self.passes(batch)
        metrics = _read({**found, "grad_norm": self._clip()})
        lr = self.schedule(self.step)
        applied = self.guard.accepts(self.step, metrics["loss"], metrics["grad_norm"])
        if applied:
            set_lr(self.optimizer, lr)
            self.optimizer.step()
            self._average()
        else:
            self._keep_incident(batch, metrics)
        self.optimizer.zero_grad(set_to_none=True)
        line: dict[str, Any] = {
            "step": self.step, "tokens": batch.tokens, "lr": lr, "expert_lr": lr * self.settings.expert_lr_ratio,
            "applied": applied, **metrics, **batch.metrics,
        }  # fmt: skip
        if self.step % self.settings.router_metrics_every == 0 or self.step == self.settings.steps - 1:
            line["router"] = router_metrics(router)
        seconds = time.perf_counter() - start
        rate = batch.tokens / seconds
        line["time"] = {"seconds": round(seconds, 4), "tokens_per_second": round(rate, 1)}
        dtype = self.model.compute_dtype or torch.float32
        share = mfu(self.model.config, batch.ids_BT.shape[1], rate / self._ranks, self.model.device, dtype)
        if share is not None:
            line["time"]["mfu"] = round(share, 4)
        if self.on_step is not None:
            self.on_step(self.step)
        self.step += 1
        self.tokens += batch.tokens
        return line

    def _batch(self) -> Batch:
        """This step's batch, or this process's rows of it alone where the source can give them."""
        if self.parallel is None or not isinstance(self.source, RowSource):
            return self.source.batch(self.step, self.model)
        return self.parallel.share(self.source, self.step, self.settings.micro_batches)

    def _forward_backward(self, batch: Batch) -> tuple[dict[str, Tensor], list[RouterStats]]:
        """Gradients of the whole batch, summed over micro-batches; returns metrics and the last micro-batch's
        router stats.
        """
        parts = self.settings.micro_batches
        rows = math.ceil(len(batch.ids_BT) / batch.group / parts) * batch.group
        totals: dict[str, Tensor] = {}
        router: list[RouterStats] = []
        if self.parallel is not None and self.parallel.layout.pipeline > 1:
            weights = self.settings.balance_loss, self.settings.z_loss
            cut = [batch.rows(slice(start, start + rows)) for start in range(0, len(batch.ids_BT), rows)]
            totals, router = self.parallel.through_stages(self.model, cut, batch, self.objective, *weights)
            return self.parallel.sum_metrics(totals), self.parallel.sum_stats(router)
        for start in range(0, len(batch.ids_BT), rows):
            part = batch.rows(slice(start, start + rows)) if parts > 1 else batch
            mine = part if self.parallel is None else self.parallel.local(part)
            loss = self.objective(self.model, mine, batch)
            router = loss.features.router
            share = len(part.ids_BT) / len(batch.ids_BT)
            balance = torch.stack([stats.balance_loss for stats in router]).mean() * share
            z_loss = torch.stack([stats.z_loss for stats in router]).mean() * share
            (loss.total + self.settings.balance_loss * balance + self.settings.z_loss * z_loss).backward()
            if parts > 1:
                collect_gradients(self.model.parameters())
            found = {**loss.metrics, "balance_loss": balance.detach(), "z_loss": z_loss.detach()}
            totals = {name: totals.get(name, torch.zeros_like(value)) + value for name, value in found.items()}
        if self.parallel is not None:
            return self.parallel.sum_metrics(totals), self.parallel.sum_stats(router)
        return totals, [stats.detached() for stats in router]

    def _keep_incident(self, batch: Batch, metrics: dict[str, float]) -> None:
        """What a refused step looked like on every rank, and its batch."""
        share = batch if self.parallel is None else self.parallel.local(batch)
        if self.parallel is not None and self.parallel.layout.pipeline > 1:
            run = None
        else:
            run = partial(self.model.features, share.ids_BT, documents_BT=share.documents_BT)
        seen = {
            "first_bad_layer": None if run is None else first_bad_layer(self.model, run),
            "gradient_norms": gradient_norms(self.model),
        }
        ranks = [seen] if self.parallel is None else self.parallel.gather_objects(seen)
        if is_main():
            whole = batch if batch.whole is None else self.source.batch(self.step, self.model)
            keep_incident(self.folder / "incidents", self.step, whole, {"metrics": metrics, "ranks": ranks})

    def _clip(self) -> Tensor:
        limit = self.settings.clip if self.settings.clip > 0 else math.inf
        if self.parallel is not None:
            return self.parallel.clip(self.model, limit)
        return clip(self.model, self.optimizer, limit)

    @torch.no_grad()
    def _average(self) -> None:
        if self.ema is not None:
            for name, value in self.model.state_dict().items():
                self.ema[name].lerp_(value, 1 - self.settings.ema_decay)

    def _save(self) -> None:
        state = {"step": self.step, "tokens": self.tokens, "guard": self.guard.state()}
        if self.store is not None:
            self.store.save(self.step, self.model, self.optimizer, state, self.ema)
            return
        save_training_checkpoint(self.checkpoints, self.step, self.model, self.optimizer, state, self.ema)


def _store(folder: Path) -> ShardedCheckpoints:
    """Imported late: one process alone needs none of it."""
    from kaiyuan.checkpoint.sharded import ShardedCheckpoints

    return ShardedCheckpoints(folder)


def _read(numbers: dict[str, Tensor]) -> dict[str, float]:
    """The one place where a step waits for the device: the guard must know before the update."""
    values = torch.stack([value.detach().float() for value in numbers.values()]).tolist()
    return dict(zip(numbers, values, strict=True))

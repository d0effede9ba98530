"""Training runs of a tiny model that any layout can repeat: what the ranks of ``process_group.Group`` execute."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kaiyuan import ModelConfig
from kaiyuan.model import transformer
from kaiyuan.model.routing import Routing, RoutingPolicy
from kaiyuan.model.transformer import Transformer
from kaiyuan.training.batch import Batch, Whole
from kaiyuan.training.objective import language_model_loss
from kaiyuan.training.parallel import expert
from kaiyuan.training.parallel.layout import Layout
from kaiyuan.training.parallel.parallel import Parallel
from kaiyuan.training.parallel.trace import StepTrace, trace_step, watched
from kaiyuan.training.trainer import Trainer, TrainerSettings

CONFIG = ModelConfig(
    vocab_size=64, hidden_size=32, num_layers=4, num_attention_heads=4, num_kv_heads=2, head_dim=8,
    intermediate_size=24, num_experts=4, init_std=0.2,
)  # fmt: skip
SETTINGS = TrainerSettings(
    steps=5, lr=0.003, warmup=1, eps=1e-6, router_metrics_every=1, balance_loss=0.05, z_loss=0.001, clip=0.5,
    checkpoint_every=100,
    routing=RoutingPolicy(capacity_factor=1.0, min_capacity=1, draw="place"),
)  # fmt: skip


class RandomRows:
    """Batches of random tokens that depend on the step alone, packed documents if asked for."""

    batch_size = 8

    def __init__(self, documents: bool = False) -> None:
        self.documents = documents

    def share(self, step: int, numbers: Sequence[int]) -> Batch:
        batch = self.batch(step)
        whole = Whole(self.batch_size, float(batch.weights_BT.sum()))
        return replace(batch.rows(torch.tensor(numbers)), whole=whole)

    def batch(self, step: int, model: Transformer | None = None) -> Batch:
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(64, (8, 33), generator=generator)
        weights = (torch.rand(8, 32, generator=generator) < 0.8).float()
        documents = (torch.rand(8, 32, generator=generator) < 0.1).long().cumsum(1) if self.documents else None
        return Batch(ids[:, :-1], ids[:, 1:], weights, documents)


@dataclass
class Run:
    """What one training run gave."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    routing: list[dict[str, Any]] = field(default_factory=list)
    recycled: list[Tensor] = field(default_factory=list)
    """For every step and layer, the expert of each token of the batch that was recycled, -1 for the others."""
    weights: dict[str, Tensor] = field(default_factory=dict)


def _recording(run: Run) -> None:
    """Have every routing decision remembered, whoever takes it."""
    from kaiyuan.model.routing import route

    def recorded(*inputs: Any, **more: Any) -> Routing:
        routing = route(*inputs, **more)
        run.recycled.append(torch.where(routing.recycled_N, routing.expert_N, -1))
        return routing

    transformer.route = expert.route = recorded  # type: ignore[attr-defined]


def train(
    layout: Layout | None,
    changes: dict[str, Any],
    documents: bool = False,
    dtype: torch.dtype | None = None,
    tied: bool = True,
    folder: Path | None = None,
    gpu: bool = False,
    meta: bool = False,
    layers: int = 4,
) -> Run:
    """Five steps from the same weights, in ``layout`` or (None) in this process alone."""
    run = Run()
    _recording(run)
    model = Transformer(CONFIG.replace(tie_word_embeddings=tied, num_layers=layers), dtype)
    model.init_weights(1)
    device = torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")
    model = Transformer(model.config, dtype).to("meta") if meta else model.to(device)
    parallel = None if layout is None else Parallel(layout, device)
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        settings = replace(SETTINGS, seed=1, **changes)
        trainer = Trainer("test", model, RandomRows(documents), language_model_loss, settings, place, parallel=parallel)
        step = trainer._one_step

        def one_step() -> dict[str, Any]:
            line = step()
            run.losses.append(line["loss"])
            run.norms.append(line["grad_norm"])
            run.routing.append({key: line["router"][key] for key in ("load", "recycled", "dropped", "balance_loss")})
            return line

        trainer._one_step = one_step  # type: ignore[method-assign]
        run.weights = dict(trainer.fit())
    run.weights = {name: value.detach().cpu().clone() for name, value in run.weights.items()}
    run.recycled = [value.cpu() for value in run.recycled]
    return run


def train_on_a_full_disk(layout: Layout, folder: Path) -> Run:
    """Five steps with a checkpoint at each of which the first three find no room."""
    from torch.distributed.checkpoint import filesystem

    from kaiyuan.checkpoint import sharded

    write, saves = sharded.dcp.save, []

    def save(*inputs: Any, **more: Any) -> Any:
        saves.append(1)
        create = filesystem.FileSystem.create_stream
        if len(saves) < 3 and dist.get_rank() == 1:

            def full(self: Any, path: Any, mode: str) -> Any:
                return create(self, "/dev/full", mode)

            filesystem.FileSystem.create_stream = full  # type: ignore[method-assign,assignment]
        try:
            return write(*inputs, **more)
        finally:
            filesystem.FileSystem.create_stream = create  # type: ignore[method-assign]

    sharded.dcp.save = save
    try:
        changes = {"checkpoint_every": 1, "steps": 5}
        return train(layout, changes, folder=folder)
    finally:
        sharded.dcp.save = write


LONG = {"steps": 30, "checkpoint_every": 3, "warmup": 2}
LONG_LAYOUT = Layout(data_shard=2, expert=2)


def train_long(folder: Path, pause: float = 0.0, clock: bool = False) -> Run:
    """Thirty steps with a checkpoint every third: long enough to be interrupted. ``clock`` sets the clock about."""
    import time

    if clock:
        real, calls = time.time, iter(range(10**9))
        time.time = lambda: real() + (-1) ** next(calls) * 3e7
    one_step = Trainer._one_step

    def paused(self: Trainer) -> dict[str, Any]:
        line = one_step(self)
        time.sleep(pause)
        return line

    Trainer._one_step = paused  # type: ignore[method-assign]
    try:
        return train(LONG_LAYOUT, LONG, folder=folder)
    finally:
        Trainer._one_step = one_step  # type: ignore[method-assign]
        if clock:
            time.time = real


def train_with_a_bad_layer(folder: Path) -> Run:
    """Three steps in which, from the second on, layer 2 of rank 1 gives numbers that are none."""
    one_step = Trainer._one_step

    def spoilt(self: Trainer) -> dict[str, Any]:
        if self.step == 1 and dist.get_rank() == 1:
            self.model.layers[2].register_forward_hook(lambda block, _, out: (out[0] * torch.nan, *out[1:]))
        return one_step(self)

    Trainer._one_step = spoilt  # type: ignore[method-assign]
    try:
        return train(LONG_LAYOUT, {"steps": 3}, folder=folder)
    finally:
        Trainer._one_step = one_step  # type: ignore[method-assign]


def largest_tensor(layout: Layout, length: int, documents: bool) -> int:
    """Elements of the largest tensor of a forward and backward pass over one row of ``length`` tokens a data rank."""
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = function(*args, **kwargs or {})
            largest = max([largest, *(x.numel() for x in tree_leaves(out) if isinstance(x, Tensor))])
            return out

    model = Transformer(CONFIG)
    model.init_weights(1)
    Parallel(layout, torch.device("cpu")).parallelize(model.train())
    ids = (torch.arange(length) % 64)[None]
    with Watch():
        found = model.features(ids, documents_BT=ids.cumsum(1) // 30_000 if documents else None)
        found.x_BTD.square().sum().backward()
    return largest


def of_layout(config: ModelConfig, layout: Layout) -> ModelConfig:
    """``config`` with as many times its layers as a rank of the pipeline has chunks."""
    return config.replace(num_layers=config.num_layers * layout.pipeline_chunks)


def own_rows(layout: Layout, batch: int, micro_batches: int) -> list[int]:
    """Which rows this rank reads."""
    return Parallel(layout, torch.device("cpu")).tokens.own_rows(batch, micro_batches)


def booked(layout: Layout, settings: TrainerSettings) -> dict[str, float]:
    """Bytes that this rank sends in the second step of a real run, by kind, as ``trace_step`` counts them."""
    with torch.device("meta"):
        model = Transformer(of_layout(CONFIG, layout), torch.bfloat16)
    parallel = Parallel(layout, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as temporary:
        trainer = Trainer(
            "test", model, RandomRows(), language_model_loss, settings, Path(temporary), parallel=parallel
        )  # fmt: skip
        trainer._set_mode()
        trainer._one_step()
        with watched(parallel) as ledger:
            trainer._one_step()
    return {kind: traffic.sent for kind, traffic in ledger.traffic.items()}


def traced(
    layout: Layout, settings: TrainerSettings, config: ModelConfig = CONFIG, rows: int = 8, length: int = 32
) -> StepTrace:
    """A step of this rank of a pretended group."""
    return trace_step(of_layout(config, layout), layout, rows, length, settings)

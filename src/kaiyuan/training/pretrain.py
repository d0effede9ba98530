"""The pre-training stage: a new model on the mixture, annealed on the best data at the end (paper 2.3)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from kaiyuan.checkpoint.training import training_checkpoints
from kaiyuan.corpus.loader import MixturePhase, TokenLoader
from kaiyuan.corpus.mixture import caps_by_label, check_phases, spread
from kaiyuan.corpus.schedule import LOG, follow, read_mixture, scheduled, used, within_epochs
from kaiyuan.corpus.shards import Shard, open_shards, token_counts
from kaiyuan.files import write_json
from kaiyuan.model.device import multiplies_bfloat16, usable_device
from kaiyuan.model.fused import use_kernels
from kaiyuan.model.routing import RoutingPolicy
from kaiyuan.model.transformer import Transformer
from kaiyuan.progress import quantity, say
from kaiyuan.recipe import PretrainSection, Recipe, RunSection, TrainingSection
from kaiyuan.team import is_main
from kaiyuan.training.allocator import grow_segments
from kaiyuan.training.batch import Batch, Whole
from kaiyuan.training.objective import language_model_loss
from kaiyuan.training.optimizer import PAPER_RATIO, expert_lr_ratio
from kaiyuan.training.parallel.layout import Layout
from kaiyuan.training.trainer import Trainer, TrainerSettings

if TYPE_CHECKING:
    from kaiyuan.run import StageContext
    from kaiyuan.tokenizer import Tokenizer
    from kaiyuan.training.parallel.parallel import Parallel


class TokenSource:
    """Batches of plain next-token prediction from a ``TokenLoader``."""

    def __init__(self, loader: TokenLoader, batch_size: int) -> None:
        self.loader, self.batch_size = loader, batch_size

    def batch(self, step: int, model: Transformer) -> Batch:
        return replace(self.share(step, range(self.batch_size)), whole=None)

    def share(self, step: int, numbers: Sequence[int]) -> Batch:
        inputs, targets, _ = self.loader.rows(step, self.batch_size, numbers)
        ids = torch.from_numpy(inputs)
        whole = Whole(self.batch_size, float(self.batch_size * ids.shape[1]))
        return Batch(ids, torch.from_numpy(targets), torch.ones(ids.shape), whole=whole)


def trainer_settings(section: TrainingSection, run: RunSection, steps: int, **more: Any) -> TrainerSettings:
    """The recipe's training section as the trainer wants it."""
    ratio = section.expert_lr_ratio
    if ratio is None:
        x = section.batch_over_noise
        ratio = PAPER_RATIO if x is None else expert_lr_ratio(x, reading=section.ratio_reading)
    same = ("lr", "warmup", "decay_to", "final_lr", "anneal_share", "eps", "weight_decay", "clip", "balance_loss",
            "z_loss", "attention_dropout", "hidden_dropout", "micro_batches", "recompute", "moments", "fp8",
            "checkpoint_every")  # fmt: skip
    values: dict[str, Any] = {name: getattr(section, name) for name in same}
    values |= {
        "expert_lr_ratio": ratio,
        "betas": (section.betas[0], section.betas[1]),
        "routing": RoutingPolicy(**section.routing.model_dump(), seed=run.seed),
        "seed": run.seed,
        "tensorboard": run.tensorboard,
        "profile": run.profile,
        "graphs": run.graphs,
    }
    return TrainerSettings(steps=steps, **{**values, **more})


def pick_device(run: RunSection) -> torch.device:
    """The device of the recipe; applies the recipe's number of threads and its choice of kernels."""
    use_kernels(run.kernels)
    grow_segments()
    if run.threads:
        torch.set_num_threads(run.threads)
    name = run.device if run.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        name = f"cuda:{torch.cuda.current_device()}"
    return usable_device("run.device", name)


def compute_dtype(run: RunSection, device: torch.device) -> torch.dtype:
    """What the recipe lets a model on ``device`` compute in."""
    if run.precision == "auto":
        return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
    return torch.bfloat16 if run.precision == "bf16" else torch.float32


def run(context: StageContext) -> dict[str, Any]:
    """Train from random weights; writes model/, metrics.jsonl and report.json."""
    from kaiyuan.tokenizer import load_tokenizer

    recipe, section = context.recipe, context.recipe.pretrain
    assert section is not None
    device = pick_device(recipe.run)
    tokenizer = load_tokenizer(context.input("tokenizer"))
    per_step = section.batch_size * section.sequence_length
    settings = trainer_settings(section, recipe.run, steps=max(1, section.tokens // per_step))
    shards = open_shards(context.input("tokenizer") / "shards", "train")
    phases = _phases(section, settings, shards, context.folder)
    loader = TokenLoader(shards, phases, section.sequence_length, recipe.run.seed, section.shuffle)
    source = TokenSource(loader, section.batch_size)
    model = new_model(recipe, tokenizer.vocab_size, section.sequence_length, device)
    trainer = Trainer(
        "pretrain", model, source, language_model_loss, settings, context.folder, parallel=layout_of(recipe, device)
    )
    weights = trainer.fit()
    if is_main():
        write_json(context.folder / "mixture.json", used(phases, trainer.step * section.batch_size))
    return finish(context.folder, model, weights, tokenizer, trainer)


def layout_of(recipe: Recipe, device: torch.device) -> Parallel | None:
    """The recipe's layout on the processes of ``torchrun``; None for one process."""
    world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    layout = Layout.of(recipe.parallel, world)
    if world == 1:
        return None
    from kaiyuan.training.parallel.parallel import Parallel

    say(f"{world} processes: {layout}")
    return Parallel(layout, device)


def _phases(
    section: PretrainSection, settings: TrainerSettings, shards: Mapping[str, Shard], folder: Path
) -> list[MixturePhase]:
    """The mixtures of the run, with what an interrupted run has already used."""
    mixture = read_mixture(Path(section.mixture_file)) if section.mixture_file else section.mixture
    sizes = token_counts(shards)
    steps = {step.at: spread(step.mixture, sizes) for step in section.mixture_steps}
    rows, start = section.batch_size, settings.schedule.anneal_start
    last = spread(section.anneal_mixture, sizes)
    phases = scheduled(settings.steps * rows, start * rows, spread(mixture, sizes), steps, last)
    found = training_checkpoints(folder / "checkpoints")
    position = int(found[-1].name.rpartition("-")[2]) * rows if found else 0
    phases = follow(folder / LOG, position, phases, record=is_main())
    if not section.max_epochs:
        return phases
    check_phases(phases, shards)
    windows = {label: Fraction(len(shard.tokens), section.sequence_length) for label, shard in shards.items()}
    return within_epochs(phases, windows, caps_by_label(section.max_epochs, shards))


def new_model(recipe: Recipe, vocab_size: int, context_length: int, device: torch.device) -> Transformer:
    """A freshly initialised model of the recipe, on ``device``."""
    config = recipe.model.config(vocab_size)
    if config.max_position_embeddings < context_length:
        config = config.replace(max_position_embeddings=context_length)
    many = dist.is_available() and dist.is_initialized()  # then the trainer fills what each rank keeps
    with torch.device("meta") if many else contextlib.nullcontext():
        model = Transformer(config, compute_dtype(recipe.run, device))
    if not many:
        model.init_weights(recipe.run.seed)
    count = config.parameters()
    dtype = str(model.compute_dtype).removeprefix("torch.")
    say(f"model: {quantity(count.total)} parameters, {quantity(count.active)} active per token, computes in {dtype}")
    return model if many else model.to(device)


def finish(
    folder: Path, model: Transformer, weights: Mapping[str, Tensor], tokenizer: Tokenizer, trainer: Trainer,
    generation: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write the trained model with its tokenizer into ``folder/model``, and ``folder/report.json``. ``generation`` goes
    into the model's ``generation_config.json``.
    """
    from kaiyuan.checkpoint import save_model

    report = {"steps": trainer.step, "tokens": trainer.tokens, "refused_updates": trainer.guard.refused}
    if is_main():
        save_model(with_weights(model, weights), folder / "model")
        tokenizer.save(folder / "model", generation)
        write_json(folder / "report.json", report)
    return report


def with_weights(model: Transformer, weights: Mapping[str, Tensor]) -> Transformer:
    """A whole model with ``weights``: ``model`` itself unless it is divided among processes."""
    if dist.is_available() and dist.is_initialized():
        model = Transformer(model.config, model.compute_dtype)
    model.load_state_dict(weights)
    return model

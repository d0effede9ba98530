"""The long-context stage: sequences of growing length, each with its RoPE base, a quarter of them long documents.

The paper (2.3.3) goes to 32K and then to 256K with about 10B tokens each, 25% natural long documents (books, code)
and 75% of normal length, and a RoPE base of 1e9 at 256K.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaiyuan.checkpoint import load_model, save_model
from kaiyuan.corpus.loader import MixturePhase, TokenLoader
from kaiyuan.corpus.mixture import spread
from kaiyuan.corpus.shards import open_shards, token_counts
from kaiyuan.files import read_json, write_json
from kaiyuan.model.transformer import Transformer
from kaiyuan.progress import say
from kaiyuan.recipe import ExtendStage
from kaiyuan.team import is_main, wait_for_all
from kaiyuan.training.objective import language_model_loss
from kaiyuan.training.pretrain import TokenSource, compute_dtype, layout_of, pick_device, trainer_settings, with_weights
from kaiyuan.training.trainer import Trainer

if TYPE_CHECKING:
    from kaiyuan.run import StageContext


def run(context: StageContext) -> dict[str, Any]:
    """One folder ``stage-<length>`` for each stage, then model/ and report.json."""
    from kaiyuan.tokenizer import load_tokenizer

    section = context.recipe.extend
    assert section is not None
    tokenizer = load_tokenizer(context.input("tokenizer"))
    source, reports = context.input("pretrain") / "model", []
    for number, stage in enumerate(section.stages):
        target = context.folder / f"stage-{stage.length}"
        if not (target / "report.json").exists():
            train_stage(context, stage, number, source, target)
        source = target / "model"
        reports.append(read_json(target / "report.json"))
    report = {"stages": reports, "tokens": sum(stage["tokens"] for stage in reports)}
    if is_main():
        save_model(load_model(source), context.folder / "model")
        tokenizer.save(context.folder / "model")
        write_json(context.folder / "report.json", report)
    return report


def train_stage(context: StageContext, stage: ExtendStage, number: int, source: Path, target: Path) -> None:
    """Continue the model in ``source`` at one length; the report is written last and marks the stage as done."""
    section, recipe = context.recipe.extend, context.recipe
    assert section is not None
    per_step = section.batch_size * section.stages[0].length
    rows = max(1, per_step // stage.length)
    seed = recipe.run.seed + 1 + number
    settings = trainer_settings(section, recipe.run, steps=max(1, stage.tokens // (rows * stage.length)), seed=seed)
    shards = open_shards(context.input("tokenizer") / "shards", "train")
    mixture = spread(section.mixture, token_counts(shards))
    phases = [MixturePhase(settings.steps * rows, mixture, long_documents=section.long_share)]
    loader = TokenLoader(shards, phases, stage.length, seed)
    model = longer(load_model(source), stage)
    device = pick_device(recipe.run)
    model.compute_dtype = compute_dtype(recipe.run, device)
    model.to(device)
    target.mkdir(parents=True, exist_ok=True)
    label = f"extend to {stage.length}"
    say(f"{label}: RoPE base {model.config.rope_base:.3g}, {settings.steps} steps of {rows} x {stage.length} tokens")
    trainer = Trainer(
        label, model, TokenSource(loader, rows), language_model_loss, settings, target,
        parallel=layout_of(recipe, device),
    )  # fmt: skip
    weights = trainer.fit()
    if is_main():
        save_model(with_weights(model, weights), target / "model")
        report = {"length": stage.length, "rope_base": model.config.rope_base, "steps": settings.steps}
        write_json(target / "report.json", {**report, "tokens": trainer.tokens})
    wait_for_all()


def longer(model: Transformer, stage: ExtendStage) -> Transformer:
    """The same weights under the stage's RoPE base and context length."""
    config = model.config.replace(
        rope_theta=stage.rope_theta,
        rope_alpha=stage.rope_alpha,
        max_position_embeddings=max(stage.length, model.config.max_position_embeddings),
    )
    longer_model = Transformer(config, model.compute_dtype)
    longer_model.load_state_dict(model.state_dict())
    return longer_model

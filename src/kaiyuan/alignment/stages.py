"""The SFT and DPO stages of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kaiyuan.alignment.dpo import DPOObjective
from kaiyuan.alignment.preference import OnlineSampler, PreferenceSource, offline_pairs
from kaiyuan.alignment.sft import ChatSource, pack
from kaiyuan.checkpoint import load_model
from kaiyuan.files import read_jsonl
from kaiyuan.inference.params import SamplingParams
from kaiyuan.progress import say
from kaiyuan.synthesis.problems import Problem, verify
from kaiyuan.synthesis.stage import PREFERENCES, SFT
from kaiyuan.tokenizer import load_tokenizer, render_training
from kaiyuan.training.objective import language_model_loss
from kaiyuan.training.pretrain import compute_dtype, finish, pick_device, trainer_settings
from kaiyuan.training.trainer import Trainer

if TYPE_CHECKING:
    from pathlib import Path

    from kaiyuan.model.transformer import Transformer
    from kaiyuan.run import StageContext


def run_sft(context: StageContext) -> dict[str, Any]:
    """Fine-tune the newest model on the chat samples; writes model/, metrics.jsonl and report.json."""
    section, run = context.recipe.sft, context.recipe.run
    assert section is not None
    source_folder = context.latest_model()
    tokenizer = load_tokenizer(source_folder)
    rows = read_jsonl(context.input("synthesis") / SFT)
    everything = [render_training(tokenizer, row["messages"]) for row in rows]
    samples = [sample for sample in everything if len(sample.ids) <= section.sequence_length]
    if len(samples) < len(everything):
        say(f"sft: {len(everything) - len(samples)} samples are longer than sft.sequence_length and are left out")
    packed = pack(samples, section.sequence_length, tokenizer.pad_id)
    source = ChatSource(packed, section.batch_size, section.epochs, run.seed + 100)
    used = sum(len(sample.ids) for sample in samples) / (len(packed) * section.sequence_length)
    say(f"sft: {len(samples)} samples in {len(packed)} rows ({used:.0%} full), {source.steps} steps")
    settings = trainer_settings(section, run, source.steps, seed=run.seed + 100)
    model = trainable(source_folder, context)
    trainer = Trainer("sft", model, source, language_model_loss, settings, context.folder)
    return finish(context.folder, model, trainer.fit(), tokenizer, trainer)


def run_dpo(context: StageContext) -> dict[str, Any]:
    """Align the SFT model on offline and online pairs; writes model/ (averaged weights), metrics.jsonl, report.json."""
    section, run = context.recipe.dpo, context.recipe.run
    assert section is not None
    source_folder = context.latest_model()
    tokenizer = load_tokenizer(source_folder)
    file = context.input("synthesis") / PREFERENCES
    offline = offline_pairs(file, tokenizer)
    problems = [Problem(**row["problem"]) for row in read_jsonl(file)]
    params = SamplingParams(temperature=section.temperature, max_tokens=section.max_tokens, n=section.samples)
    online = OnlineSampler(
        [pair.prompt for pair in offline],
        lambda index, text: verify(problems[index], text),
        params,
        run.seed + 200,
        tokenizer,
    )
    source = PreferenceSource(
        offline,
        online,
        trainable(source_folder, context).eval().requires_grad_(False),
        pairs=section.batch_size,
        online_share=section.online_share,
        pad_id=tokenizer.pad_id,
        seed=run.seed + 200,
    )
    settings = trainer_settings(section, run, section.steps, seed=run.seed + 200, ema_decay=section.ema_decay)
    model = trainable(source_folder, context)
    objective = DPOObjective(section.beta, section.sft_weight)
    trainer = Trainer("dpo", model, source, objective, settings, context.folder)
    return finish(context.folder, model, trainer.fit(), tokenizer, trainer)


def trainable(folder: Path, context: StageContext) -> Transformer:
    """The model in ``folder`` with float32 parameters, computing in the run's precision on its device."""
    model = load_model(folder)
    model.compute_dtype = compute_dtype(context.recipe.run)
    return model.to(pick_device(context.recipe.run))

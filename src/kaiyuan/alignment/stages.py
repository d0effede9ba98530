"""The SFT and DPO stages of a run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kaiyuan.alignment.chat_data import PlainText, read_chats, weighted
from kaiyuan.alignment.division import ALONE, Together
from kaiyuan.alignment.dpo import DPOObjective
from kaiyuan.alignment.preference import OnlineSampler, PreferenceSource, offline_pairs
from kaiyuan.alignment.sft import ChatSource, pack
from kaiyuan.checkpoint import load_model
from kaiyuan.corpus.mixture import spread
from kaiyuan.corpus.shards import open_shards, token_counts
from kaiyuan.files import read_jsonl
from kaiyuan.inference.params import SamplingParams
from kaiyuan.progress import say
from kaiyuan.synthesis.problems import Problem, verify
from kaiyuan.synthesis.stage import HELD_OUT, PREFERENCES, SFT
from kaiyuan.tokenizer import ChatTokens, load_tokenizer
from kaiyuan.training.objective import language_model_loss
from kaiyuan.training.pretrain import compute_dtype, finish, layout_of, pick_device, trainer_settings
from kaiyuan.training.trainer import Trainer

if TYPE_CHECKING:
    from pathlib import Path

    from kaiyuan.model.transformer import Transformer
    from kaiyuan.recipe import SftSection
    from kaiyuan.run import StageContext
    from kaiyuan.tokenizer import Tokenizer


def run_sft(context: StageContext) -> dict[str, Any]:
    """Fine-tune the newest model on the files of ``sft.data``; writes model/, metrics.jsonl and report.json."""
    section, run = context.recipe.sft, context.recipe.run
    assert section is not None
    source_folder = context.latest_model()
    tokenizer = load_tokenizer(source_folder)
    samples, data = _conversations(context, section, tokenizer)
    packed = pack(samples, section.sequence_length, tokenizer.pad_id)
    plain = _plain_text(context, section, len(packed))
    model = trainable(source_folder, context)
    parallel = layout_of(context.recipe, model.device)
    multiple = 1 if parallel is None else parallel.layout.data_ranks * section.micro_batches
    source = ChatSource(packed, section.batch_size, section.epochs, run.seed + 100, plain, multiple)
    used = sum(len(sample.ids) for sample in samples) / (len(packed) * section.sequence_length)
    plain_rows = plain.per_epoch if plain else 0
    say(f"sft: {len(samples)} samples in {len(packed)} rows ({used:.0%} full), {plain_rows} rows of plain text, "
        f"{source.steps} steps")  # fmt: skip
    settings = trainer_settings(section, run, source.steps, seed=run.seed + 100)
    trainer = Trainer("sft", model, source, language_model_loss, settings, context.folder, parallel=parallel)
    generation = section.recommended.generation_config()
    report = finish(context.folder, model, trainer.fit(), tokenizer, trainer, generation)
    return {**report, "data": data, "rows": len(packed), "plain_rows": plain_rows}


def _conversations(
    context: StageContext, section: SftSection, tokenizer: Tokenizer
) -> tuple[list[ChatTokens], list[dict[str, Any]]]:
    """The samples of an epoch from all files of the recipe, and a report of each file."""
    folder = context.input("synthesis")
    held_out = {row["prompt"] for row in read_jsonl(folder / HELD_OUT)}
    samples, reports = list[ChatTokens](), []
    for number, item in enumerate(section.data):
        found = read_chats(item.file() or folder / SFT, item.path, tokenizer, section.sequence_length, held_out)
        for reason in ("too long", "held out"):
            if found.counts[reason]:
                hint = "longer than sft.sequence_length" if reason == "too long" else "problems held out for evaluation"
                say(f"sft: {item.path}: {found.counts[reason]} samples are {hint} and are left out")
        chosen = weighted(found.samples, item.weight, f"sft data {context.recipe.run.seed} {number}")
        samples += chosen
        reports.append(found.report(len(chosen)))
    return samples, reports


def _plain_text(context: StageContext, section: SftSection, chat_rows: int) -> PlainText | None:
    if not section.plain_share:
        return None
    recipe = context.recipe
    mixture = section.plain_mixture or (recipe.pretrain.mixture if recipe.pretrain else {})
    shards = open_shards(context.input("tokenizer") / "shards", "train")
    weights = spread(mixture, token_counts(shards)) or dict.fromkeys(shards, 1.0)
    return PlainText(
        shards, weights, section.sequence_length, section.plain_share,
        section.plain_weight, chat_rows, section.epochs, recipe.run.seed + 101,
    )  # fmt: skip


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
    further = [pair for path in section.pair_files() for pair in offline_pairs(path, tokenizer)]
    say(f"dpo: {len(offline)} offline pairs of synthesis, {len(further)} of other files")
    reference = trainable(source_folder, context).eval().requires_grad_(False)
    parallel = layout_of(context.recipe, reference.device)
    objective = DPOObjective(section.beta, section.sft_weight)
    if parallel is not None:
        objective = replace(objective, row_sums=parallel.row_sums, ranks_a_row=parallel.ranks_a_row)
    source = PreferenceSource(
        [*offline, *further],
        online,
        reference,
        pairs=section.batch_size,
        online_share=section.online_share,
        pad_id=tokenizer.pad_id,
        seed=run.seed + 200,
        division=ALONE if parallel is None else Together(parallel, reference),
    )
    settings = trainer_settings(section, run, section.steps, seed=run.seed + 200, ema_decay=section.ema_decay)
    model = trainable(source_folder, context)
    trainer = Trainer("dpo", model, source, objective, settings, context.folder, parallel=parallel)
    generation = section.recommended.generation_config()
    return finish(context.folder, model, trainer.fit(), tokenizer, trainer, generation)


def trainable(folder: Path, context: StageContext) -> Transformer:
    """The model in ``folder`` with float32 parameters, computing in the run's precision on its device."""
    model = load_model(folder)
    device = pick_device(context.recipe.run)
    model.compute_dtype = compute_dtype(context.recipe.run, device)
    return model.to(device)

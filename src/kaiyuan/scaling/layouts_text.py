"""``kaiyuan plan`` for a kind of GPU: the layouts that fit, set out for people or as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaiyuan.errors import ConfigError
from kaiyuan.progress import quantity
from kaiyuan.scaling.hardware import find_kind
from kaiyuan.scaling.layouts import Candidate, Layouts, find_layouts
from kaiyuan.scaling.memory import GIB, USABLE
from kaiyuan.scaling.plan import find_config
from kaiyuan.scaling.text import Section, binary, render

_SHOWN = 8
_PARTS = {
    "parameters": "this GPU's part of the weights, float32",
    "moments": "AdamW's, float32",
    "gradients": "float32; with a pipeline whole for its stage",
    "gathered": "weights while they are computed with, bfloat16",
    "activations": "kept, and one layer's or the loss's working memory",
    "buffers": "FSDP's messages, routing of all tokens",
}


@dataclass(frozen=True)
class Question:
    """What is asked: a run of ``tokens`` in steps of ``batch`` tokens."""

    tokens: float
    batch: float
    price: float | None = None


def describe_layouts(
    model: str | Path, kind: str, gpus: int, tokens: float, length: int, batch: float, price: float | None = None,
    decide: str = "globally", as_json: bool = False, trace: bool = False,
) -> str:  # fmt: skip
    """The layouts of ``model`` on ``gpus`` of ``kind`` as text; ``trace`` follows a step of the best one beside it."""
    if decide not in ("globally", "per rank"):
        raise ConfigError(f"--decide: {decide!r} is neither 'globally' nor 'per rank'")
    rows = sequences(batch, length)
    question = Question(tokens, rows * length, price)
    found = find_layouts(find_config(model), find_kind(kind), gpus, rows, length, decide)
    traced = _trace(found) if trace and found.best else None
    if as_json:
        return json.dumps(as_record(str(model), found, question, traced), indent=1)
    sections = [_table(str(model), found, question), *_best(found, question), _others(found)]
    if traced and found.best:
        sections.insert(-1, _traced(found.best, traced))
    return render(sections)


def sequences(batch: float, length: int) -> int:
    """Sequences of a step of about ``batch`` tokens: a power of two, which many ranks divide, unless it is exact."""
    if batch < length:
        raise ConfigError(f"a batch of {batch:g} tokens holds no sequence of {length} tokens")
    return int(batch) // length if batch % length == 0 else 2 ** round(math.log2(batch / length))


def layout_section(candidate: Candidate) -> str:
    """What goes into the recipe."""
    work = candidate.work
    return (f"[parallel] {str(work.layout).replace(', ', '; ')}  [pretrain] micro_batches={work.micro_batches}; "
            f'recompute="{work.recompute}"; batch_size={work.rows}')  # fmt: skip


def _table(model: str, found: Layouts, question: Question) -> Section:
    rows = [
        (str(each.work.layout), f"{each.work.micro_batches}", each.work.recompute, f"{each.memory.total / GIB:.1f}",
         f"{each.time.total:.2f}", f"{each.mfu():.1%}", f"{each.days(question.tokens):,.1f}",
         f"{each.cost(question.tokens, question.price):,.0f}")
        for each in found.fitting[:_SHOWN]
    ]  # fmt: skip
    price = found.kind.price if question.price is None else question.price
    whose = "a placeholder: --price takes yours" if question.price is None else "as given"
    rates = "Rates are an H100's share of the peak, or assumed: nothing was measured on this kind."
    if found.kind.measured:
        rates = "Rates are those measured on one H100, where steps took 4 to 9% longer than planned."
    notes = [
        f"{len(found.fitting):,} layouts fit in {USABLE:.0%} of {found.kind.memory / GIB:.0f} GiB. A step has "
        f"{quantity(question.batch)} tokens in {found.rows:,} sequences.",
        f"{price:g} dollars an hour and GPU is {whose}. {rates}",
    ]
    if not rows:
        notes = ["No layout fits: take more GPUs, a kind with more memory, shorter sequences or a smaller batch."]
    head = ("layout", "micro-batches", "recompute", "GiB", "seconds", "MFU", "days", "dollars")
    title = f"{model} on {found.gpus:,} {found.kind.name.upper()}, {quantity(question.tokens)} tokens"
    return Section(title, rows, head, notes)


def _best(found: Layouts, question: Question) -> list[Section]:
    best = found.best
    if best is None:
        return []
    memory = [(name, binary(value), _PARTS[name]) for name, value in best.memory.parts().items()]
    memory.append(("in all", binary(best.memory.total), f"on the fullest GPU, rank {best.memory.stage} of a pipeline"))
    time = [
        (name, f"{1000 * seconds:,.0f} ms", f"{seconds / best.time.total:.1%}")
        for name, seconds in best.time.parts().items()
        if seconds > 0.0005 * best.time.total
    ]
    bounds = [(what, f"{share:.1%}") for what, share in sorted(found.bounds().items(), key=lambda item: -item[1])]
    return [
        Section("The first: where memory goes", memory, notes=[layout_section(best)]),
        Section("The first: where time goes", [*time, ("in all", f"{1000 * best.time.total:,.0f} ms", "")]),
        Section("What binds: MFU if this cost nothing", bounds, notes=[f"What binds most: {found.binds()}."]),
    ]


def _others(found: Layouts) -> Section:
    rows = [(about, f"{count:,}", found.examples[about]) for about, count in found.refused.most_common()]
    if found.too_large:
        fastest = found.too_large[0]
        most, value = max(fastest.memory.parts().items(), key=lambda part: part[1])
        text = f"{fastest.work.layout}: {fastest.memory.total / GIB:.0f} GiB, {binary(value)} of it {most}"
        rows.insert(0, ("memory", f"{len(found.too_large):,}", text))
    note = "Layouts by what speaks against them, with the fastest or, in the trainer's own words, the first."
    return Section("Why others do not fit", rows, notes=[note])


def _trace(found: Layouts) -> dict[str, Any]:
    """A step of the best layout's first rank (of the first stage), followed in the real program."""
    from kaiyuan.training.parallel.rank_state import pretend
    from kaiyuan.training.parallel.trace import trace_step
    from kaiyuan.training.trainer import TrainerSettings

    assert found.best is not None
    work = found.best.work
    pretend(work.layout.size)
    settings = TrainerSettings(
        steps=2, lr=1e-4, micro_batches=work.micro_batches, recompute=work.recompute  # type: ignore[arg-type]
    )  # fmt: skip
    step = trace_step(work.config, work.layout, work.rows, work.length, settings)
    sent = {kind: one.sent for kind, one in step.traffic.items() if kind not in ("once", "sums")}
    return {"parameters": step.parameters, "moments": step.moments, "peak": step.peak, "sent": sent}


def _traced(best: Candidate, traced: dict[str, Any]) -> Section:
    from kaiyuan.training.parallel.traffic import total, traffic

    planned = total(traffic(best.work))
    rows = [("memory at most", binary(best.memory.total), binary(traced["peak"]))]
    rows += [(f"sent: {kind}", binary(planned.get(kind, 0)), binary(sent)) for kind, sent in traced["sent"].items()]
    return Section("The first rank's step: planned, and traced in the real program", rows, ("", "planned", "traced"))


def as_record(model: str, found: Layouts, question: Question, traced: dict[str, Any] | None = None) -> dict[str, Any]:
    """All of it for other programs: seconds, bytes, tokens."""
    return {
        "model": model, "kind": found.kind.name, "gpus": found.gpus, "tokens": question.tokens,
        "batch_tokens": question.batch, "sequence_length": found.length,
        "binds": found.binds() if found.fitting else None,
        "mfu_if_free": found.bounds() if found.fitting else {},
        "layouts": [_candidate_record(each, question) for each in found.fitting],
        "too_large": len(found.too_large), "refused": dict(found.refused), "traced": traced,
    }  # fmt: skip


def _candidate_record(each: Candidate, question: Question) -> dict[str, Any]:
    work = each.work
    return {
        "layout": vars(work.layout), "micro_batches": work.micro_batches, "recompute": work.recompute,
        "memory": each.memory.parts(), "memory_total": each.memory.total, "seconds": each.time.parts(),
        "step_seconds": each.time.total, "mfu": each.mfu(), "days": each.days(question.tokens),
        "dollars": each.cost(question.tokens, question.price),
    }  # fmt: skip

"""A plan, set out for people."""

from __future__ import annotations

from kaiyuan.progress import quantity
from kaiyuan.scaling.memory import CAST, GIB, MASTER, MOMENTS, USABLE, gradient_bytes
from kaiyuan.scaling.plan import Plan
from kaiyuan.scaling.text import Section, binary, render, scientific

_CONTEXTS = (4096, 32_768, 262_144)


def render_plan(plan: Plan) -> str:
    """All sections of the plan as text."""
    return render([
        _parameters(plan), _training_memory(plan), _verdict(plan), _compute(plan), _optimum(plan), _cache(plan),
        _inference(plan),
    ])  # fmt: skip


def _parameters(plan: Plan) -> Section:
    count = plan.parameters
    parts = [
        ("embedding and head", count.embedding, count.embedding),
        ("attention", count.attention, count.attention),
        ("shared experts", count.shared, count.shared),
        ("specialised experts", count.experts, count.active_experts),
        ("router and norms", count.router + count.norms, count.router + count.norms),
        ("in all", count.total, count.active),
    ]
    rows = [(name, quantity(total), quantity(active), f"{active / count.active:.1%}") for name, total, active in parts]
    note = f"Active without the embedding: {quantity(count.active_without_embedding)} (the scaling law's N)."
    return Section(f"{plan.model}: parameters", rows, ("", "total", "active a token", "share of active"), (note,))


def _training_memory(plan: Plan) -> Section:
    memory, layer = plan.memory, plan.memory.gathered
    grad = gradient_bytes(plan.gpus)
    kind = "bfloat16" if grad == CAST else "float32"
    rows = [
        ("weights", binary(memory.parameters), f"{MASTER} bytes a parameter, float32"),
        (
            "gradients",
            binary(memory.gradients),
            f"{grad} bytes a parameter, {kind}",
        ),
        ("AdamW's moments", binary(memory.moments), f"{MOMENTS} bytes a parameter, float32"),
        ("copies that products read", binary(memory.casts), f"{CAST} bytes a parameter, bfloat16"),
        ("state in all", binary(memory.state), f"{binary(memory.state * plan.gpus)} in all"),
    ]
    if layer:
        rows.append(("largest layer, gathered", binary(layer), "bfloat16, whole on every GPU while it is computed"))
    rows += [
        ("activations", binary(memory.activations), f"one sequence of {plan.context:,} tokens, at the fullest moment"),
        (
            "activations, recomputed",
            binary(memory.recomputed),
            'blocks run again (recompute = "blocks"); a quarter more time',
        ),
    ]
    where = "one GPU" if plan.gpus == 1 else f"each of {plan.gpus:,} GPUs, state evenly sharded"
    return Section(f"Training memory on {where}", rows)


def _verdict(plan: Plan) -> Section:
    rows = [
        ("all activations kept", binary(plan.memory.total), *_answer(plan.fits, plan.least_gpus)),
        ("layers recomputed", binary(plan.memory.total_recomputing),
         *_answer(plan.fits_recomputing, plan.least_gpus_recomputing)),
    ]  # fmt: skip
    usable = f"{binary(plan.usable_bytes)} of {plan.gpu_memory_gib:g} GiB are planned with ({USABLE:.0%})."
    impossible = "'none': a single sequence is too much for one GPU, however many there are."
    notes = [usable, impossible] if None in (plan.least_gpus, plan.least_gpus_recomputing) else [usable]
    return Section("Does it fit?", rows, ("", "each GPU", "fits", "GPUs at least"), notes)


def _answer(fits: bool, least: int | None) -> tuple[str, str]:
    return "yes" if fits else "no", "none" if least is None else f"{least:,}"


def _compute(plan: Plan) -> Section:
    flops_per_day = plan.exact_flops / plan.days
    rows = [
        ("exact count", scientific(plan.flops.training), scientific(plan.exact_flops), _days(plan.days)),
        ("paper's 9.59 N D + 2.3e8 D", scientific(plan.paper_flops / plan.tokens), scientific(plan.paper_flops),
         _days(plan.paper_flops / flops_per_day)),
    ]  # fmt: skip
    attention = plan.flops.attention_forward / plan.flops.forward
    notes = [
        f"Exact: every product, attention over {plan.context:,} tokens included ({attention:.1%}); time and money",
        "follow from it. The paper's form is a line through small models, which its law needs.",
    ]
    if plan.context > plan.config.max_position_embeddings:
        notes.append(f"Note: the config's max_position_embeddings is {plan.config.max_position_embeddings:,}.")
    title = f"Training on {quantity(plan.tokens)} tokens, {_gpus(plan.gpus)} at {plan.tflops:g} TFLOP/s"
    return Section(title, rows, ("", "FLOPs a token", "FLOPs", "time"), notes)


def _gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count:,} GPUs"


def _days(days: float) -> str:
    if days < 1 / 24:
        return f"{days * 1440:.3g} minutes"
    if days < 2:
        return f"{days * 24:.3g} hours"
    return f"{days:.3g} days" if days < 1000 else f"{days / 365.25:,.3g} years"


def _optimum(plan: Plan) -> Section:
    best, size = plan.optimum, plan.parameters.active_without_embedding
    rows = [
        ("this plan", quantity(size), quantity(plan.tokens), f"{plan.tokens / size:.3g}"),
        ("optimum by the paper's law", quantity(best.active_parameters), quantity(best.tokens),
         f"{best.tokens / best.active_parameters:.3g}"),
    ]  # fmt: skip
    title = f"The best model for {scientific(plan.paper_flops)} FLOPs"
    return Section(title, rows, ("", "active parameters", "tokens", "tokens a parameter"))


def _cache(plan: Plan) -> Section:
    schemes = [("this model", plan.kv.ours), ("GQA without sharing", plan.kv.gqa), ("MHA", plan.kv.mha)]
    rows = [
        (name, binary(size), *(binary(size * length) for length in _CONTEXTS), f"{size / plan.kv.mha:.3g}")
        for name, size in schemes
    ]
    head = ("", "a token", *(f"{length // 1024}K tokens" for length in _CONTEXTS), "of MHA")
    return Section("KV cache in bfloat16", rows, head)


def _inference(plan: Plan) -> Section:
    rows = [
        (form.name, binary(form.weights), binary(form.kv_per_token * plan.context),
         f"{form.gpus(plan.usable_bytes, plan.context):,}",
         f"{form.sequences(plan.gpus, plan.usable_bytes, plan.context):,}")
        for form in plan.inference
    ]  # fmt: skip
    head = ("", "weights", f"cache of {plan.context:,} tokens", "GPUs at least", f"sequences on {plan.gpus:,}")
    note = f"GPUs of {plan.gpu_memory_gib:g} GiB, {plan.usable_bytes / GIB:.3g} of them planned with."
    return Section("Inference memory", rows, head, (note,))

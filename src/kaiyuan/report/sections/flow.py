"""The way of the text: every stage with what went through it and how long it took."""

from __future__ import annotations

from kaiyuan.report.html import Markup, tag
from kaiyuan.report.numbers import byte_count, decimal, duration, integer, quantity
from kaiyuan.report.sections.layout import TITLES, Data, section

_STATUS = {"unfinished": "not finished", "missing": "not run", "left out": "not in the recipe"}


def flow(data: Data) -> Markup:
    steps = [_step(data, stage) for stage in TITLES]
    missing = [TITLES[stage] for stage, status in data["stages"].items() if status in ("missing", "unfinished")]
    note = None
    if missing:
        note = tag("p", f"Missing from this run: {', '.join(missing)}.", class_="absent", role="note")
    lead = "From raw text at the top to answers at the bottom, with what each stage left behind."
    return section("flow", "The way of the text", lead, note, tag("ol", *steps, class_="flow"))


def _step(data: Data, stage: str) -> Markup:
    status = data["stages"][stage]
    time = data["time"]["stages"].get(stage)
    facts = _FACTS[stage](data) if status == "done" else []
    return tag(
        "li",
        tag("strong", TITLES[stage]),
        tag("span", duration(time["seconds"]) if time else _STATUS.get(status, ""), class_="took"),
        tag("ul", *(tag("li", fact) for fact in facts)) if facts else None,
        class_="step" if status == "done" else "step open",
    )


def _counts(data: Data, stage: str) -> Data:
    return data["counts"][stage] or {}


def _corpus(data: Data) -> list[str]:
    counts = _counts(data, "corpus")
    documents = counts.get("documents", {})
    facts = []
    if documents:
        facts.append(f"{integer(documents['read'])} documents read, {byte_count(counts['bytes']['read'])}")
        facts.append(f"{integer(documents['train'])} to train on, {integer(documents['heldout'])} held out")
    generated = sum(counts.get("generated", {}).values())
    return facts + ([f"{integer(generated)} generated"] if generated else [])


def _tokenizer(data: Data) -> list[str]:
    counts = _counts(data, "tokenizer")
    rates = counts.get("characters_per_token", {})
    facts = [f"{integer(counts['vocab_size'])} ids"] if "vocab_size" in counts else []
    return facts + [f"{code} {decimal(rate)} characters a token" for code, rate in rates.items()]


def _synthesis(data: Data) -> list[str]:
    counts = _counts(data, "synthesis")
    names = {"sft_samples": "samples for SFT", "preference_pairs": "preference pairs",
             "held_out_problems": "held-out problems"}  # fmt: skip
    return [f"{integer(counts[key])} {name}" for key, name in names.items() if key in counts]


def _pretrain(data: Data) -> list[str]:
    parts = [part for part in (data["training"] or {"segments": []})["segments"] if part["stage"] == "pretrain"]
    return [
        f"{quantity(part['end'] - part['start'])} tokens, {integer(part['steps'])} steps at {integer(part['length'])}"
        for part in parts
    ]


def _extend(data: Data) -> list[str]:
    parts = [part for part in (data["training"] or {"segments": []})["segments"] if part["stage"] == "extend"]
    return [f"{integer(part['length'])}: {quantity(part['end'] - part['start'])} tokens" for part in parts]


def _sft(data: Data) -> list[str]:
    epochs = ((data["recipe"] or {}).get("sft") or {}).get("epochs")
    return _steps(data["sft"]) + ([f"{epochs} epochs"] if epochs else [])


def _dpo(data: Data) -> list[str]:
    online = ((data["recipe"] or {}).get("dpo") or {}).get("online_share")
    return _steps(data["dpo"]) + ([f"{online:.0%} of pairs online"] if online is not None else [])


def _steps(stage: Data | None) -> list[str]:
    return [f"{quantity(stage['tokens'])} tokens, {integer(stage['steps'])} steps"] if stage else []


def _evaluation(data: Data) -> list[str]:
    stages = (data["evaluation"] or {"stages": {}})["stages"]
    facts = [f"{len(stages)} checkpoints"]
    first = next((result["tasks"] for result in stages.values() if result["tasks"]), None)
    return facts + ([f"{integer(first['all']['count'])} problems each"] if first else [])


_FACTS = {
    "corpus": _corpus,
    "tokenizer": _tokenizer,
    "synthesis": _synthesis,
    "pretrain": _pretrain,
    "extend": _extend,
    "sft": _sft,
    "dpo": _dpo,
    "evaluation": _evaluation,
}

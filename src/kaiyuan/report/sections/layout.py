"""What all sections share."""

from __future__ import annotations

from typing import Any

from kaiyuan.report.html import Content, Markup, tag

Data = dict[str, Any]

TITLES = {
    "corpus": "Corpus",
    "tokenizer": "Tokenizer",
    "synthesis": "Synthesis",
    "pretrain": "Pre-training",
    "extend": "Long context",
    "sft": "SFT",
    "dpo": "DPO",
    "evaluation": "Evaluation",
}
_COMMANDS = {"synthesis": "synthesize", "evaluation": "evaluate"}
LANGUAGES = {"en": "English", "zh": "Chinese", "code": "Code"}


def language(code: str) -> str:
    return LANGUAGES.get(code, code)


def section(name: str, title: str, lead: Content, *children: Content) -> Markup:
    """A part of the page under its own heading, with an anchor."""
    return tag("section", tag("h2", title), tag("p", lead, class_="lead") if lead else None, *children, id=name)


def absent(data: Data, name: str, title: str, stage: str) -> Markup:
    """A section that has nothing to show, because ``stage`` has not been done or is not asked for."""
    status = data["stages"][stage]
    if status == "left out":
        text = tag("p", "Not in this run: the recipe has no ", tag("code", f"[{stage}]"), " section.")
    elif status == "done":
        text = tag("p", f"{TITLES[stage]} left nothing to show here.")
    else:
        command = tag("code", f"kaiyuan {_COMMANDS.get(stage, stage)}")
        text = tag("p", "Not in this run yet: ", command, " fills this part.")
    return tag("section", tag("h2", title), tag("div", text, class_="absent"), id=name)


def active_experts(config: Data) -> str:
    """``1 shared and 16 specialised experts, top-1``"""
    shared, experts, top_k = (_one(config[name]) for name in ("num_shared_experts", "num_experts", "top_k"))
    return f"{shared} shared and {experts} specialised experts, top-{top_k} routing"


def _one(value: int | list[int]) -> str:
    """A setting that may differ between layers."""
    if not isinstance(value, list):
        return str(value)
    return str(value[0]) if len(set(value)) == 1 else f"{min(value)} to {max(value)}"

"""The page: sections in order, with style and script inside, so that the file works alone and offline."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from kaiyuan.report.html import Markup, tag
from kaiyuan.report.sections.answers import answers
from kaiyuan.report.sections.experts import experts
from kaiyuan.report.sections.flow import flow
from kaiyuan.report.sections.headline import headline
from kaiyuan.report.sections.layout import Data
from kaiyuan.report.sections.memory import memory
from kaiyuan.report.sections.needle import needle
from kaiyuan.report.sections.preferences import preferences
from kaiyuan.report.sections.settings import settings
from kaiyuan.report.sections.stages import stages
from kaiyuan.report.sections.text import text
from kaiyuan.report.sections.training import training

_CONTENTS = {
    "flow": "The way", "training": "Training", "experts": "Experts", "memory": "KV cache", "needle": "Needle",
    "stages": "Before and after", "alignment": "SFT and DPO", "answers": "Answers", "text": "Corpus",
    "recipe": "Recipe",
}  # fmt: skip


def page(data: Data) -> Markup:
    """The whole report as one HTML document."""
    sections = (flow, training, experts, memory, needle, stages, preferences, answers, text, settings)
    contents = tag("nav", *(tag("a", name, href=f"#{key}") for key, name in _CONTENTS.items()), aria_label="Contents")
    main = tag("main", *(part(data) for part in sections))
    return shell(f"{data['name']} · kaiyuan run report", headline(data), contents, main)


def shell(title: str, *parts: Markup | None) -> Markup:
    """One HTML document with style and script inside."""
    script = _asset("report.js")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(script)),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", _asset("report.css")),
    )
    body = tag("body", *parts, tag("script", script))
    return Markup("<!doctype html>\n" + tag("html", head, body, lang="en") + "\n")


def _asset(name: str) -> Markup:
    return Markup(files("kaiyuan.report").joinpath("assets", name).read_text(encoding="utf-8"))


def _policy(script: str) -> str:
    """Nothing is loaded from anywhere and no script runs but our own, whatever a model has written into the page."""
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"

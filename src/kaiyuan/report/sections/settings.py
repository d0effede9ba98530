"""The recipe with every default filled in, and what it ran with."""

from __future__ import annotations

import json
from typing import Any

from kaiyuan.report.html import Markup, details, table, tag
from kaiyuan.report.sections.layout import Data, section


def settings(data: Data) -> Markup:
    recipe, versions, model = data["recipe"], data["versions"], data["model"]
    parts = []
    if versions:
        parts.append(table(["Part", "version"], sorted(versions.items()), "Versions", "figures left"))
    if model:
        parts.append(details("The model's config", _values(model["config"])))
    for name, values in sorted((recipe or {}).items(), key=lambda item: item[0] != "run"):
        if isinstance(values, dict):
            parts.append(details(tag("code", f"[{name}]"), _values(values)))
    lead = "Everything that decides the result, defaults included; the same recipe and versions give the same numbers."
    if recipe is None:
        lead = "The run folder has no recipe.json."
    return section("recipe", "Recipe and versions", lead, tag("div", *parts, class_="settings"))


def _values(values: dict[str, Any]) -> Markup:
    rows = [[tag("code", key), tag("code", json.dumps(value, ensure_ascii=False))] for key, value in values.items()]
    return table(["Setting", "value"], rows, class_="figures left")

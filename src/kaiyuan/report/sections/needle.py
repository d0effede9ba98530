"""Needle in a haystack: accuracy by length and depth, for every stage that was tested."""

from __future__ import annotations

from kaiyuan.report.heat_map import level, scale_key
from kaiyuan.report.html import Markup, tag
from kaiyuan.report.numbers import integer, percent
from kaiyuan.report.sections.layout import TITLES, Data, absent, section


def needle(data: Data) -> Markup:
    stages = (data["evaluation"] or {"stages": {}})["stages"]
    tested = {name: result["needle"] for name, result in stages.items() if result["needle"]}
    if not tested:
        return absent(data, "needle", "Needle in a haystack", "evaluation")
    lead = (
        "One sentence with a number is planted in held-out text and asked for at the end. Share of answers with that "
        "number and no other, by length of the prompt in tokens and by depth of the sentence."
    )
    maps = [_map(TITLES[name], found) for name, found in tested.items()]
    return section("needle", "Needle in a haystack", lead, scale_key("0%", "50%", "100%"),
                   tag("div", *maps, class_="charts needles"))  # fmt: skip


def _map(title: str, found: Data) -> Markup:
    head = tag("tr", tag("th", "depth", scope="col"), *(tag("th", integer(n), scope="col") for n in found["lengths"]))
    rows = [
        tag("tr", tag("th", percent(depth), scope="row"), *(_cell(row[index]) for row in found["accuracy"]))
        for index, depth in enumerate(found["depths"])
    ]
    samples = found.get("samples")
    caption = f"{title}: {found['count']} questions" + (f", {samples} a cell" if samples else "")
    grid = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *rows), class_="needle")
    return tag("div", grid, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _cell(accuracy: float | None) -> Markup:
    if accuracy is None:
        return tag("td", "·", class_="none", title="longer than the model's context")
    return tag("td", f"{100 * accuracy:.0f}", class_=f"n{level(accuracy, 1.0)}")

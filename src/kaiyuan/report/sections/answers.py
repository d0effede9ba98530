"""A dozen held-out problems with what the model said after every stage, and free prompts."""

from __future__ import annotations

from kaiyuan.report.html import Markup, tag
from kaiyuan.report.sections.layout import TITLES, Data, absent, section


def answers(data: Data) -> Markup:
    evaluation = data["evaluation"]
    if not evaluation or not evaluation["stages"]:
        return absent(data, "answers", "Answers", "evaluation")
    cards = [_card(row) for row in evaluation["answers"]]
    lead = "The first held-out problem of each kind, languages in turn; none is picked by how it was answered."
    free = _free(evaluation["stages"])
    return section("answers", "Answers", lead, tag("div", *cards, class_="cards"), free)


def _card(row: Data) -> Markup:
    said = [
        tag("tr", tag("th", TITLES[stage], scope="row"), tag("td", _mark(given["correct"])),
            tag("td", _said(given["answer"])))
        for stage, given in row["answers"].items()
    ]  # fmt: skip
    expected = tag("b", row["expected"], lang=row["language"])
    return tag(
        "article",
        tag("p", row["prompt"], class_="prompt", lang=row["language"]),
        tag("p", tag("span", row["kind"]), " expected ", expected, class_="note"),
        tag("table", tag("tbody", *said)),
        class_="card",
    )


def _mark(correct: bool) -> Markup:
    if correct:
        return tag("span", "✓", class_="right", role="img", aria_label="right")
    return tag("span", "✗", class_="wrong", role="img", aria_label="wrong")


def _said(text: str) -> Markup:
    return tag("span", text, class_="said") if text else tag("span", "(nothing)", class_="note")


def _free(stages: Data) -> Markup | None:
    prompts = list(dict.fromkeys(row["prompt"] for result in stages.values() for row in result["samples"]))
    if not prompts:
        return None
    cards = []
    for prompt in prompts:
        said = [
            tag("tr", tag("th", TITLES[stage], scope="row"), tag("td", _said(row["answer"])))
            for stage, result in stages.items()
            for row in result["samples"]
            if row["prompt"] == prompt
        ]
        asked = tag("p", prompt, class_="prompt")
        cards.append(tag("article", asked, tag("table", tag("tbody", *said)), class_="card"))
    return tag("div", tag("h3", "Free prompts"), tag("div", *cards, class_="cards"))

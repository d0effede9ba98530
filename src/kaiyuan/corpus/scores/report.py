"""What a scorer is worth, as a page and in the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from kaiyuan.report.html import Markup, table, tag
from kaiyuan.report.line_chart import Series, line_chart
from kaiyuan.report.numbers import MISSING, decimal, integer, percent
from kaiyuan.report.page import shell
from kaiyuan.report.sections.layout import language, section

Data = dict[str, Any]
_TITLES = {
    "quality": "Writing quality", "educational": "Educational value", "toxicity": "Toxicity", "category": "Category",
}  # fmt: skip


def scorer_page(report: Data) -> Markup:
    """The report of ``LinearScorer.report`` as one HTML document."""
    counts = report["documents"]
    about = (
        f"Labels: {report.get('labels', 'not stated')}. {integer(counts['fit'])} documents to fit, "
        f"{integer(counts['calibrate'])} to calibrate, {integer(counts['measure'])} to measure; every number here is "
        "of the last ones, which the model has not seen."
    )
    head = tag(
        "header",
        tag("p", "kaiyuan 开元 · scorer", class_="brand"),
        tag("h1", "Scores of documents"),
        tag("p", about, class_="summary"),
    )
    sections = [_dimension(name, data) for name, data in report["dimensions"].items()]
    return shell("Scorer · kaiyuan", head, tag("main", *sections))


def _dimension(name: str, data: Data) -> Markup:
    choice = name == "category"
    rows = list(_choice_rows(data) if choice else _yes_rows(data))
    head = _CHOICE_HEAD if choice else _YES_HEAD
    tables = [table(head, rows, "By language", "figures")]
    if choice:
        topics = [
            [topic, integer(row["positive"]), percent(row["precision"]), percent(row["recall"])]
            for topic, row in data["topics"].items()
        ]
        tables.append(table(["Topic", "documents", "precision", "recall"], topics, "By topic", "figures"))
    chart = tag("div", _curve(data), class_="charts one")
    return section(name, _TITLES[name], _lead(data), chart, tag("div", *tables, class_="tables"))


def _lead(data: Data) -> str:
    before = f" ({data['ece_before']:.3f} before calibration)" if "ece_before" in data else ""
    return (
        f"{integer(data['labels'])} labels. Expected calibration error {data['ece']:.3f}{before}: how far a "
        "probability is from the share that proves right, on average."
    )


def _curve(data: Data) -> Markup | None:
    def line(name: str, rows: list[dict[str, float]], color: str, kind: str = "line") -> Series:
        return Series(name, [row["probability"] for row in rows], [row["share"] for row in rows], color, kind)

    series = [Series("perfect", [0, 1], [0, 1], "c4", "dashed"), line("calibrated", data["reliability"], "c1")]
    if "reliability_before" in data:
        series.append(line("before", data["reliability_before"], "c2"))
    return line_chart(
        "Reliability", series, unit="share that proves right", x_label="probability", y_text=percent, x_text=percent,
        zero=True, top=1.0,
    )  # fmt: skip


_YES_HEAD = ["Language", "documents", "yes", "precision", "recall", "AUC"]
_CHOICE_HEAD = ["Language", "documents", "topics right", "domains right"]


def _yes_rows(data: Data) -> Iterator[list[str]]:
    for name, row in data["languages"].items():
        yield [language(name), integer(row["documents"]), integer(row["positive"]), percent(row["precision"]),
               percent(row["recall"]), decimal(row["auc"], 3)]  # fmt: skip


def _choice_rows(data: Data) -> Iterator[list[str]]:
    for name, row in data["languages"].items():
        yield [language(name), integer(row["documents"]), percent(row["topic"]), percent(row["domain"])]


def show(report: Data, console: Console) -> None:
    """The same tables in the terminal."""
    for name, data in report["dimensions"].items():
        choice = name == "category"
        found = Table(title=f"{_TITLES[name]}: ECE {data['ece']:.3f}", title_justify="left")
        for number, column in enumerate(_CHOICE_HEAD if choice else _YES_HEAD):
            found.add_column(column, justify="right" if number else "left")
        for row in _choice_rows(data) if choice else _yes_rows(data):
            found.add_row(*row)
        console.print(found)
        curve = "  ".join(f"{percent(row['probability'])}→{percent(row['share'])}" for row in data["reliability"])
        console.print(f"said → true: {curve or MISSING}\n", style="dim")

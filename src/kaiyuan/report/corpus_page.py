"""The report of a corpus: what it is made of, what was taken out and why, how it scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from kaiyuan.report.corpus_mixture import mixture_part
from kaiyuan.report.html import Content, Markup, details, join, table, tag
from kaiyuan.report.line_chart import Series, line_chart
from kaiyuan.report.numbers import byte_count, integer, percent, quantity
from kaiyuan.report.page import shell
from kaiyuan.report.sections.layout import language, section

Data = dict[str, Any]
_TITLES = {"quality": "Writing quality", "educational": "Educational value", "toxicity": "Toxicity"}
_CONTENTS = {"composition": "Composition", "removed": "Removed", "lengths": "Lengths", "scores": "Scores"}
_WAYS = (("source", "Source"), ("language", "Language"), ("label", "Label"), ("category", "Category"))


def corpus_page(
    name: str,
    report: Data,
    survey: Data,
    tokens: Data | None = None,
    folder: str = "",
    phases: list[Data] | None = None,
    sequence_length: int = 0,
) -> Markup:
    """``report`` and ``survey`` of the corpus stage; ``folder`` is the way from the page to the stage's folder.

    Of later stages, where they are done: ``tokens`` by label, and the ``phases`` of the mixture that was trained on.
    """
    head = tag(
        "header",
        tag("p", "kaiyuan 开元 · corpus report", class_="brand"),
        tag("h1", name),
        tag("p", _sentence(report, survey), class_="summary"),
        tag("div", *_tiles(report, survey, tokens), class_="tiles"),
    )
    parts = [_composition(report, survey, tokens), _removed(report, survey), _lengths(survey),
             _scores(report, survey, folder)]  # fmt: skip
    titles = dict(_CONTENTS)
    if phases:
        natural = {row["label"] for row in survey["groups"] if row["origin"] == "natural"}
        synthetic = {row["label"] for row in survey["groups"]} - natural
        parts.append(mixture_part(phases, sequence_length, tokens or {}, synthetic))
        titles["mixture"] = "Mixture"
    contents = tag("nav", *(tag("a", title, href=f"#{key}") for key, title in titles.items()), aria_label="Contents")
    return shell(f"{name} · kaiyuan corpus report", head, contents, tag("main", *parts))


def _sentence(report: Data, survey: Data) -> str:
    sources = {row["source"] for row in survey["groups"] if row["split"] != "generated"}
    counts = report["documents"]
    return (
        f"{integer(counts['read'])} documents from {len(sources)} sources were read; {integer(counts['train'])} are "
        f"left to train on and {integer(counts['heldout'])} are held out to measure with."
    )


def _tiles(report: Data, survey: Data, tokens: Data | None) -> Iterator[Markup]:
    counts, kept = report["documents"], _sum(survey, "train") + _sum(survey, "heldout")
    gone = counts["read"] - counts["train"] - counts["heldout"]
    twins = sum(row for kind, row in report["rejected"].items() if "duplicate" in kind)
    yield _tile("Text kept", byte_count(kept), f"{percent(kept / max(report['bytes']['read'], 1), 1)} of what was read")
    yield _tile("Removed", integer(gone), f"documents, {percent(gone / max(counts['read'], 1), 1)} of all")
    yield _tile("Duplicates", integer(twins), "documents, exact and near")
    total = sum(row["tokens"] for row in (tokens or {}).values())
    synthetic = _count(survey, "synthetic")[1]
    if total:
        yield _tile("Tokens", quantity(total), "to train on")
    else:
        yield _tile("Synthetic", byte_count(synthetic), "generated text to train on")


def _tile(label: str, value: str, note: str) -> Markup:
    parts = (tag("div", label, class_="tile-label"), tag("div", value, class_="tile-value"))
    return tag("div", *parts, tag("div", note, class_="tile-note"), class_="tile")


def _sum(survey: Data, split: str) -> int:
    return sum(row["bytes"] for row in survey["groups"] if row["split"] == split)


def _composition(report: Data, survey: Data, tokens: Data | None) -> Markup:
    tables = [_by(survey, key, title) for key, title in _WAYS]
    counts = {origin: _count(survey, origin) for origin in ("natural", "synthetic")}
    rows = [[origin, *_cells(count, survey)] for origin, count in counts.items() if count[0]]
    tables.append(table(_columns("Origin"), rows, "By origin", "figures"))
    if tokens:
        total = sum(row["tokens"] for row in tokens.values())
        rows = [[label, quantity(row["tokens"]), _bar(row["tokens"] / max(total, 1))] for label, row in tokens.items()]
        tables.append(table(["Label", "tokens", "share"], rows, "Tokens", "figures"))
    lead = (
        "Text to train on, generated text included; shares are of its bytes. What could not be read is in dead.jsonl "
        "of the stage, record by record."
    )
    shown = [found for found in tables if found]
    return section("composition", "Composition", lead, tag("div", *shown, class_="tables"), _as_read(report))


def _as_read(report: Data) -> Markup | None:
    """What became of the records of each source that the recipe names."""
    rows = []
    for name, counts in report.get("sources", {}).items():
        why = ", ".join(f"{kind} {integer(count)}" for kind, count in counts.get("kinds", {}).items())
        numbers = [integer(counts[key]) for key in ("documents", "dead", "skipped")]
        rows.append([name, *numbers, byte_count(counts["bytes"]), tag("span", why, class_="why")])
    head = ["Source", "documents", "damaged", "left out", "size", tag("span", "why", class_="why")]
    return table(head, rows, "As it was read", "figures") if rows else None


def _columns(first: str) -> list[str]:
    return [first, "documents", "size", "share"]


def _by(survey: Data, key: str, title: str) -> Markup | None:
    documents: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for row in survey["groups"]:
        if row["split"] != "heldout":
            value = row[key] or ("not scored" if row["split"] == "generated" else "")
            documents[value] += row["documents"]
            sizes[value] += row["bytes"]
    if not set(documents) - {"", "not scored"}:
        return None
    name = language if key == "language" else str
    rows = [[name(value), *_cells((documents[value], sizes[value]), survey)] for value, _ in sizes.most_common(24)]
    return table(_columns(title), rows, f"By {key}", "figures")


def _count(survey: Data, origin: str) -> tuple[int, int]:
    """Documents to train on, and their bytes."""
    rows = [row for row in survey["groups"] if row["split"] != "heldout" and row["origin"] == origin]
    return sum(row["documents"] for row in rows), sum(row["bytes"] for row in rows)


def _cells(counts: tuple[int, int], survey: Data) -> list[str | Markup]:
    whole = _sum(survey, "train") + _sum(survey, "generated")
    return [integer(counts[0]), byte_count(counts[1]), _bar(counts[1] / max(whole, 1))]


def _bar(share: float) -> Markup:
    text = percent(share, 1 if share < 0.1 else 0)
    return tag("span", tag("span", text), tag("i", style=f"width:{60 * share:.1f}px"), class_="bar")


def _removed(report: Data, survey: Data) -> Markup:
    filters = report.get("filters", {})
    if not filters:
        return section("removed", "Removed", "Nothing was removed.")
    names = sorted({name for rows in filters.values() for name in rows})
    read = max(report["documents"]["read"], 1)
    rows = []
    for kind, counted in filters.items():
        gone = sum(row["documents"] for row in counted.values())
        each = [integer(counted[name]["documents"]) if name in counted else "" for name in names]
        rows.append([kind, integer(gone), percent(gone / read, 1), *each])
    head = ["Filter", "documents", "of all", *map(language, names)]
    examples = [_examples(kind, survey["rejected"].get(kind, [])) for kind in filters]
    taken = [
        table(["Kind", "times"], [[kind, integer(count)] for kind, count in report[key].items()], title, "figures")
        for key, title in (("furniture", "Lines taken out"), ("pii", "Personal data replaced"))
        if report.get(key)
    ]
    lead = "Documents by the filter that stopped them, with the beginning of some of them."
    return section("removed", "Removed", lead, table(head, rows, "By filter", "figures"),
                   tag("div", *(found for found in examples if found), class_="examples"),
                   tag("div", *taken, class_="tables") if taken else None)  # fmt: skip


def _examples(kind: str, rows: list[dict[str, str]]) -> Markup | None:
    if not rows:
        return None
    shown = []
    for row in rows:
        where = " · ".join(filter(None, (row["detail"], language(row["language"]), row["source"], row["place"])))
        shown.append(tag("blockquote", tag("p", row["sample"]), tag("footer", where)))
    return details(f"Examples: {kind}", *shown)


def _lengths(survey: Data) -> Markup:
    series = []
    lowest = min((int(bits) for counts in survey["lengths"].values() for bits in counts), default=0)
    for number, (name, counts) in enumerate(sorted(survey["lengths"].items())[:6], 1):
        total, bins = sum(counts.values()), range(min(map(int, counts)), max(map(int, counts)) + 1)
        shares = [counts.get(str(bits), 0) / total for bits in bins]
        series.append(Series(language(name), [bits + 0.5 - lowest for bits in bins], shares, f"c{number}"))
    chart = line_chart("Length of documents", series, unit="share of a language's documents", x_label="characters",
                       x_text=lambda steps: quantity(2 ** (steps + lowest)), y_text=percent, zero=True)  # fmt: skip
    return section(
        "lengths", "Lengths", "Documents by length, in steps of doubling.", tag("div", chart, class_="charts one")
    )


def _scores(report: Data, survey: Data, folder: str) -> Markup:
    charts = [_score(_TITLES[name], found) for name, found in survey["scores"].items()]
    if not charts:
        missing = tag("span", "No scorer was used: name one in ", tag("code", "corpus.scorers"), ".")
        return section("scores", "Scores", missing)
    lead: Content = (
        "Probability that a judge would say yes, as the scorer has learnt it; docs/scores.md says from what."
    )
    if trained := report.get("scorer"):
        page = tag("a", "scorer report", href=f"{folder}scorer/report.html")
        lead = join((lead, f" Labels: {trained['labels']}. How well it does on text that it has not seen: ", page, "."))
    return section("scores", "Scores", lead, tag("div", *charts, class_="charts"))


def _score(title: str, found: dict[str, list[int]]) -> Markup | None:
    series = [
        Series(language(name), [(place + 0.5) / len(bins) for place in range(len(bins))],
               [count / max(1, sum(bins)) for count in bins], f"c{number}")
        for number, (name, bins) in enumerate(sorted(found.items())[:6], 1)
    ]  # fmt: skip
    return line_chart(
        title, series, unit="share of documents", x_label="score", x_text=percent, y_text=percent, zero=True
    )

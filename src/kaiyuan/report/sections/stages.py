"""Before and after every stage: held-out text and problems, with intervals."""

from __future__ import annotations

from kaiyuan.report.html import Markup, table, tag
from kaiyuan.report.numbers import MISSING, byte_count, decimal, interval, percent
from kaiyuan.report.sections.layout import TITLES, Data, absent, language, section

_WIDTH = 100


def stages(data: Data) -> Markup:
    evaluation = data["evaluation"]
    if not evaluation or not evaluation["stages"]:
        return absent(data, "stages", "Before and after every stage", "evaluation")
    results = evaluation["stages"]
    lead = (
        "Accuracy on problems that were kept out of all training, greedy, with 95% Wilson intervals (dot and line, "
        f"from 0 to 100%). {_forms(results)}"
    )
    return section("stages", "Before and after every stage", lead, _text_table(evaluation), _task_table(results))


def _forms(results: Data) -> str:
    plain = [TITLES[name] for name, result in results.items() if result["form"] == "plain"]
    names = ", ".join(plain)
    return f"Base models ({names}) are asked in plain text, the others by the chat template." if plain else ""


def _text_table(evaluation: Data) -> Markup:
    results, compression = evaluation["stages"], evaluation["compression"]
    codes = sorted({code for result in results.values() for code in result["bits_per_byte"]}, key=_language_order)
    rows = []
    for code in codes:
        rates = [result["bits_per_byte"].get(code) for result in results.values()]
        size = next(row["bytes"] for row in rates if row)
        xz = compression.get(code, {}).get("xz_bits_per_byte")
        rows.append([language(code), byte_count(size), decimal(xz, 3), *(_rate(row, xz) for row in rates)])
    head = ["Bits per byte", "held out", "xz -9e", *(TITLES[name] for name in results)]
    return table(head, rows, "Held-out text: bits per byte, less is better", "figures stages")


def _language_order(code: str) -> tuple[int, str]:
    known = ["en", "zh", "code"]
    return (known.index(code) if code in known else len(known), code)


def _rate(row: Data | None, xz: float | None) -> Markup | str:
    if row is None:
        return MISSING
    rate = row["bits_per_byte"]
    beside = tag("small", f"{rate / xz - 1:+.0%}".replace("-", "−")) if xz else None
    return tag("span", decimal(rate, 3), beside, class_="with-small")


def _task_table(results: Data) -> Markup | None:
    tasks = {name: result["tasks"] for name, result in results.items()}
    if not any(tasks.values()):
        return None
    rows = [[tag("b", "All problems"), *_cells([found and found["all"] for found in tasks.values()])]]
    groups = []
    for group, name_of in (("by_language", language), ("by_kind", str)):
        groups.append(len(rows))
        names = sorted({name for found in tasks.values() if found for name in found[group]})
        rows += [
            [name_of(name), *_cells([found and found[group].get(name) for found in tasks.values()])] for name in names
        ]
    head = ["Problems", "count", *(TITLES[name] for name in tasks)]
    return table(head, rows, "Held-out problems: accuracy in percent", "figures stages tasks", groups)


def _cells(found: list[Data | None]) -> list[Markup | str]:
    """How many problems, then the accuracy of every stage."""
    count = next((row["count"] for row in found if row), 0)
    return [str(count), *(_accuracy(row) for row in found)]


def _accuracy(row: Data | None) -> Markup | str:
    if row is None or not row["count"]:
        return MISSING
    low, high, share = (_WIDTH * row[name] for name in ("low", "high", "accuracy"))
    bounds = interval(row["low"], row["high"])
    whisker = tag(
        "svg",
        tag("path", d=f"M0 5H{_WIDTH}", class_="rail"),
        tag("path", d=f"M{low:.1f} 5H{high:.1f}", class_="whisker"),
        tag("path", d=f"M{share:.1f} 5h0", class_="dot"),
        viewBox=f"0 0 {_WIDTH} 10", preserveAspectRatio="none", aria_hidden="true",
    )  # fmt: skip
    number = tag("span", percent(row["accuracy"]).rstrip("%"), tag("small", bounds), class_="with-small")
    return tag("span", whisker, number, class_="forest", title=f"{percent(row['accuracy'], 1)}, 95% interval {bounds}%")

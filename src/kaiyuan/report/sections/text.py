"""Corpus and tokenizer: where the text is from, what was refused and why, how well it is cut into tokens."""

from __future__ import annotations

from kaiyuan.report.html import Content, Markup, join, table, tag
from kaiyuan.report.numbers import byte_count, decimal, integer, percent, quantity
from kaiyuan.report.sections.layout import Data, absent, language, section

_PASSED = {
    "read": "read", "after language": "after language", "after quality": "after quality",
    "after decontamination": "after decontamination", "after deduplication": "after deduplication",
    "train": "to train on", "heldout": "held out",
}  # fmt: skip


def text(data: Data) -> Markup:
    corpus, tokenizer = data["counts"]["corpus"], data["counts"]["tokenizer"]
    if corpus is None and tokenizer is None:
        return absent(data, "text", "Corpus and tokenizer", "corpus")
    tables = [_sources(data), *_corpus_tables(corpus or {}), *_tokenizer_tables(tokenizer or {})]
    shown = [found for found in tables if found]
    lead: Content = (
        "Every source with its licence; what the pipeline refused; characters a token holds on held-out text."
    )
    if "filters" in (corpus or {}):
        lead = join((lead, " More of it, with examples: ", tag("a", "corpus report", href="corpus.html"), "."))
    return section("text", "Corpus and tokenizer", lead, tag("div", *shown, class_="tables"))


def _sources(data: Data) -> Markup | None:
    rows = [
        [row["name"], row["licence"] or "not stated", _stated(row.get("language") or "und"),
         integer(row.get("documents")), byte_count(row["bytes"]) if row.get("bytes") else "",
         tag("span", row["origin"], class_="origin")]
        for row in data["sources"]
    ]  # fmt: skip
    head = ["Source", "licence", "language", "documents", "size", "origin"]
    return tag("div", table(head, rows, "Sources", "wide"), class_="full") if rows else None


def _stated(code: str) -> str:
    return "detected" if code == "und" else language(code)


def _corpus_tables(corpus: Data) -> list[Markup | None]:
    documents = corpus.get("documents", {})
    passed = [
        [name, integer(documents[key]), percent(documents[key] / max(1, documents["read"]))]
        for key, name in _PASSED.items()
        if key in documents
    ]
    sizes = [
        [language(code), label, byte_count(size), byte_count(_size(corpus, "heldout", code, label))]
        for code, labels in sorted(corpus.get("bytes", {}).get("train", {}).items())
        for label, size in sorted(labels.items())
    ]
    rejected = _counted(corpus.get("rejected", {}))
    return [
        _or_none(["Documents", "left", "of all"], passed, "What the pipeline left"),
        _or_none(["Language", "label", "training", "held out"], sizes, "Text by language and label", "figures labels"),
        _or_none(["Reason", "documents"], rejected, "Refused"),
        _or_none(["Kind", "replaced"], _counted(corpus.get("pii", {})), "Personal data"),
        _or_none(["Label", "documents"], _counted(corpus.get("generated", {})), "Generated documents"),
    ]


def _size(corpus: Data, split: str, code: str, label: str) -> int:
    return corpus["bytes"].get(split, {}).get(code, {}).get(label, 0)


def _counted(counts: Data) -> list[list[str]]:
    return [[name, integer(count)] for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def _tokenizer_tables(tokenizer: Data) -> list[Markup | None]:
    rates = [[language(code), decimal(rate)] for code, rate in tokenizer.get("characters_per_token", {}).items()]
    shards = [
        [label, quantity(row["tokens"]), integer(row["documents"]), decimal(row["bytes"] / max(1, row["tokens"]))]
        for label, row in sorted(tokenizer.get("shards", {}).items())
    ]
    name = f"Tokenizer of {integer(tokenizer['vocab_size'])} ids" if "vocab_size" in tokenizer else "Tokenizer"
    return [
        _or_none(["Language", "characters a token"], rates, name),
        _or_none(["Label", "tokens", "documents", "bytes a token"], shards, "Tokens to train on"),
    ]


def _or_none(head: list[str], rows: list[list[str]], caption: str, class_: str = "figures") -> Markup | None:
    return table(head, rows, caption, class_) if rows else None

"""The corpus report in Chromium, as wide as a phone: the page does not scroll sideways, its wide tables do."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from kaiyuan.report.corpus_page import corpus_page

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

LABELS = [f"web-{language}-{domain}-best" for language in ("en", "zh") for domain in ("technology", "reference")]
REPORT = {
    "documents": {"read": 12_345_678, "train": 9_000_000, "heldout": 1000},
    "bytes": {"read": 10**12},
    "rejected": {"near-duplicate": 123_456},
    "filters": {
        "gopher_repetition.dup_line_char_frac": {key: {"documents": 123456, "bytes": 5} for key in ("en", "zh", "de")},
        "chinese_web_text.min_text_length": {"zh": {"documents": 1, "bytes": 5}},
    },
    "pii": {"email": 2_000_000},
    "furniture": {"menu": 70_000_000},
    "sources": {"crawl/2024/segments/**/*.warc.gz": {"documents": 5, "dead": 3, "skipped": 9, "bytes": 10**12,
                                                     "kinds": {"damaged record": 3, "unknown language": 9}}},
    "scorer": {"labels": "labels.jsonl", "dimensions": {}},
}  # fmt: skip
SURVEY = {
    "groups": [
        {"split": "train", "source": "common-crawl-of-2024-segment", "language": "zh", "label": label,
         "category": "technology/programming", "licence": "", "origin": "natural", "documents": 10**6, "bytes": 10**11}
        for label in LABELS
    ],
    "lengths": {"en": {"4": 3, "9": 4}, "zh": {"5": 3}},
    "scores": {"quality": {"en": [1] * 20, "zh": [2] * 20}},
    "rejected": {"chinese_web_text.min_text_length": [
        {"detail": "3", "source": "s", "place": "p" * 200, "language": "zh", "sample": "w" * 200}]},
}  # fmt: skip


def test_nothing_but_tables_scrolls_sideways(tmp_path: Path) -> None:
    phases = [{"from": 9 * n, "until": 9 * n + 9, "shares": dict.fromkeys(LABELS, 0.25)} for n in range(4)]
    page = tmp_path / "corpus.html"
    page.write_text(corpus_page("demo", REPORT, SURVEY, {"web": {"tokens": 10**9}}, "", phases, 4096), encoding="utf-8")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for width in (1280, 390):
            view = browser.new_page(viewport={"width": width, "height": 800})
            view.goto(page.as_uri())
            view.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
            assert view.evaluate("document.documentElement.scrollWidth") <= width
            outside = """() => [...document.querySelectorAll('main *')].filter(part => !part.closest('.scroll')
                && part.getBoundingClientRect().right > innerWidth + 1).map(part => part.outerHTML.slice(0, 80))"""
            assert view.evaluate(outside) == []
            # What names a row stays in sight.
            heads = "[...document.querySelectorAll('.scroll tbody th')].map(cell => getComputedStyle(cell).position)"
            assert width > 620 or set(view.evaluate(heads)) == {"sticky"}
        browser.close()

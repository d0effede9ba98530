from __future__ import annotations

from page_checks import read

from kaiyuan.report.corpus_mixture import mixture_part

PHASES = [
    {"from": 0, "until": 60, "shares": {"books": 0.75, "arithmetic": 0.25}},
    {"from": 60, "until": 100, "shares": {"books-best": 0.5, "arithmetic": 0.5}},
]


def test_tokens_epochs_and_shares_of_every_label() -> None:
    tokens = {
        "books": {"tokens": 1000},
        "books-best": {"tokens": 40},
        "arithmetic": {"tokens": 350},
        "web": {"tokens": 9},
    }
    page = read(mixture_part(PHASES, 10, tokens, {"arithmetic"}))
    rows = {row.children[0].text: [cell.text for cell in row.children[1:]] for row in page.all("tr")}
    assert list(rows) == ["Label", "books", "arithmetic", "books-best", "web"]
    assert rows["Label"][3:] == ["600 tokens", "400 tokens"]
    assert rows["books"] == ["natural", "450", "0.45", "75.0%", ""]
    assert rows["arithmetic"] == ["synthetic", "350", "1.00", "25.0%", "50.0%"]
    assert rows["books-best"] == ["natural", "200", "5.00", "", "50.0%"]
    assert rows["web"] == ["natural", "0", "0.00", "", ""]

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_checks import read

from kaiyuan.report.html import Markup, data_script, escape, join, table, tag

PRINTABLE = st.text(st.sampled_from("<>&\"'=/ \n") | st.characters(exclude_categories=["Cc", "Cf", "Cs"]))


@given(PRINTABLE, PRINTABLE)
def test_any_text_comes_back_as_it_was(inside: str, attribute: str) -> None:
    (element,) = read(tag("p", inside, title=attribute)).children
    assert (element.name, element.text, element.attributes["title"]) == ("p", inside, attribute)
    assert not element.children and len(element.attributes) == 1


@given(st.text())
def test_nothing_invisible_is_left(text: str) -> None:
    shown = escape(text)
    shown.encode("utf-8")
    hidden = {letter for letter in shown if unicodedata.category(letter) in ("Cc", "Cf")}
    assert hidden <= {"\n", "\t", "\u200c", "\u200d"}


def test_markup_is_not_escaped_again() -> None:
    inner = tag("b", "<")
    assert tag("p", inner, "&") == "<p><b>&lt;</b>&amp;</p>"
    assert join([inner, ">"]) == "<b>&lt;</b>&gt;"
    assert isinstance(inner, Markup)


def test_attributes() -> None:
    made = tag("a", class_="x", aria_label="y", hidden=True, open=False, title=None, tabindex=0)
    assert made == '<a class="x" aria-label="y" hidden tabindex="0"></a>'
    assert tag("br") == "<br>"


@given(st.recursive(st.text() | st.integers(-100, 100), lambda inner: st.lists(inner, max_size=3), max_leaves=6))
def test_data_cannot_leave_its_script(value: object) -> None:
    made = data_script([value, "</script><!--<script>"])
    assert "<" not in made.removeprefix('<script type="application/json">').removesuffix("</script>")
    (element,) = read(made).children
    assert json.loads(element.text)[0] == value


def test_numbers_that_json_does_not_know_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        data_script([float("nan")])


def test_a_table_names_its_rows_and_columns() -> None:
    page = read(table(["kind", "share"], [["<a>", 1], ["b", 2]], "Shares", groups=[1]))
    assert [cell.text for cell in page.all("th")] == ["kind", "share", "<a>", "b"]
    assert [cell.attributes["scope"] for cell in page.all("th")] == ["col", "col", "row", "row"]
    assert [cell.text for cell in page.all("td")] == ["1", "2"]
    assert [row.attributes.get("class") for row in page.all("tbody")[0].all("tr")] == [None, "group"]

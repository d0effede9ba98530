from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest
from fake_run import HOSTILE, make_run
from page_checks import Element, read

from kaiyuan.files import read_json, write_json
from kaiyuan.report import write_report
from kaiyuan.report.files import STAGES
from kaiyuan.report.sections.layout import TITLES


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "demo")


@pytest.fixture(scope="module")
def page(run: Path) -> Element:
    return read(write_report(run).read_text(encoding="utf-8"))


def everything(element: Element) -> list[Element]:
    return [element, *(found for child in element.children for found in everything(child))]


def check_safe(page: Element) -> None:
    """Nothing is loaded, linked to or run but the page's own parts."""
    for element in everything(page):
        assert element.name not in ("img", "image", "iframe", "object", "embed", "link", "base", "form", "video")
        for name, value in element.attributes.items():
            assert re.fullmatch(r"(?!on)[a-z-]+|[xy]\d?", name), f"<{element.name} {name}>"
            assert name not in ("src", "srcset", "data", "action", "poster", "background", "xlink:href")
            assert name != "href" or (value or "").startswith("#")
            assert name != "style" or "url" not in (value or "")
    (style,) = page.all("style")
    assert "url(" not in style.text and "@import" not in style.text
    scripts = [script for script in page.all("script") if script.attributes.get("type") != "application/json"]
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].text.encode("utf-8")).digest()).decode("ascii")
    policy = next(meta.attributes["content"] for meta in page.all("meta") if "http-equiv" in meta.attributes)
    assert policy is not None and policy.startswith("default-src 'none'")
    assert re.findall(r"script-src ([^;]*)", policy) == [f"'sha256-{digest}'"]


def test_the_page_is_whole_and_loads_nothing(page: Element) -> None:
    check_safe(page)
    assert [section.attributes["id"] for section in page.all("section")] == [
        "flow", "training", "experts", "memory", "needle", "stages", "alignment", "answers", "text", "recipe",
    ]  # fmt: skip
    links = [link.attributes["href"] for link in page.all("a")]
    ids = [element.attributes["id"] for element in everything(page) if "id" in element.attributes]
    assert links == [f"#{name}" for name in ids] and len(set(ids)) == len(ids)


def test_what_models_say_stays_text(page: Element) -> None:
    shown = HOSTILE.replace("\u202e", "\ufffd")
    assert any(span.text == shown for span in page.all("span", "said"))
    assert any(prompt.text.endswith(shown) for prompt in page.all("p", "prompt"))
    assert "alert" not in [script.text for script in page.all("script")][-1]


def test_names_and_settings_stay_text_too(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for name in ("recipe.json", "versions.json", "corpus/report.json", "tokenizer/report.json"):
        write_json(run / name, _poisoned(read_json(run / name)))
    results = read_json(run / "evaluation" / "results.json")
    stages = {name: {**_poisoned(result), "form": "chat"} for name, result in results["stages"].items()}
    write_json(run / "evaluation" / "results.json", {**results, "stages": stages})
    page = read(write_report(run).read_text(encoding="utf-8"))
    check_safe(page)
    assert "<script>" in page.all("h1")[0].text


def _poisoned(value: object) -> object:
    """``value`` with hostile text in every string that is not a key of the schema."""
    if isinstance(value, dict):
        free = {"by_kind", "rejected", "pii", "generated", "shards", "mixture", "characters_per_token"}
        return {
            key: {inner + HOSTILE: _poisoned(found) for inner, found in item.items()}
            if key in free and isinstance(item, dict)
            else _poisoned(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_poisoned(item) for item in value]
    return value + HOSTILE if isinstance(value, str) else value


def test_key_figures(page: Element) -> None:
    tiles = {tile.all("div", "tile-label")[0].text: tile for tile in page.all("div", "tile")}
    shown = {label: tile.all("div", "tile-value")[0].text for label, tile in tiles.items()}
    assert list(shown) == ["Parameters", "Tokens trained", "Bits per byte, English", "Bits per byte, Chinese",
                           "Accuracy after SFT", "Accuracy after DPO", "KV cache per token", "Wall time"]  # fmt: skip
    assert shown["Bits per byte, English"] == "2.27", "of the last base model, not of the chat models"
    assert "5% below xz -9e at 2.38" in tiles["Bits per byte, English"].text
    assert "25% of the 2 KiB that MHA takes" in tiles["KV cache per token"].text
    assert shown["Tokens trained"] == "3.33M" and shown["Wall time"] == "10m25s"
    assert "95% interval" in tiles["Accuracy after SFT"].text


def test_right_and_wrong_are_told_apart_without_colour(page: Element) -> None:
    marks = {(mark.text, mark.attributes["aria-label"]) for card in page.all("article") for mark in card.all("span")
             if "aria-label" in mark.attributes}  # fmt: skip
    assert marks == {("✓", "right"), ("✗", "wrong")}


def test_every_drawing_has_words_for_it(page: Element) -> None:
    for svg in page.all("svg"):
        if svg.attributes.get("aria-hidden") == "true":
            continue
        assert svg.attributes["role"] == "img"
        assert svg.attributes["aria-label"] == svg.all("title")[0].text
    figures = page.all("figure", "chart")
    heat = [figure for figure in figures if figure.all("div", "heat")]
    assert len(heat) == 4
    assert all(figure.all("details", "numbers") for figure in figures if figure not in heat)
    assert all(json.loads(figure.all("script")[0].text)["kind"] in ("lines", "heat") for figure in figures)


def test_the_same_run_gives_the_same_page(run: Path) -> None:
    pages = [write_report(run).read_bytes() for _ in range(2)]
    assert pages[0] == pages[1]


@pytest.mark.parametrize("stage", STAGES)
def test_a_missing_stage_is_named(tmp_path: Path, stage: str) -> None:
    run = make_run(tmp_path / "run", leave_out=(stage,), steps=30)
    page = read(write_report(run).read_text(encoding="utf-8"))
    check_safe(page)
    assert f"Missing from this run: {TITLES[stage]}." in page.text
    (box,) = [box for box in page.all("li", "step") if box.all("strong")[0].text == TITLES[stage]]
    assert "open" in (box.attributes["class"] or "") and box.all("span", "took")[0].text == "not run"


def test_an_empty_folder_has_a_report_too(tmp_path: Path) -> None:
    (tmp_path / "pretrain.partial").mkdir()
    page = read(write_report(tmp_path).read_text(encoding="utf-8"))
    check_safe(page)
    assert page.all("h1")[0].text == tmp_path.name
    took = [box.all("span", "took")[0].text for box in page.all("li", "step")]
    assert took == ["not run"] * 3 + ["not finished"] + ["not run"] * 4
    assert not page.all("figure")
    commands = {code.text for box in page.all("div", "absent") for code in box.all("code")}
    assert commands == {f"kaiyuan {name}" for name in ("pretrain", "evaluate", "sft", "corpus")}


def test_a_stage_that_the_recipe_leaves_out_is_not_missing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", leave_out=("sft", "dpo"), steps=30)
    write_json(run / "recipe.json", {**read_json(run / "recipe.json"), "sft": None, "dpo": None})
    page = read(write_report(run).read_text(encoding="utf-8"))
    assert "Missing from this run" not in page.text
    assert "the recipe has no [sft] section" in page.text and "kaiyuan sft" not in page.text
    assert "not in the recipe" in [box.all("span", "took")[0].text for box in page.all("li", "step")]

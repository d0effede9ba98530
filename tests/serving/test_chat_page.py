"""The chat page: asking, branches, what is kept, errors, the key, themes and small screens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_page import ANSWER, DONE, NEEDS_CHROMIUM, Visits, answers, ask, expect, questions, wait_until_saved
from stub_chat_server import Script, StubServer

pytest_plugins = ["chat_page_fixtures"]
pytestmark = NEEDS_CHROMIUM


def test_an_answer_streams_and_is_measured(page: Any, script: Script) -> None:
    script.answers, script.delay = ["one two three four five six seven eight"], 0.05
    ask(page, "Count", wait=False)
    seen = {page.locator(ANSWER).inner_text() for _ in range(20) if page.wait_for_timeout(25) is None}
    page.wait_for_selector(DONE)
    assert len(seen) > 3
    assert answers(page) == script.answers
    foot = page.locator(".message.assistant .foot").inner_text()
    assert "tokens/s" in foot
    assert "10 tokens" in foot
    assert "first token" in foot
    assert page.locator("#used").inner_text() == "11 of 1,000 tokens"
    sent = script.chats[0]
    assert sent["messages"] == [{"role": "user", "content": "Count"}]
    assert (sent["stream"], sent["stream_options"]) == (True, {"include_usage": True})


def test_stop_keeps_what_came(page: Any, script: Script) -> None:
    script.answers, script.delay = ["word " * 200], 0.03
    ask(page, "Go on", wait=False)
    expect(page.locator(ANSWER)).to_contain_text("word word")
    page.click("#send")
    page.wait_for_selector(DONE)
    text = answers(page)[0]
    page.wait_for_timeout(150)
    assert answers(page) == [text]
    assert len(text) < 900
    expect(page.locator(".message.assistant .note")).to_have_text("Stopped.")
    assert script.gone == 1
    ask(page, "And now?", wait=False)
    expect(page.locator(".message.assistant")).to_have_count(2)


def test_regenerate_makes_a_branch(page: Any, script: Script) -> None:
    script.answers = ["first", "second"]
    ask(page, "Say")
    page.click("button[title=Regenerate]")
    expect(page.locator(ANSWER)).to_have_text("second")
    page.wait_for_selector(DONE)
    expect(page.locator(".place")).to_have_text("2/2")
    page.click(".branch-left")
    expect(page.locator(ANSWER)).to_have_text("first")
    expect(page.locator(".branch-right")).to_be_focused()
    assert script.chats[0]["messages"] == script.chats[1]["messages"]


def test_editing_branches_and_the_branches_stay(page: Any, script: Script) -> None:
    script.answers = ["A", "B", "C"]
    ask(page, "one")
    ask(page, "two")
    page.locator(".message.user").first.hover()
    page.locator("button[title=Edit]").first.click()
    page.fill(".editor textarea", "uno")
    page.press(".editor textarea", "Enter")
    page.wait_for_selector(DONE)
    assert (questions(page), answers(page)) == (["uno"], ["C"])
    assert script.chats[2]["messages"] == [{"role": "user", "content": "uno"}]
    page.click(".branch-left")
    assert (questions(page), answers(page)) == (["one", "two"], ["A", "B"])
    wait_until_saved(page)
    page.reload()
    page.wait_for_selector(".message")
    assert (questions(page), answers(page)) == (["one", "two"], ["A", "B"])
    page.click(".branch-right")
    assert (questions(page), answers(page)) == (["uno"], ["C"])


def test_conversations_stay_and_can_be_found_renamed_and_deleted(page: Any, script: Script) -> None:
    script.answers = ["about llamas", "about pandas"]
    ask(page, "First chat")
    page.click("#new-chat")
    ask(page, "Second chat")
    wait_until_saved(page)
    page.goto(page.url.split("#")[0])
    expect(page.locator(".entry")).to_have_text(["Second chat", "First chat"])
    page.fill("#search", "LLAMAS")
    expect(page.locator(".entry")).to_have_text(["First chat"])
    page.click(".entry")
    assert answers(page) == ["about llamas"]
    page.click("button[title^=Rename]")
    page.locator("#conversations input").fill("Animals")
    page.press("#conversations input", "Enter")
    expect(page.locator("#title")).to_have_text("Animals")
    page.fill("#search", "")
    page.locator("li", has_text="Animals").hover()
    page.click("button[title='Delete: Animals']")
    expect(page.locator(".entry")).to_have_text(["Second chat"])
    page.click("#toast button")
    expect(page.locator(".entry")).to_have_text(["Second chat", "Animals"])


def test_an_answer_cut_by_a_reload_is_kept(page: Any, script: Script) -> None:
    script.answers, script.delay = ["word " * 300], 0.03
    ask(page, "Long", wait=False)
    page.wait_for_timeout(1500)
    page.reload()
    page.wait_for_selector(DONE)
    assert answers(page)[0].startswith("word word")
    expect(page.locator(".assistant .note")).to_contain_text("closed before the answer was complete")


def test_export_and_import(page: Any, visits: Visits, script: Script, tmp_path: Path) -> None:
    script.answers = ["**bold**"]
    ask(page, "Keep me")
    page.click("#open-settings")
    with page.expect_download() as waiting:
        page.click("#export-all")
    file = tmp_path / "chats.json"
    waiting.value.save_as(file)
    assert json.loads(file.read_text())["conversations"][0]["nodes"][1]["content"] == "**bold**"
    other = visits.open(locale="en-GB")
    other.click("#open-settings")
    other.set_input_files("#import-file", file)
    expect(other.locator(".entry")).to_have_text(["Keep me"])
    bad = tmp_path / "bad.json"
    bad.write_text(file.read_text().replace('"role": "user"', '"role": "robot"'))
    other.set_input_files("#import-file", bad)
    expect(other.locator("#toast")).to_contain_text("bad.json cannot be imported: conversation 1: nodes:")
    expect(other.locator(".entry")).to_have_count(1)


def test_enter_of_an_input_method_does_not_send(page: Any, script: Script) -> None:
    page.fill("#draft", "你好")
    press = """(area, more) => area.dispatchEvent(
        new KeyboardEvent('keydown', { key: 'Enter', bubbles: true, cancelable: true, ...more }))"""
    page.locator("#draft").evaluate(press, {"isComposing": True})
    page.locator("#draft").evaluate(press, {"keyCode": 229})
    page.press("#draft", "Shift+Enter")
    assert page.input_value("#draft") == "你好\n"
    assert script.chats == []
    page.press("#draft", "Enter")
    page.wait_for_selector(DONE)
    assert script.chats[0]["messages"][0]["content"] == "你好"


def test_typed_tokens_are_counted_once_typing_pauses(page: Any, script: Script) -> None:
    page.type("#draft", "one two three", delay=5)
    expect(page.locator("#typed")).to_have_text("+3")
    assert script.counted == [{"prompt": "one two three"}]
    page.fill("#draft", "")
    expect(page.locator("#typed")).to_have_text("")


def test_dark_mode_follows_the_system_and_the_toggle(visits: Visits) -> None:
    page = visits.open(color_scheme="dark")
    shade = "() => getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(shade)
    page.click("#theme")
    light = page.evaluate(shade)
    assert sum(map(int, light[4:-1].split(","))) > 700
    assert sum(map(int, dark[4:-1].split(","))) < 90
    page.reload()
    page.wait_for_selector("#theme")
    assert page.evaluate(shade) == light
    page.click("#theme")
    page.click("#theme")
    assert page.evaluate(shade) == dark


def test_both_languages(visits: Visits) -> None:
    page = visits.open(locale="zh-CN")
    expect(page.locator("#draft")).to_have_attribute("placeholder", "想问什么？")
    page.click("#language")
    expect(page.locator("#draft")).to_have_attribute("placeholder", "Ask anything")
    words = page.evaluate(
        "async () => { const { WORDS } = await import('./words.js'); return [WORDS.en, WORDS.zh].map(Object.keys) }"
    )
    assert words[0] == words[1]


FENCE = "```"
WIDE = f"""{"Long" * 60} https://example.com/{"x" * 200}

{FENCE}
{"code " * 60}
{FENCE}

$$ {" + ".join(f"a_{{{i}}}" for i in range(60))} $$

| {" | ".join(["column"] * 12)} |
|{"---|" * 12}
| {" | ".join(["value"] * 12)} |
"""


def test_a_phone_shows_everything_without_scrolling_sideways(visits: Visits, script: Script) -> None:
    script.answers = [WIDE]
    page = visits.open(viewport={"width": 360, "height": 640}, is_mobile=True, has_touch=True)
    page.fill("#draft", "w" * 300)
    page.press("#draft", "Enter")
    assert script.chats == []
    page.tap("#send")
    page.wait_for_selector(DONE)
    widest = """() => Math.max(document.body.scrollWidth,
        ...[document.documentElement, document.getElementById('scroller')].map((element) => element.scrollWidth))"""
    assert page.evaluate(widest) <= 360
    expect(page.locator("#sidebar")).not_to_be_in_viewport()
    page.tap("#menu")
    expect(page.locator(".entry")).to_be_in_viewport()
    page.keyboard.press("Escape")
    expect(page.locator("#sidebar")).to_be_hidden()
    page.tap("#open-settings")
    expect(page.locator("#set-temperature")).to_be_in_viewport()
    assert page.evaluate(widest) <= 360


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(visits: Visits, script: Script) -> None:
    script.key, script.answers = "sesame-sesame-sesame", ["let in"]
    page = visits.open()
    page.fill("#key", "wrong")
    page.press("#key", "Enter")
    expect(page.locator("#key-problem")).to_have_text("The server did not accept this key.")
    page.fill("#key", script.key)
    page.press("#key", "Enter")
    expect(page.locator("#key-dialog")).to_be_hidden()
    expect(page.locator("#banner")).to_be_hidden()
    ask(page, "Hi")
    assert answers(page) == ["let in"]
    assert script.key not in page.evaluate("JSON.stringify({ ...localStorage })")
    script.key = "changed-changed-changed"
    ask(page, "Again")
    expect(page.locator(".note.error")).to_contain_text("needs an API key")
    page.fill("#key", script.key)
    page.press("#key", "Enter")
    expect(page.locator(ANSWER)).to_have_count(2)
    expect(page.locator(ANSWER).last).to_have_text("let in")
    page.reload()
    page.wait_for_selector(DONE)
    expect(page.locator("#key-dialog")).to_be_hidden()


@pytest.mark.parametrize(
    ("status", "message", "code", "shown"),
    [
        (500, "the engine failed", "engine_failed", "The server reports an error: the engine failed"),
        (400, "temperature: too hot", "", "The server refused the request: temperature: too hot"),
        (400, "the prompt has 9 tokens", "context_length_exceeded", "too long for the model: the prompt has 9"),
        (429, "the queue is full", "queue_full", "The server is busy."),
    ],
)
def test_errors_are_told_and_can_be_retried(
    page: Any, script: Script, status: int, message: str, code: str, shown: str
) -> None:
    script.error, script.answers = (status, message, code), ["better"]
    ask(page, "Hi")
    expect(page.locator(".note.error")).to_contain_text(shown)
    script.error = None
    page.click(".note.error button")
    expect(page.locator(ANSWER)).to_have_text("better")
    assert page.locator(".place").count() == 0


@pytest.mark.parametrize(
    ("how", "shown"), [("break_after", "connection broke off"), ("error_after", "the engine failed")]
)
def test_a_stream_that_fails_keeps_its_text(page: Any, script: Script, how: str, shown: str) -> None:
    script.answers = ["some words that come"]
    setattr(script, how, 3)
    ask(page, "Hi")
    expect(page.locator(".note.error")).to_contain_text(shown)
    assert answers(page) == ["some words t"]


def test_a_server_that_goes_is_noticed_and_comes_back(page: Any, server: StubServer, script: Script) -> None:
    script.answers = ["back again"]
    server.stop()
    ask(page, "Are you there?")
    expect(page.locator(".note.error")).to_contain_text("cannot be reached")
    expect(page.locator("#banner")).to_contain_text("cannot be reached")
    server.start()
    expect(page.locator("#banner")).to_be_hidden(timeout=8000)
    page.click(".note.error button")
    expect(page.locator(ANSWER)).to_have_text("back again")


def test_settings_are_sent_and_checked(page: Any, script: Script) -> None:
    page.click("#open-settings")
    page.fill("#system", "Be brief.")
    page.fill("#set-temperature", "0.7")
    page.fill("#set-max_tokens", "64")
    page.fill("#set-top_p", "7")
    expect(page.locator("#problem-top_p")).to_have_text("0.0001 to 1")
    page.click("#make-default")
    ask(page, "Hi")
    sent = script.chats[0]
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (sent["temperature"], sent["max_tokens"], "top_p" in sent) == (0.7, 64, False)
    page.click("#new-chat")
    expect(page.locator("#set-temperature")).to_have_value("0.7")


def test_a_reader_who_scrolls_up_is_left_alone(page: Any, script: Script) -> None:
    script.answers, script.delay, script.pieces = ["line\n\n" * 120], 0.02, 12
    ask(page, "Long", wait=False)
    gap = (
        "() => { const s = document.getElementById('scroller'); return s.scrollHeight - s.clientHeight - s.scrollTop }"
    )
    page.wait_for_selector(f"{ANSWER} p >> nth=25")
    assert page.evaluate(gap) < 5
    page.hover("#log")
    page.mouse.wheel(0, -150)
    page.wait_for_selector("#to-end:visible")
    page.wait_for_timeout(300)  # the wheel is heard of before the page has moved
    place = page.evaluate("document.getElementById('scroller').scrollTop")
    page.wait_for_timeout(300)
    assert abs(page.evaluate("document.getElementById('scroller').scrollTop") - place) < 5
    page.click("#to-end")
    page.wait_for_selector(DONE)
    assert page.evaluate(gap) < 5

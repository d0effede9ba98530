"""The chat page in Chromium, against a server with scripted answers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from stub_chat_server import Stub

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH")
MARKDOWN = """# A title

Text with **bold**, `code`, $\\frac{a}{b}$ and [a link](https://example.com), [bad](javascript:alert(1)).

<script>window.hacked = 1</script> <img src=x onerror="window.hacked = 1">

![x](javascript:alert(1))

```python
print("<b>hi</b>")
```

| a | b |
|---|---|
| 1 | 2 |

$$x^2 = \\sqrt{2}$$
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as found:
        opened = found.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def stub() -> Iterator[Stub]:
    made = Stub()
    yield made
    made.server.shutdown()


@pytest.fixture
def page(browser: Any, stub: Stub) -> Iterator[Any]:
    context = browser.new_context(locale="en-US")
    opened, problems = context.new_page(), []
    opened.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("request", lambda one: problems.append(one.url) if not one.url.startswith((stub.url, "blob:")) else None)
    opened.goto(stub.url)
    opened.wait_for_selector("#model:has-text('stub')")
    yield opened
    expected = ("401", "400", "500")
    assert [text for text in problems if not any(status in text for status in expected)] == []
    context.close()


def ask(page: Any, text: str) -> None:
    page.fill("#draft", text)
    page.press("#draft", "Enter")


def answers(page: Any) -> list[str]:
    page.wait_for_selector(".live", state="detached")
    return [one.inner_text() for one in page.query_selector_all(".turn.assistant .body")]


def test_an_answer_streams_and_is_kept_over_a_reload(page: Any, stub: Stub) -> None:
    ask(page, "Hi!")
    page.wait_for_selector(".turn.assistant")
    assert answers(page) == ["Hello there."]
    assert stub.asked[0]["messages"] == [{"role": "user", "content": "Hi!"}]
    assert "12 of 1,000" in page.inner_text("#used")
    page.reload()
    page.click(".row .open")
    assert answers(page) == ["Hello there."]


def test_stopping_keeps_what_has_come(page: Any, stub: Stub) -> None:
    stub.answer, stub.delay = ["word "] * 200, 0.05
    ask(page, "Talk")
    page.wait_for_selector(".turn.assistant .body:has-text('word word word word')")
    page.click("#send")
    (text,) = answers(page)
    assert 3 < text.count("word") < 150
    assert "Stopped" in page.inner_text(".turn.assistant .foot")


def test_regenerating_and_editing_make_branches(page: Any, stub: Stub) -> None:
    ask(page, "First")
    answers(page)
    stub.answer = ["Another."]
    page.click(".turn.assistant [aria-label=Regenerate]")
    page.wait_for_selector("text=2/2")
    assert answers(page) == ["Another."]
    page.click(".turn.assistant [aria-label='Previous version']")
    assert answers(page) == ["Hello there."]
    page.click(".turn.user [aria-label=Edit]")
    page.fill(".turn.user textarea", "Second")
    page.click(".turn.user .main-button")
    page.wait_for_selector(".turn.assistant")
    assert answers(page) == ["Another."]
    assert stub.asked[-1]["messages"] == [{"role": "user", "content": "Second"}]
    page.click(".turn.user [aria-label='Previous version']")
    assert "First" in page.inner_text(".turn.user .body")


def test_markdown_is_shown_and_nothing_in_it_runs(page: Any, stub: Stub) -> None:
    stub.answer = [MARKDOWN[place : place + 7] for place in range(0, len(MARKDOWN), 7)]
    ask(page, "Show")
    page.wait_for_selector(".turn.assistant")
    answers(page)
    body = ".turn.assistant .body"
    assert page.query_selector(f"{body} strong") and page.query_selector(f"{body} table")
    assert page.query_selector(f"{body} math mfrac") and page.query_selector(f"{body} math[display=block] msqrt")
    assert 'print("<b>hi</b>")' in page.inner_text(f"{body} pre")
    links = page.eval_on_selector_all(f"{body} a", "nodes => nodes.map(node => [node.href, node.rel])")
    assert links == [["https://example.com/", "noopener noreferrer"]]
    assert not page.query_selector(f"{body} script, {body} img")
    assert page.evaluate("window.hacked") is None


def test_enter_of_an_input_method_does_not_send(page: Any, stub: Stub) -> None:
    page.fill("#draft", "ni hao")
    page.evaluate(
        "document.querySelector('#draft').dispatchEvent("
        "new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true, cancelable: true}))"
    )
    page.press("#draft", "Shift+Enter")
    assert stub.asked == []
    assert page.input_value("#draft") == "ni hao\n"


def test_a_key_is_asked_for_and_used(page: Any, stub: Stub) -> None:
    stub.key = "secret-key"
    page.reload()
    page.fill("dialog input", "secret-key")
    page.click("dialog .main-button")
    page.wait_for_selector("#model:has-text('stub')")
    ask(page, "Hi")
    page.wait_for_selector(".turn.assistant")
    assert answers(page) == ["Hello there."]


def test_errors_are_told(page: Any, stub: Stub) -> None:
    stub.failure = (400, "max_tokens: too many")
    ask(page, "Hi")
    page.wait_for_selector(".failure")
    assert "max_tokens: too many" in page.inner_text(".failure")


def test_settings_go_into_the_request_and_a_phone_has_no_sideways_scroll(page: Any, stub: Stub) -> None:
    page.click("#bar-right button")
    page.fill("#settings textarea", "Be brief.")
    page.fill("#settings [name=temperature]", "0.5")
    page.click("#bar-right button")
    page.set_viewport_size({"width": 360, "height": 720})
    ask(page, "A word " + "x" * 300)
    page.wait_for_selector(".turn.assistant")
    answers(page)
    assert stub.asked[0]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert stub.asked[0]["temperature"] == 0.5
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("document.querySelector('#scroller').scrollWidth") <= 360
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 27)"

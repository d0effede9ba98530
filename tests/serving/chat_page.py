"""The chat page in Chromium, against a server that says what the test wants."""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytest
from stub_chat_server import StubServer

sync_api = pytest.importorskip("playwright.sync_api", reason="the chat page's tests need: pip install playwright")
expect = sync_api.expect

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
NEEDS_CHROMIUM = pytest.mark.skipif(
    CHROMIUM is None, reason="the chat page's tests need Chromium, or its path in CHROMIUM"
)

DONE = ".message.assistant:last-child:not(.writing)"
ANSWER = ".message.assistant .prose"
PATIENCE = 30_000
"""Milliseconds; far more than needed, for machines that are busy."""
expect.set_options(timeout=PATIENCE)


def context_of(browser: Any, **options: Any) -> Any:
    context = browser.new_context(**{"locale": "en-US", "viewport": {"width": 1280, "height": 700}, **options})
    context.set_default_timeout(PATIENCE)
    return context


class Visits:
    """Opens pages, and remembers what no page may do."""

    def __init__(self, browser: Any, usual: Any, server: StubServer) -> None:
        self.browser, self.usual, self.server = browser, usual, server
        self.pages: list[Any] = []
        self.wrongs: list[str] = []

    def open(self, **options: Any) -> Any:
        """A page in the usual context, with ``options`` in one of its own."""
        context = context_of(self.browser, **options) if options else self.usual
        page = context.new_page()
        self.pages.append(page)
        page.on("pageerror", lambda error: self.wrongs.append(f"error: {error}"))
        page.on("console", lambda message: self._heard(message.text))
        page.on("dialog", lambda dialog: (self.wrongs.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: self._asked(request.url))
        page.goto(self.server.address)
        page.wait_for_selector("#model:not(:empty), #banner:not([hidden])", state="attached")
        return page

    def close(self) -> None:
        for page in self.pages:
            page.close()
            if page.context is not self.usual:
                page.context.close()
        blank = self.usual.new_page()
        session = self.usual.new_cdp_session(blank)
        session.send(
            "Storage.clearDataForOrigin", {"origin": self.server.address, "storageTypes": "indexeddb,local_storage"}
        )
        blank.close()

    def _heard(self, text: str) -> None:
        if "Content Security Policy" in text or "Refused to" in text:
            self.wrongs.append(text)

    def _asked(self, url: str) -> None:
        if not url.startswith((self.server.address + "/", "blob:" + self.server.address)):
            self.wrongs.append(f"request to {url}")


def ask(page: Any, text: str, wait: bool = True) -> None:
    before = page.locator(".message.assistant").count()
    page.fill("#draft", text)
    page.press("#draft", "Enter")
    expect(page.locator(".message.assistant")).to_have_count(before + 1)
    if wait:
        page.wait_for_selector(DONE)


_READ_BACK = """async () => {
  await new Promise((done) => setTimeout(done));  // behind the timer that saves
  const settled = (request) => new Promise((done, fail) => {
    request.onsuccess = () => done(request.result);
    request.onerror = fail;
  });
  const database = await settled(indexedDB.open("kaiyuan", 1));
  await settled(database.transaction("conversations").objectStore("conversations").getAll());
  database.close();
}"""


def wait_until_saved(page: Any) -> None:
    """Until the browser has written what the page has begun to save: reading waits for writing that came before it."""
    page.evaluate(_READ_BACK)


def answers(page: Any) -> list[str]:
    return list(page.locator(ANSWER).all_inner_texts())


def questions(page: Any) -> list[str]:
    return list(page.locator(".said-text").all_inner_texts())

"""Fixtures of the chat page's tests: the server, Chromium, and a page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from chat_page import CHROMIUM, Visits, context_of, sync_api
from stub_chat_server import Script, StubServer, stub_server


@pytest.fixture(scope="module")
def server() -> Iterator[StubServer]:
    with stub_server() as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def usual(browser: Any) -> Any:
    """The context of most tests: that its files are in the cache makes them faster."""
    return context_of(browser)


@pytest.fixture
def visits(browser: Any, usual: Any, server: StubServer) -> Iterator[Visits]:
    server.reset()
    visits = Visits(browser, usual, server)
    yield visits
    visits.close()
    assert visits.wrongs == []


@pytest.fixture
def script(server: StubServer, visits: Visits) -> Script:
    return server.script


@pytest.fixture
def page(visits: Visits) -> Any:
    return visits.open()

"""The review page in Chromium and its routes: blind double review by keys, undo, resuming, hostile samples."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from chat_page import NEEDS_CHROMIUM, context_of, expect

from kaiyuan.curation.log import Decision, DecisionLog, read_log
from kaiyuan.curation.places import CANDIDATES, DECISIONS
from kaiyuan.curation.review import Plan
from kaiyuan.curation.sample import Sample
from kaiyuan.errors import KaiyuanError
from kaiyuan.files import write_jsonl
from kaiyuan.serving.review.app import guarded
from kaiyuan.serving.review.desk import Desk

pytest_plugins = ["chat_page_fixtures"]
HOSTILE = (
    "<img src=x onerror=alert(1)><script>alert(2)</script> [click](javascript:alert(3)) "
    "![x](http://evil.example/pixel.png) <iframe src='http://evil.example'></iframe>\n\n```html\n</code><script>alert(4)</script>\n```"
)


def sample(question: str, answer: str, topic: str) -> Sample:
    messages = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    return Sample(messages, language="en", source="test", labels={"topic": topic}, author="secret-model")


SAMPLES = [sample(f"What is {n} + {n}?", f"It is **{n + n}**, since $2n = {n + n}$.", "mathematics/algebra")
           for n in range(3)] + [sample("Show some markup", HOSTILE, "programming/design")]  # fmt: skip


def folder_of(path: Path) -> Path:
    write_jsonl(path / CANDIDATES, (item.row() for item in SAMPLES))
    with DecisionLog(path / DECISIONS) as log:
        stamp = "2026-01-01T00:00:00.000+00:00"
        log.append(Decision(item.hash, "rules", "rules", "1", "keep", stamp) for item in SAMPLES)
        log.append(
            Decision(item.hash, "critique", "secret-critic", "1", "4321"[n], stamp) for n, item in enumerate(SAMPLES)
        )
    return path


@contextmanager
def serving(folder: Path, plan: Plan | None = None) -> Iterator[str]:
    desk = Desk(folder, plan or Plan(double_share=0.5))
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(guarded(desk), log_level="error", http="h11", lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)
            desk.close()


def verdicts(folder: Path) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(item.by, item.verdict, item.reasons) for item in read_log(folder / DECISIONS) if item.tier == "human"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of(tmp_path)


class Seen:
    """A page, and what it must never do."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.context = context_of(browser, **options)
        self.page = self.context.new_page()
        self.wrongs: list[str] = []
        self.page.on("pageerror", lambda error: self.wrongs.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self.wrongs.append(dialog.message), dialog.dismiss()))
        self.page.on(
            "request", lambda request: request.url.startswith(address + "/") or self.wrongs.append(request.url)
        )
        self.page.on("console", lambda message: "Security Policy" in message.text and self.wrongs.append(message.text))
        self.page.goto(address)

    def begin(self, name: str) -> Any:
        self.page.fill("#name", name)
        self.page.press("#name", "Enter")
        self.page.wait_for_selector(".turn.assistant, #done")
        return self.page

    def close(self) -> None:
        self.context.close()
        assert self.wrongs == []


@NEEDS_CHROMIUM
def test_two_people_judge_by_keys_and_the_report_compares_them(browser: Any, folder: Path) -> None:
    with serving(folder) as address:
        ann = Seen(browser, address)
        page = ann.begin("ann")
        expect(page.locator("#count")).to_have_text("0 of 6 verdicts · 0 by you")
        assert "secret" not in page.content()
        page.keyboard.press("k")
        expect(page.locator("#count")).to_contain_text("1 of 6")
        page.keyboard.press("d")
        page.keyboard.press("1")
        page.keyboard.press("3")
        page.fill("#note", "kd 12")
        page.keyboard.press("Enter")
        expect(page.locator("#count")).to_contain_text("2 of 6")
        assert verdicts(folder) == [("ann", "keep", ()), ("ann", "drop", ("wrong", "off topic"))]
        page.keyboard.press("u")
        expect(page.locator("#note")).to_have_value("kd 12")
        expect(page.locator("[aria-pressed=true]")).to_have_count(2)
        page.keyboard.press("Escape")
        page.keyboard.press("k")
        expect(page.locator("#count")).to_contain_text("2 of 6")
        assert verdicts(folder)[2:] == [("ann", "undo", ()), ("ann", "keep", ())]
        for done in (3, 4):
            page.keyboard.press("k")
            expect(page.locator("#count")).to_contain_text(f"{done} of 6")
        expect(page.locator("#done h1")).to_contain_text("nothing left for you")
        bo = Seen(browser, address)
        other = bo.begin("bo")
        for done in (5, 6):
            other.keyboard.press("k")
            expect(other.locator("#count")).to_contain_text(f"{done} of 6")
        expect(other.locator("#done h1")).to_have_text("All done. Thank you.")
        other.click("#open-report")
        expect(other.locator(".report table")).to_have_count(5)
        expect(other.locator(".report")).to_contain_text("ann · bo")
        expect(other.locator(".report")).to_contain_text("100%")
        ann.close()
        bo.close()


@NEEDS_CHROMIUM
def test_samples_cannot_act_and_work_goes_on_after_a_restart(browser: Any, folder: Path) -> None:
    with serving(folder, Plan(double_share=0)) as address:
        seen = Seen(browser, address)
        page = seen.begin("ann")
        shown = 0
        while not page.locator("#done").count():
            if "alert(1)" in page.locator(".turn.assistant").inner_text():
                shown += 1
                assert (
                    page.locator(".prose script, .prose img, .prose iframe, .prose a[href^='javascript']").count() == 0
                )
                assert "<script>alert(4)</script>" in page.locator(".turn.assistant code").first.inner_text()
                break
            before = page.locator(".turn.user").inner_text()
            page.keyboard.press("k")
            page.wait_for_function("before => document.querySelector('.turn.user')?.innerText !== before", arg=before)
        assert shown == 1
        page.wait_for_timeout(200)
        seen.close()
    kept = len(verdicts(folder))
    with serving(folder, Plan(double_share=0)) as address:
        seen = Seen(browser, address)
        page = seen.begin("ann")
        expect(page.locator("#count")).to_have_text(f"{kept} of 4 verdicts · {kept} by you")
        expect(page.locator(".turn.assistant")).to_contain_text("alert(1)")
        seen.close()


@NEEDS_CHROMIUM
def test_languages_themes_phones_and_a_server_that_goes(browser: Any, folder: Path) -> None:
    with serving(folder) as address:
        seen = Seen(browser, address, locale="zh-CN", viewport={"width": 390, "height": 780}, color_scheme="dark")
        page = seen.begin("小明")
        expect(page.locator("#keep")).to_contain_text("保留")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.click("#theme")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
        page.click("#language")
        expect(page.locator("#keep")).to_contain_text("Keep")
        page.reload()
        page.wait_for_selector(".turn.assistant")
        expect(page.locator("#change")).to_have_text("小明")
    page.keyboard.press("k")
    expect(page.locator("#notice")).to_contain_text("cannot be reached")
    seen.wrongs = [wrong for wrong in seen.wrongs if not wrong.startswith(address)]
    seen.close()
    assert verdicts(folder) == []


def test_routes_refuse_what_is_wrong(folder: Path) -> None:
    body = {"reviewer": "ann", "sample": SAMPLES[0].hash, "verdict": "keep"}
    with serving(folder) as address, httpx.Client(base_url=address, timeout=20) as http:
        page = http.get("/")
        policy = page.headers["content-security-policy"]
        assert (page.status_code, "default-src 'self'" in policy, "unsafe" in policy) == (200, True, False)
        assert http.get("/prose.js").content == http.get("/static/prose.js").content or http.get("/prose.js").is_success
        assert http.get("/app.js").status_code == http.get("/../app.py").status_code == 404
        for status, request in (
            (403, {"headers": {"origin": "http://evil.example"}}), (403, {"headers": {"host": "evil.example"}}),
            (400, {"json": {**body, "verdict": "maybe"}}), (400, {"json": {**body, "reasons": ["because"]}}),
            (400, {"json": {**body, "reviewer": " "}}), (400, {"json": {**body, "extra": 1}}),
            (404, {"json": {**body, "sample": "0" * 16}}), (413, {"json": {**body, "note": "x" * 70_000}}),
        ):  # fmt: skip
            reply = http.post("/api/verdict", **{"json": body, **request})  # type: ignore[arg-type]
            assert reply.status_code == status, reply.text
        assert http.post("/api/undo", json={"reviewer": "ann"}).status_code == 409
        assert http.get("/api/verdict").status_code == 405
        assert verdicts(folder) == []
        assert http.post("/api/verdict", json=body).json()["progress"] == {"mine": 1, "done": 1, "needed": 6}


def test_one_desk_at_a_time_and_none_without_samples(folder: Path, tmp_path: Path) -> None:
    with serving(folder), pytest.raises(KaiyuanError, match="another process"):
        Desk(folder, Plan())
    with pytest.raises(KaiyuanError, match=r"has no candidates\.jsonl"):
        Desk(tmp_path / "none", Plan())

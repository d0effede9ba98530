"""SIGTERM: what is under way ends, nothing new begins, then the process leaves with code 0."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from live_server import eventually

from kaiyuan.errors import KaiyuanError
from kaiyuan.serving.server import serve


@contextmanager
def process(drain_seconds: float) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = Path(__file__).with_name("server_process.py")
    command = [sys.executable, str(script), str(port), str(drain_seconds)]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert eventually(lambda: answers(f"http://127.0.0.1:{port}/ready"), 60)
        yield running, f"http://127.0.0.1:{port}"
    finally:
        running.kill()
        running.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.HTTPError:
        return False


def ask_in_background(address: str) -> tuple[threading.Thread, list[httpx.Response]]:
    replies: list[httpx.Response] = []

    def ask() -> None:
        replies.append(httpx.post(f"{address}/v1/completions", json={"prompt": [1], "max_tokens": 3}, timeout=20))

    thread = threading.Thread(target=ask)
    thread.start()
    assert eventually(lambda: b"request_prompt_tokens_count" in httpx.get(f"{address}/metrics").content)
    assert eventually(lambda: b'request_prompt_tokens_count{model_name="tiny"} 1.0' in metrics(address))
    return thread, replies


def metrics(address: str) -> bytes:
    return httpx.get(f"{address}/metrics").content


def test_sigterm_drains() -> None:
    with process(10) as (running, address), httpx.Client(base_url=address, timeout=20) as http:
        thread, replies = ask_in_background(address)
        running.send_signal(signal.SIGTERM)
        assert eventually(lambda: http.get("/ready").status_code == 503)
        refused = http.post("/v1/completions", json={"prompt": [1]})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert "retry-after" in refused.headers
        assert http.get("/health").status_code == 200
        thread.join()
        assert replies[0].status_code == 200
        assert replies[0].json()["choices"][0]["finish_reason"] == "length"
        assert running.wait(10) == 0
        assert running.stderr is not None
        assert "SIGTERM: requests under way have 10 s" in running.stderr.read()


def test_what_takes_too_long_is_cut_off() -> None:
    with process(0.1) as (running, address):
        thread, replies = ask_in_background(address)
        running.send_signal(signal.SIGTERM)
        thread.join()
        assert (replies[0].status_code, replies[0].json()["error"]["code"]) == (503, "draining")
        assert running.wait(10) == 0


def test_serve_refuses_before_it_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KaiyuanError, match="an API key is needed"):
        serve(tmp_path, "0.0.0.0")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(KaiyuanError, match=r"cannot listen on 127\.0\.0\.1:.* --port"):
            serve(tmp_path, port=taken.getsockname()[1])
    for port in (-1, 70_000):
        with pytest.raises(KaiyuanError, match="ports go from 0"):
            serve(tmp_path, port=port)
    blocked: dict[str, Any] = {"fastapi": None}
    monkeypatch.setitem(sys.modules, "fastapi", blocked["fastapi"])
    from fake_engine import FakeEngine
    from live_server import settings

    from kaiyuan.serving.app import create_app

    with pytest.raises(KaiyuanError, match=r"pip install 'kaiyuan\[serve\]'"):
        create_app(FakeEngine(None), settings())

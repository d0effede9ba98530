"""A server that answers as the test says: the chat page's files, and enough of the API for the page."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

STATIC = Path(__file__).parents[2] / "src" / "kaiyuan" / "serving" / "static"
POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


@dataclass
class Script:
    """What the server does. A test changes it at any time."""

    answers: list[str] = field(default_factory=lambda: ["Hello, world!"])
    """One for each chat request, the last again and again."""
    pieces: int = 4
    """Characters in one event."""
    delay: float = 0.0
    """Seconds before each event."""
    finish: str = "stop"
    error: tuple[int, str, str] | None = None
    """Status, message and code of every chat request."""
    break_after: int | None = None
    """Events before the connection is cut."""
    error_after: int | None = None
    """Events before an error event."""
    key: str = ""
    context: int = 1000
    chats: list[dict[str, Any]] = field(default_factory=list)
    """The chat requests so far."""
    counted: list[dict[str, Any]] = field(default_factory=list)
    gone: int = 0
    """Clients that left before the end."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: Script
    sockets: list[socket.socket]

    def setup(self) -> None:
        super().setup()
        self.sockets.append(self.connection)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            if self._allowed():
                self._json({"data": [{"id": "stub-model", "max_model_len": self.script.context}]})
            return
        name = self.path.split("?")[0].lstrip("/").removeprefix("static/") or "index.html"
        path = STATIC / name
        if "/" in name or not path.is_file():
            self._json({"error": {"message": f"there is no {name}"}}, 404)
            return
        self._send(
            path.read_bytes(),
            _TYPES[path.suffix],
            200,
            {"content-security-policy": POLICY, "cache-control": "max-age=600"},
        )

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self._allowed():
            return
        if self.path == "/tokenize":
            self.script.counted.append(body)
            text = body.get("prompt") or " ".join(turn["content"] for turn in body["messages"])
            self._json({"count": len(text.split()), "max_model_len": self.script.context, "tokens": []})
        elif self.path == "/v1/chat/completions":
            self._chat(body)
        else:
            self._json({"error": {"message": "no such route"}}, 404)

    def _allowed(self) -> bool:
        if not self.script.key or self.headers.get("authorization") == f"Bearer {self.script.key}":
            return True
        self._json({"error": {"message": "an API key is needed", "code": "invalid_api_key"}}, 401)
        return False

    def _chat(self, body: dict[str, Any]) -> None:
        script = self.script
        script.chats.append(body)
        if script.error:
            status, message, code = script.error
            self._json({"error": {"message": message, "code": code}}, status)
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            self._stream(script.answers[min(len(script.chats), len(script.answers)) - 1], body)
        except OSError:
            script.gone += 1

    def _stream(self, answer: str, body: dict[str, Any]) -> None:
        script = self.script
        pieces = [answer[at : at + script.pieces] for at in range(0, len(answer), script.pieces)]
        self._event({"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
        for index, piece in enumerate(pieces):
            if script.break_after == index:
                return
            if script.error_after == index:
                self._event({"error": {"message": "the engine failed", "code": "engine_failed"}})
                break
            time.sleep(script.delay)
            self._event({"choices": [{"delta": {"content": piece}, "finish_reason": None}]})
        else:
            self._event({"choices": [{"delta": {}, "finish_reason": script.finish}]})
            prompt = sum(len(turn["content"].split()) for turn in body["messages"])
            self._event({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": len(pieces)}})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, value: dict[str, Any]) -> None:
        self.wfile.write(b": a comment\ndata: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n")
        self.wfile.flush()

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), "application/json", status, {})

    def _send(self, body: bytes, media_type: str, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"content-type": media_type, "content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class StubServer:
    """The server, which can go and come back at the same port."""

    def __init__(self) -> None:
        self.script = Script()
        self.port = 0
        self._sockets: list[socket.socket] = []
        self._server: ThreadingHTTPServer | None = None
        self.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        handler = type("Handler", (_Handler,), {"script": self.script, "sockets": self._sockets})
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            for connection in self._sockets:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._server = None

    def reset(self) -> None:
        """As it was at first, running."""
        self.script.__dict__.update(Script().__dict__)
        if self._server is None:
            self.start()


@contextmanager
def stub_server() -> Iterator[StubServer]:
    server = StubServer()
    try:
        yield server
    finally:
        server.stop()

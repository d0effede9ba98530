"""A server with scripted answers for the chat page: the page's own files, and as much of the API as it asks for."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from kaiyuan.serving.pages import load_pages


class Stub:
    """Listens on a free port. ``answer`` are the pieces of the next answers, ``delay`` the seconds between them."""

    def __init__(self) -> None:
        self.answer: list[str] = ["Hello", " there."]
        self.delay = 0.0
        self.key = ""
        self.failure: tuple[int, str] | None = None
        self.asked: list[dict[str, Any]] = []
        stub, pages = self, load_pages()

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None:
                pass

            def reply(self, status: int, body: Any) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def refused(self) -> bool:
                if stub.key and self.headers.get("authorization") != f"Bearer {stub.key}":
                    self.reply(401, {"error": {"message": "the API key is wrong", "type": "auth", "code": None}})
                    return True
                return False

            def do_GET(self) -> None:
                if page := pages.get(self.path):
                    made = page.reply()
                    self.send_response(200)
                    for name, value in {**made.headers, "content-type": made.media_type}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(page.body)
                elif self.path == "/v1/models" and not self.refused():
                    self.reply(200, {"data": [{"id": "stub", "max_model_len": 1000}]})
                elif self.path != "/v1/models":
                    self.reply(404, {"error": {"message": "nothing here"}})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if self.refused():
                    return
                if self.path == "/tokenize":
                    self.reply(200, {"count": len(json.dumps(body)) // 4, "max_model_len": 1000})
                    return
                stub.asked.append(body)
                if stub.failure:
                    self.reply(stub.failure[0], {"error": {"message": stub.failure[1]}})
                    return
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                try:
                    for piece in stub.answer:
                        self.event({"choices": [{"delta": {"content": piece}, "finish_reason": None}]})
                        time.sleep(stub.delay)
                    self.event({"choices": [{"delta": {}, "finish_reason": "stop"}]})
                    self.event({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": len(stub.answer)}})
                    self.wfile.write(b"data: [DONE]\n\n")
                except OSError:
                    pass  # the page has hung up

            def event(self, content: dict[str, Any]) -> None:
                self.wfile.write(f"data: {json.dumps(content)}\n\n".encode())
                self.wfile.flush()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

"""A real server on a free port, in a thread of the test."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from kaiyuan.serving.app import create_app
from kaiyuan.serving.settings import Limits, ServerSettings

MODEL = "tiny"


def settings(**changes: Any) -> ServerSettings:
    limits = changes.pop("limits", Limits())
    return ServerSettings(model_name=MODEL, limits=limits, **changes)


@contextmanager
def serving(engine: Any, **changes: Any) -> Iterator[str]:
    """Yield the address of a server for ``engine``."""
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:  # asyncio sets TCP_NODELAY on these only
        listener.bind(("127.0.0.1", 0))
        app = create_app(engine, settings(**changes))
        config = uvicorn.Config(app, log_level="error", http="h11", lifespan="on", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
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


@contextmanager
def client_of(engine: Any, **changes: Any) -> Iterator[httpx.Client]:
    with serving(engine, **changes) as address, httpx.Client(base_url=address, timeout=20) as client:
        yield client


def eventually(holds: Any, seconds: float = 5) -> bool:
    """Whether ``holds()`` becomes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.01)
    return bool(holds())

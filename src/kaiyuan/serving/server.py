"""Run the server: from a model folder to a listening socket, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from kaiyuan.errors import KaiyuanError
from kaiyuan.progress import say
from kaiyuan.serving.app import create_app
from kaiyuan.serving.heap import share_heap
from kaiyuan.serving.interface import ServedEngine
from kaiyuan.serving.settings import Limits, ServerSettings, check_exposure, generation_defaults

if TYPE_CHECKING:
    from fastapi import FastAPI

_CLOSE_SECONDS = 5
"""For connections to end after the last answer."""
_IDLE_SECONDS = 75
"""For which a connection without a request is kept. Clients and proxies must be the first to close theirs, or a request
meets a connection that closes just then: httpx keeps them for 5 s, which is also uvicorn's default, nginx for 60 s."""


def serve(
    folder: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    api_keys: Sequence[str] = (),
    model_name: str = "",
    dtype: str = "float32",
    device: str = "cpu",
    limits: Limits | None = None,
    metrics_prefix: str = "kaiyuan",
    drain_seconds: float = 30.0,
    **engine_options: Any,
) -> None:
    """Serve the model of ``folder`` until SIGTERM or Ctrl-C; requests under way then have ``drain_seconds`` to end.

    ``engine_options`` go to ``Engine``. Raises ``KaiyuanError`` if the address is open to others and there is no
    ``api_keys``, before the model is loaded.
    """
    check_exposure(host, api_keys)
    share_heap()
    listener = listen(host, port)
    settings = ServerSettings(
        model_name=model_name or default_name(folder),
        api_keys=tuple(api_keys),
        defaults=generation_defaults(folder),
        limits=limits or Limits(),
        metrics_prefix=metrics_prefix,
        drain_seconds=drain_seconds,
    )
    engine = _load(folder, dtype, device, settings, engine_options)
    run_app(create_app(engine, settings), engine, settings, listener)


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address; ``port`` 0 is any free one. A ``KaiyuanError`` if that cannot be had."""
    if not 0 <= port <= 65535:
        raise KaiyuanError(f"--port {port}: ports go from 0 (any free one) to 65535")
    try:
        # asyncio sets TCP_NODELAY only on sockets that say they are TCP, as those of getaddrinfo do.
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise KaiyuanError(f"cannot listen on {host}:{port}: {error}; choose another --host or --port") from None
    return listener


def default_name(folder: Path) -> str:
    """The folder's name; for ``runs/demo/dpo/model`` it is ``demo-dpo``."""
    folder = folder.resolve()
    if folder.name == "model" and len(folder.parts) > 3:
        return f"{folder.parent.parent.name}-{folder.parent.name}"
    return folder.name


def _load(folder: Path, dtype: str, device: str, settings: ServerSettings, options: dict[str, Any]) -> ServedEngine:
    from kaiyuan.inference.async_engine import AsyncEngine
    from kaiyuan.inference.engine import Engine
    from kaiyuan.model.dtypes import compute_dtype

    engine = Engine(folder, dtype=compute_dtype(dtype), device=device, **options)
    engine.warm_up()
    return AsyncEngine(engine, max_waiting=settings.limits.max_waiting)


def run_app(app: FastAPI, engine: ServedEngine, settings: ServerSettings, listener: socket.socket) -> None:
    """Answer on ``listener`` until a signal comes. The first one lets requests under way end while new ones are
    refused, so ``/ready`` says 503 meanwhile; the second stops at once.
    """
    try:
        import uvicorn
    except ImportError:
        raise KaiyuanError("the server needs more packages: pip install 'kaiyuan[serve]'") from None

    class Server(uvicorn.Server):
        loop: asyncio.AbstractEventLoop
        drain: Any = None

        async def startup(self, sockets: Any = None) -> None:
            self.loop = asyncio.get_running_loop()
            await super().startup(sockets)
            if self.started:
                _announce(settings, listener)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if self.drain is None and self.started:
                self.drain = asyncio.run_coroutine_threadsafe(self._drain(sig), self.loop)
            else:
                self.should_exit = self.force_exit = True

        async def _drain(self, sig: int) -> None:
            say(f"{signal.Signals(sig).name}: requests under way have {settings.drain_seconds:g} s to end")
            try:
                await engine.stop(settings.drain_seconds)
            finally:
                self.should_exit = True

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, http="h11", ws="none",
        server_header=False, proxy_headers=False, lifespan="on", timeout_graceful_shutdown=_CLOSE_SECONDS,
        timeout_keep_alive=_IDLE_SECONDS,
    )  # fmt: skip
    with listener:
        Server(config).run(sockets=[listener])


def _announce(settings: ServerSettings, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    key = "an API key is needed" if settings.api_keys else "no API key, for this machine only"
    say(f"serving {settings.model_name} on http://{shown}:{port} ({key})")

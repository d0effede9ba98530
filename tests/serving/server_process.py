"""A server in a process of its own: ``python server_process.py PORT DRAIN_SECONDS``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "tokenizer"))

from fake_engine import FakeEngine
from live_server import settings

from kaiyuan.serving.app import create_app
from kaiyuan.serving.server import listen, run_app

if __name__ == "__main__":
    port, seconds = int(sys.argv[1]), float(sys.argv[2])
    engine = FakeEngine(None, delay=0.3)
    how = settings(drain_seconds=seconds)
    run_app(create_app(engine, how), engine, how, listen("127.0.0.1", port))

"""A short soak: mixed traffic, bursts, a SIGKILL in the middle; ``benchmarks/soak.py`` says what must hold."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_folder import write_tiny_folder

from kaiyuan.tokenizer import Tokenizer

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.mark.slow
def test_nothing_leaks_hangs_or_gets_lost(tokenizer: Tokenizer, tmp_path: Path) -> None:
    pytest.importorskip("llguidance")
    folder = write_tiny_folder(tmp_path / "tiny", tokenizer)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--seconds", "12", "--kills", "1", "--clients", "10", "--growth", "1000", "--port", str(port)]
    done = subprocess.run([sys.executable, SOAK, folder, *options], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    counts = {name: int(count) for name, count in re.findall(r"^(\S.*?)  +(\d+)$", done.stdout, re.MULTILINE)}
    assert counts["answered"] > 20
    for rare in ("refused with a reason", "nonsense refused", "hung up", "tokens counted", "in a burst: answered"):
        assert counts[rare] > 0, done.stdout

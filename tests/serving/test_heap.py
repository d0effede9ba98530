"""In a process of its own, since heaps are shared by all that a process does."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import re
from pathlib import Path
from kaiyuan.serving.heap import give_back, share_heap

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

share_heap()
held = [bytes(1000) for _ in range(100_000)]
held, last = [], held[-1]  # the heap cannot shrink below what lies at its end
before = resident()
give_back()
print(before - resident(), len(last))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heaps are measured through /proc")
def test_free_pages_below_a_page_in_use_go_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[0]) > 80, "of about 95 MiB"

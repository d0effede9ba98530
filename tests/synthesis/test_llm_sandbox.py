"""The sandbox: what code may do, what it may not, and that it cannot pretend to have passed."""

from __future__ import annotations

import asyncio
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from kaiyuan.errors import KaiyuanError
from kaiyuan.synthesis.llm.config import SandboxSettings
from kaiyuan.synthesis.llm.sandbox import Outcome, Sandbox, empty_solution, python_code, usable_tests

TESTS = ["assert f(1) == 2", "assert f(-1) == 0"]
GOOD = "def f(n):\n    return n + 1\n"


def run(code: str, tests: list[str] = TESTS, **settings: Any) -> Outcome:
    return asyncio.run(Sandbox(SandboxSettings(**{"seconds": 3.0, "memory_mb": 256, **settings})).run(code, tests))


def works_here() -> bool:
    try:
        asyncio.run(Sandbox(SandboxSettings()).check_setup())
    except KaiyuanError:
        return False
    return True


isolated = pytest.mark.skipif(not works_here(), reason="no user namespaces here")


@isolated
@pytest.mark.parametrize("code, passed", [
    (GOOD, True),
    ("import math, json, re, collections, heapq, itertools\n" + GOOD, True),
    ("import os\nopen('mine', 'w').write('x')\n" + GOOD, True),
    ("def f(n):\n    return n\n", False),
    ("def f(n):\n    return 2\n", False),
    ("def g(n):\n    return n + 1\n", False),
    ("def f(n)\n    return n + 1\n", False),
    ("raise SystemExit(0)\n" + GOOD, False),
    ("import os\nos._exit(0)\n", False),
    ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", False),
    ("def f(n):\n    raise SystemExit(0)\n", False),
    ("x = bytearray(1 << 30)\n" + GOOD, False),
    ("open('big', 'wb').write(bytes(40 << 20))\n" + GOOD, False),
    ("import os\nos.write(1, b'0' * 32)\nos._exit(0)\n", False),
])  # fmt: skip
def test_only_right_code_passes(code: str, passed: bool) -> None:
    assert run(code).passed is passed


@isolated
@pytest.mark.parametrize("code", ["while True: pass\n", "import time\ntime.sleep(60)\n"])
def test_time_is_limited(code: str) -> None:
    start = time.monotonic()
    assert run(code + GOOD, seconds=1.0).reason == "time limit"
    assert time.monotonic() - start < 6


@isolated
def test_nothing_outside_can_be_seen_or_reached(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"""
import os, socket
def refused(job):
    try:
        job()
    except OSError:
        return True
    return False
assert refused(lambda: open({str(canary)!r}))
assert all(refused(lambda: os.listdir(place)) for place in ("/home", "/proc/1", "/etc"))
assert refused(lambda: open("/usr/lib/x", "w")) and refused(lambda: os.rename("/usr/lib", "/usr/lib2"))
assert refused(lambda: socket.create_connection(("127.0.0.1", {server.getsockname()[1]}), 0.5))
assert not any(name for name in os.environ if name not in ("PATH", "HOME", "LANG", "LC_CTYPE"))
{GOOD}"""
        assert run(code).passed
    assert canary.read_text() == "secret"


@isolated
def test_rights_cannot_be_won_back() -> None:
    code = f"""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
assert libc.mount(None, b"/usr/lib", None, 4096 | 32, None) == -1
assert libc.umount2(b"/usr/lib", 2) == -1
assert libc.unshare(0x10000000) == -1
assert libc.sethostname(b"x", 1) == -1
assert libc.chroot(b"/usr") == -1
{GOOD}"""
    assert run(code).passed


@isolated
def test_no_process_and_no_program_can_be_started() -> None:
    """One process, so that its limits are the limits of all; threads work."""
    code = f"""
import ctypes, os, subprocess, threading
def refused(job):
    try:
        job()
    except PermissionError:
        return True
    return False
libc = ctypes.CDLL(None, use_errno=True)
assert refused(os.fork)
assert refused(lambda: subprocess.run(["/bin/true"]))
assert refused(lambda: os.posix_spawn("/bin/true", ["true"], {{}}))
assert refused(lambda: os.execv("/bin/true", ["true"]))
assert libc.vfork() == -1 and libc.shmget(0, 1 << 20, 0o1600) == -1 and libc.memfd_create(b"x", 0) == -1
done = []
thread = threading.Thread(target=lambda: done.append(1))
thread.start()
thread.join()
assert done == [1]
{GOOD}"""
    assert run(code).passed


@isolated
def test_memory_is_limited_for_all_together() -> None:
    grab = "parts = [bytearray(100 << 20) for _ in range(4)]\n"
    assert not run(grab + GOOD, memory_mb=256).passed
    assert run(grab + GOOD, memory_mb=1024).passed


def test_without_namespaces_it_refuses_unless_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: "/bin/false")
    with pytest.raises(KaiyuanError, match=r"cannot be run safely here \(failed\): it takes unshare"):
        run(GOOD)
    assert run(GOOD, allow_unisolated=True).passed
    assert not run("def f(n):\n    return n\n", allow_unisolated=True).passed
    assert run("while True: pass\n", allow_unisolated=True, seconds=1.0).reason == "time limit"
    assert "limits alone" in capsys.readouterr().err


def test_tests_are_single_asserts_that_call_something() -> None:
    given = ["assert f(1) == 2", "assert f(1)==2 ", "import os", "assert True", "assert len('a') == 1", "f(1)",
             "assert (", "assert f(1); import os", "assert g(f(2)) == 3, 'why'", "assert " + "f(" * 500]  # fmt: skip
    assert usable_tests(given) == ["assert f(1) == 2", "assert g(f(2)) == 3, 'why'"]


@isolated
def test_tests_that_test_nothing_are_found() -> None:
    for tests, useless in ((["assert f(1) is None"], True), (["assert g(f(1)) == 3"], False)):
        assert run(empty_solution(tests), tests).passed is useless


def test_code_is_taken_out_of_answers() -> None:
    assert python_code("Here:\n```python\ndef f():\n    pass\n```\nand ```x```") == "def f():\n    pass\n"
    assert python_code("```js\nlet a\n```") == ""
    assert python_code("def f():\n    return 1") == "def f():\n    return 1"
    assert python_code("It cannot be done.") == ""

"""A sandbox for code that a model wrote: fresh namespaces (no network, no files of others), a filter, hard limits.

The code runs in a process of its own, ``python -I``, in an empty folder. It cannot reach the network, see the user's
files, write anywhere else, start processes, gain rights, or outlive its time. Where the kernel refuses namespaces the
sandbox refuses to work, unless the config says that limits alone are enough.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import math
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kaiyuan.errors import KaiyuanError
from kaiyuan.progress import say
from kaiyuan.synthesis.llm.config import SandboxSettings

_INSIDE = Path(__file__).with_name("sandbox_inside.py")
_MOST_CODE, _MOST_TESTS, _MOST_TEST = 100_000, 12, 2000
_PATIENCE = 60.0
"""Seconds that the proof of the sandbox may take: on a busy machine it is no less safe."""
_UNSHARE = ("--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--ipc", "--uts", "--kill-child")


@dataclass(frozen=True)
class Outcome:
    """Of one run. ``reason`` is empty if all checks passed."""

    passed: bool
    reason: str = ""


class Sandbox:
    """Runs code with checks, a few at a time. ``check_setup`` must be awaited first."""

    def __init__(self, settings: SandboxSettings) -> None:
        self.settings = settings
        self.isolated = True
        self._python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
        self._places = asyncio.Semaphore(settings.concurrency)
        self._setup: asyncio.Task[None] | None = None

    async def check_setup(self) -> None:
        """Prove that the sandbox works here; ``KaiyuanError`` if it does not and may not run unisolated."""
        if self._setup is None:
            self._setup = asyncio.create_task(self._prove())
        await asyncio.shield(self._setup)

    async def _prove(self) -> None:
        with tempfile.NamedTemporaryFile(prefix="kaiyuan-canary-") as canary:
            proof = _PROOF.replace("CANARY", json.dumps(canary.name))
            found = await self._execute(proof, "assert proof() == 1", _PATIENCE)
            if found.passed:
                return
        if not self.settings.allow_unisolated:
            raise KaiyuanError(
                f"code of models cannot be run safely here ({found.reason}): it takes unshare (util-linux), user "
                "namespaces and seccomp; allow them, or set sandbox.allow_unisolated = true at your own risk"
            )
        self.isolated = False
        say("sandbox: no namespaces here; code of models runs with limits alone (sandbox.allow_unisolated)")
        outcome = await self._execute("def proof():\n    return 1\n", "assert proof() == 1", _PATIENCE)
        if not outcome.passed:
            raise KaiyuanError(f"the sandbox does not work here, not even with limits alone: {outcome.reason}")

    async def run(self, code: str, tests: Sequence[str]) -> Outcome:
        """Whether ``code`` passes all of ``tests`` (assert statements that ``usable_tests`` let through)."""
        await self.check_setup()
        if len(code) > _MOST_CODE:
            return Outcome(False, "code too long")
        return await self._execute(code, "\n".join(tests), self.settings.seconds)

    async def _execute(self, code: str, checks: str, most_seconds: float) -> Outcome:
        async with self._places:
            folder = Path(tempfile.mkdtemp(prefix="kaiyuan-sandbox-"))
            try:
                work = folder / "work"
                (folder / "root").mkdir()
                work.mkdir()
                (work / "solution.py").write_text(code, encoding="utf-8", errors="replace")
                (work / "checks.py").write_text(checks, encoding="utf-8", errors="replace")
                shutil.copyfile(_INSIDE, work / "inside.py")
                return await self._process(folder, most_seconds)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _command(self, folder: Path, most_seconds: float) -> list[str]:
        seconds, memory = math.ceil(most_seconds) + 1, self.settings.memory_mb << 20
        unshare = shutil.which("unshare", path="/usr/bin:/bin:/usr/local/bin") if self.isolated else None
        inside = [self._python, "-I", "-S", str(_INSIDE), "build" if self.isolated else "limit", str(folder / "root"),
                  str(folder / "work"), self._python, str(seconds), str(memory)]  # fmt: skip
        return [unshare or "unshare", *_UNSHARE, *inside] if self.isolated else inside

    async def _process(self, folder: Path, most_seconds: float) -> Outcome:
        token = secrets.token_hex(16)
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command(folder, most_seconds), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL, env={"PATH": "/usr/bin:/bin"}, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return Outcome(False, f"cannot be started: {error.strerror}")
        try:
            async with asyncio.timeout(most_seconds):
                assert process.stdin is not None and process.stdout is not None
                process.stdin.write(token.encode() + b"\n")
                reply = await process.stdout.read(64)
                await process.wait()
        except TimeoutError:
            return Outcome(False, "time limit")
        except OSError:
            return Outcome(False, "failed")
        finally:
            await _end(process)
        passed = reply.strip() == token.encode() and process.returncode == 0
        return Outcome(passed, "" if passed else "failed")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the whole session of ``process``; the namespace's other processes die with its first."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


_PROOF = """
import os, socket

def proof():
    try:
        socket.create_connection(("127.0.0.1", 9), 0.2)
    except OSError as error:
        reached = error.errno not in (101, 99)
    else:
        reached = True
    hidden = not os.path.exists(CANARY) and not os.path.exists("/proc/1")
    for start in (os.fork, lambda: os.execv("/bin/true", ["true"])):
        try:
            start()
        except PermissionError:
            continue
        return 0
    try:
        open("/usr/lib/kaiyuan-proof", "w")
    except OSError:
        return int(hidden and not reached and os.getpid() < 10)
    return 0
"""


def usable_tests(tests: Sequence[str]) -> list[str]:
    """Those that are one assert statement which calls something; nothing is run to find out."""
    found = []
    for test in tests[:_MOST_TESTS]:
        with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
            body = ast.parse(test.strip()[:_MOST_TEST]).body
            if len(body) == 1 and isinstance(body[0], ast.Assert) and _calls(body[0]):
                found.append(ast.unparse(body[0]))
    return list(dict.fromkeys(found))


def _calls(test: ast.Assert) -> set[str]:
    """Names of what a test calls, apart from Python's own."""
    import builtins

    calls = (node.func for node in ast.walk(test) if isinstance(node, ast.Call))
    return {function.id for function in calls if isinstance(function, ast.Name) and not hasattr(builtins, function.id)}


def empty_solution(tests: Sequence[str]) -> str:
    """Code that defines what the tests call and does nothing: tests that it passes test nothing."""
    asserts = [node for test in tests for node in ast.parse(test).body if isinstance(node, ast.Assert)]
    names = set().union(*map(_calls, asserts))
    return "\n".join(f"def {name}(*words, **options):\n    return None\n" for name in sorted(names))


def python_code(text: str) -> str:
    """The code of an answer: its longest Python block, or all of it if it is plainly code; else empty."""
    blocks = [part.partition("\n") for part in text.split("```")[1::2]]
    code = [body for head, _, body in blocks if head.strip().lower() in ("", "python", "py", "python3")]
    if code:
        return max(code, key=len)
    try:
        tree = ast.parse(text[:_MOST_CODE])
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    return text if any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree.body) else ""

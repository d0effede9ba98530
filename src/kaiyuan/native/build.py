"""Libraries of C++ built by this machine's compiler for this machine's processor, kept under a name that tells of both.

``KAIYUAN_NATIVE=0`` does without them; ``CXX`` names another compiler; ``KAIYUAN_CACHE`` another place to keep them.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

_SHARED = Path(__file__).parent / "source"
_FLAGS = [
    "-O3", "-std=c++17", "-fPIC", "-shared", "-fno-math-errno", "-ffp-contract=fast", "-Wno-psabi", f"-I{_SHARED}",
    *(["-mprefer-vector-width=512"] if platform.machine() in ("x86_64", "AMD64") else []),
]  # fmt: skip
_SECONDS = 300


class Unavailable(Exception):
    """There is no library on this machine; the message says why."""


def build(source: Path, flags: tuple[str, ...] = ("-march=native",), openmp: bool = False) -> ctypes.CDLL:
    """The loaded library of ``source``, a .cpp file that may include its neighbours. Raises ``Unavailable``."""
    if os.environ.get("KAIYUAN_NATIVE", "1") == "0":
        raise Unavailable("KAIYUAN_NATIVE is 0")
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
    if compiler is None:
        raise Unavailable("there is no C++ compiler (g++ or clang++)")
    command = [compiler, *_FLAGS, *flags]
    path = _folder() / f"{source.stem}-{_key(command, source)}.so"
    if not path.exists():
        _compile(command, source, path, openmp)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(f"{path} cannot be loaded: {error}") from None


def _folder() -> Path:
    root = (
        os.environ.get("KAIYUAN_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kaiyuan"
    )
    folder = Path(root) / "native"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"{folder} cannot be made: {error.strerror}") from None
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        raise Unavailable(f"{folder} belongs to someone else")
    return folder


def _key(command: list[str], source: Path) -> str:
    """Of everything that decides what the compiler makes: the home folder may be one of many machines."""
    digest = hashlib.sha256()
    for file in (*sorted(source.parent.iterdir()), *sorted(_SHARED.iterdir())):
        digest.update(file.read_bytes())
    try:
        version = subprocess.run([command[0], "--version"], capture_output=True, check=False, timeout=_SECONDS).stdout
    except OSError as error:
        raise Unavailable(f"{command[0]} cannot be run: {error.strerror}") from None
    digest.update(repr((version, command, platform.machine(), _processor())).encode())
    return digest.hexdigest()[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))


def _compile(command: list[str], source: Path, path: Path, openmp: bool) -> None:
    """Under another name first: two processes may build at once, and one may be killed."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        for threads in [["-fopenmp"], []] if openmp else [[]]:  # a compiler without it makes a library of one thread
            done = subprocess.run(
                [*command, *threads, str(source), "-o", str(made)],
                capture_output=True, text=True, check=False, timeout=_SECONDS,
            )  # fmt: skip
            if done.returncode == 0:
                made.replace(path)
                return
    last = done.stderr.strip().splitlines()
    raise Unavailable(f"{command[0]} cannot build it: {last[-1] if last else 'no message'}")

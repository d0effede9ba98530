"""The inside of the sandbox: a script of its own that shuts itself in, then becomes the interpreter that runs the code.

    sandbox_inside.py build ROOT WORK PYTHON SECONDS MEMORY      as root of fresh namespaces: file system, limits, exec
    sandbox_inside.py limit - WORK PYTHON SECONDS MEMORY         limits alone, exec
    sandbox_inside.py run [unfiltered]    run solution.py, then checks.py, then print the token; whether it must filter

The file system that the code sees holds the Python of the machine and the system's libraries, read-only, and an empty
working folder in memory: no home, no keys, no network, no other process. Capabilities are given up before the code
starts. A filter of system calls (seccomp) lets it start threads but no processes and no programs: limits on memory hold
for one process, and the number of processes is not limited for root. The token is read before and printed after the
checks, so leaving early is not success.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import resource
import struct
import sys
from pathlib import Path

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 8, 32, 4096
_MS_REC, _MS_PRIVATE = 16384, 1 << 18
_PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 22, 24, 38, 47
_SYSTEM = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/bin", "/usr/bin")
_FILE_BYTES, _TMPFS = 16 << 20, "size=32m,nr_inodes=4096,mode=0755"

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3, _CLONE_THREAD = 435, 0x10000
_REFUSED = {
    # fork, vfork, execve, execveat, ptrace, process_vm_writev; shmget, semget, msgget, mq_open, memfd_create (memory
    # that outlives its mapping); mount, umount2, unshare, setns, bpf, perf_event_open, userfaultfd, io_uring_setup,
    # add_key, request_key, keyctl, kexec_load (the kernel's larger surfaces)
    "x86_64": (
        57,
        58,
        59,
        322,
        101,
        311,
        29,
        64,
        68,
        240,
        319,
        165,
        166,
        272,
        308,
        321,
        298,
        323,
        425,
        248,
        249,
        250,
        246,
    ),
    "aarch64": (221, 281, 117, 271, 194, 190, 186, 180, 279, 40, 39, 97, 268, 280, 241, 282, 425, 217, 218, 219, 104),
}


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    arguments = [None if text is None else text.encode() for text in (source, target, kind)]
    if _libc().mount(*arguments, flags, None if options is None else options.encode()) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"mount {target}: {os.strerror(error)}")


def _bind_read_only(path: Path, target: Path) -> None:
    """``path`` at ``target``, with the restrictions it has and read-only."""
    target.mkdir(parents=True, exist_ok=True)
    _mount(str(path), str(target), None, _MS_BIND)
    kept = os.statvfs(target).f_flag & (_MS_NOSUID | _MS_NODEV | _MS_NOEXEC | 1024 | 2048 | 4096)
    times = {1024: 1 << 10, 2048: 1 << 11, 4096: 1 << 21}  # noatime, nodiratime, relatime: statvfs and mount differ
    flags = (kept & 14) | sum(flag for bit, flag in times.items() if kept & bit)
    _mount(None, str(target), None, _MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | flags)


def build(root: Path, work: Path, python: Path) -> None:
    """Make the file system under ``root`` and move into it; ``work``'s files are copied into its /work."""
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", str(root), "tmpfs", _MS_NOSUID | _MS_NODEV, _TMPFS)
    for name in ("work", "dev", "tmp"):
        (root / name).mkdir()
    for file in work.iterdir():
        (root / "work" / file.name).write_bytes(file.read_bytes())
    prefix = python.resolve().parent.parent
    for path in dict.fromkeys((*map(Path, _SYSTEM), prefix / "lib", prefix / "bin")):
        target = root / path.relative_to("/")
        if path.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path.readlink())
        elif path.is_dir():
            _bind_read_only(path, target)
    (root / "dev/null").touch()
    _mount("/dev/null", str(root / "dev/null"), None, _MS_BIND)
    os.chroot(root)
    os.chdir("/work")


def drop_capabilities() -> None:
    """Give up every capability, for good, also for programs that are started as root of the namespace."""
    libc = _libc()
    libc.prctl(_PR_CAP_AMBIENT, 4, 0, 0, 0)
    for capability in range(64):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    if libc.capset(header, (ctypes.c_uint32 * 6)()) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def filter_calls() -> None:
    """From here on no process, no program and no way around the limits; refused calls fail with EPERM."""
    libc, machine = _libc(), platform.machine()
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if machine not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no filter of system calls for {machine}")
    program = _filter(machine)
    code = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    if libc.prctl(_PR_SET_SECCOMP, 2, ctypes.create_string_buffer(head, len(head)), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def _filter(machine: str) -> bytes:
    """BPF over (call, architecture, instruction, arguments): load, compare and skip, or return."""
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
    lines = [(load, 0, 0, 4), (equal, 1, 0, _ARCHITECTURES[machine]), (give, 0, 0, kill), (load, 0, 0, 0)]
    lines += [(at_least, 0, 1, 0x40000000), (give, 0, 0, refuse)]  # x32's own numbers
    for call in _REFUSED[machine]:
        lines += [(equal, 0, 1, call), (give, 0, 0, refuse)]
    lines += [(equal, 0, 1, _CLONE3), (give, 0, 0, 0x00050000 | errno.ENOSYS)]  # so that libc uses clone
    lines += [(equal, 0, 3, _CLONE[machine]), (load, 0, 0, 16), (any_bit, 1, 0, _CLONE_THREAD), (give, 0, 0, refuse)]
    lines += [(give, 0, 0, allow)]
    return b"".join(struct.pack("@HBBI", *line) for line in lines)


def limit(seconds: int, memory: int) -> None:
    for what, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_FSIZE, _FILE_BYTES),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 64),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with contextlib.suppress(ValueError):
            resource.setrlimit(what, (most, most))


def run() -> None:
    """Run the solution, then the checks with what it defined; print the token if both came to their end."""
    import runpy

    token = sys.stdin.readline()
    report = os.dup(1)
    sink = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(sink, descriptor)
    sys.setrecursionlimit(5000)
    with contextlib.suppress(OSError) if sys.argv[2:] == ["unfiltered"] else contextlib.nullcontext():
        filter_calls()
    found = runpy.run_path("solution.py", run_name="solution")
    runpy.run_path("checks.py", init_globals=found, run_name="checks")
    os.write(report, token.encode())


def main() -> None:
    mode = sys.argv[1]
    if mode == "run":
        run()
        return
    root, work, python, seconds, memory = sys.argv[2:7]
    os.closerange(3, 256)
    if mode == "build":
        build(Path(root), Path(work), Path(python))
        drop_capabilities()
    else:
        os.chdir(work)
    limit(int(seconds), int(memory))
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/work", "LANG": "C.UTF-8"}
    more = ["unfiltered"] if mode == "limit" else []
    os.execve(python, [python, "-I", "-S", "-B", "inside.py", "run", *more], environment)


if __name__ == "__main__":
    main()

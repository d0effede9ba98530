"""Memory that long prompts leave behind. Tokenizing 250 KB takes 15 MiB for a moment; any client may send such prompts
at will, and glibc, left alone, keeps the most that ever was in use at a time in each of many heaps.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

_M_ARENA_MAX, _ARENAS = -8, 2


def share_heap() -> None:
    """Tell glibc to use two heaps for all threads, not one for each thread that reads prompts."""
    if (libc := _glibc()) is not None:
        libc.mallopt(_M_ARENA_MAX, _ARENAS)


def give_back() -> None:
    """Return the heaps' free pages to the system, those between pages in use too."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


@cache
def _glibc() -> Any:
    """None where the C library is another one."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt, libc.malloc_trim  # noqa: B018 - AttributeError if there are none
    except (OSError, AttributeError):
        return None
    return libc

"""The files of a source, in sorted order, each with the format to read it in."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kaiyuan.corpus.sources.detect import SHOWN, by_content, by_name, is_project
from kaiyuan.corpus.sources.skipping import vendored
from kaiyuan.corpus.sources.spec import Format, Source, problem
from kaiyuan.errors import DataError

_GLOB = re.compile(r"[*?\[]")
_REMOTE = re.compile(r"(?!hf:)[a-z][a-z0-9+.-]+://", re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """A file of a source, or a range of one: bytes of JSON lines, row groups of Parquet, shards of a dataset."""

    path: Path
    name: str
    """Relative to the root of its source, with ``/``."""
    size: int = 0
    start: int = 0
    stop: int | None = None
    skip: str = ""
    """Why it is not to be read."""


Found = tuple[Part, Format]


def find(source: Source) -> Iterator[Found]:
    """Every file of ``source``, sorted by name; a ``DataError`` in one line if there is nothing to read."""
    if _REMOTE.match(source.path):
        raise problem(source, "nothing is fetched over the network: download it, then give the file or folder")
    path = Path(source.path).expanduser()
    if path.is_dir():
        yield from _some(_folder(path, source), source, path)
    elif path.exists():
        yield _file(path, path.name, source)
    elif _GLOB.search(source.path):
        yield from _some(_globbed(str(path), source), source, path)
    else:
        raise DataError(f"{path}: no such file or folder")


def _some(found: Iterator[Found], source: Source, path: Path) -> Iterator[Found]:
    first = next(found, None)
    if first is None:
        what = "matches this pattern" if _GLOB.search(str(path)) and not path.exists() else "in this folder can be read"
        raise DataError(f"{path}: no file {what} (known: {SHOWN})")
    yield first
    yield from found


def _file(path: Path, name: str, source: Source) -> Found:
    try:
        size = path.stat().st_size
        found = source.format if source.format != "auto" else by_name(path.name) or by_content(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if found is None:
        raise DataError(f"{path}: cannot tell what this is; state its format (known: {SHOWN})")
    return Part(path, name, size), found


def _globbed(pattern: str, source: Source) -> Iterator[Found]:
    """Matches, named relative to the longest folder that has no wildcard in it; hidden ones are left out."""
    fixed = _GLOB.split(pattern)[0].rpartition("/")[0] or ("/" if pattern.startswith("/") else ".")
    root = Path(fixed)
    for path in sorted(root.glob(pattern.removeprefix(fixed).lstrip("/"))):
        name = path.relative_to(root).as_posix()
        if path.is_file() and not any(part.startswith(".") for part in name.split("/")):
            yield _file(path, name, source) if _stays(path, root, source) else (_refused(path, name), "text")


def _folder(root: Path, source: Source) -> Iterator[Found]:
    if source.format == "code" or (source.format == "auto" and is_project(root)):
        for part in _walk(root, source, code=True):
            yield part, "code"
        return
    for part in _walk(root, source):
        found = by_name(part.name)
        # What a name does not tell is looked into only for a stated format: a folder may hold anything beside texts.
        if found is None and source.format != "auto" and not part.skip:
            found = by_content(part.path)
        if found is not None and source.format in ("auto", found):
            yield part, found


def _walk(root: Path, source: Source, code: bool = False) -> Iterator[Part]:
    """Files below ``root`` in the order of their names, hidden ones left out, links that lead out of it refused."""
    paths: list[tuple[str, Path, str]] = []
    for folder, subfolders, files in os.walk(root, followlinks=False):
        below = Path(folder).relative_to(root).as_posix()
        prefix = "" if below == "." else below + "/"
        for name in [name for name in subfolders if code and vendored(name) and not name.startswith(".")]:
            paths.append((prefix + name, Path(folder) / name, "vendored"))
            subfolders.remove(name)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        paths += [(prefix + name, Path(folder) / name, "") for name in files if not name.startswith(".")]
    for name, path, skip in sorted(paths, key=lambda item: item[0].split("/")):
        if skip:
            yield Part(path, name, skip=skip)
        elif not _stays(path, root, source):
            yield _refused(path, name)
        elif path.is_file():
            yield Part(path, name, path.stat().st_size)


def _stays(path: Path, root: Path, source: Source) -> bool:
    """Whether a path leads to where it says: links that leave the tree could bring in any file of this machine."""
    return source.follow_links or not path.is_symlink() or path.resolve().is_relative_to(root.resolve())


def _refused(path: Path, name: str) -> Part:
    return Part(path, name, skip="link: leads out of the folder; follow_links = true allows it")

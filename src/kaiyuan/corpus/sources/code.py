"""Code repositories, as folders or archives: language, licence, and only what somebody has written by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path

from kaiyuan.corpus.sources.archives import Refused, members
from kaiyuan.corpus.sources.detect import ARCHIVES
from kaiyuan.corpus.sources.document import Item
from kaiyuan.corpus.sources.licences import licence_in, nearest, spdx_of, states_licence
from kaiyuan.corpus.sources.parts import Part
from kaiyuan.corpus.sources.programming import language_of
from kaiyuan.corpus.sources.skipping import binary, generated_name, unwanted, vendored_path
from kaiyuan.corpus.sources.spec import Source

_LARGEST_LICENCE = 200_000


def read(part: Part, source: Source) -> Iterator[Item]:
    """The file that ``part`` is, or every file of an archive. Label ``code``, ``extra.programming_language``."""
    if part.name.lower().endswith(ARCHIVES):
        yield from _archive(part, source)
        return
    if part.size > source.largest:
        yield source.skip(part.name, "too large", f"{part.size:,} bytes, at most {source.largest:,}")
        return
    root = part.path.parents[part.name.count("/")]
    yield _item(part.name, part.path.read_bytes(), part.name, source, partial(_licence_above, part.path.parent, root))


def _archive(part: Part, source: Source) -> Iterator[Item]:
    """Two passes: a licence may come after the files that are under it."""
    try:
        licences = {
            member.name.rpartition("/")[0]: found
            for member in members(part.path)
            if not member.refusal and member.size <= _LARGEST_LICENCE and states_licence(member.name)
            for found in [licence_in(member.name, member.read().decode("utf-8", "replace"))]
            if found
        }
        for member in members(part.path):
            place = f"{part.name}!{member.name}"
            if member.refusal:
                yield source.dead(place, "refused", member.refusal)
            elif member.size > source.largest:
                yield source.skip(place, "too large", f"{member.size:,} bytes, at most {source.largest:,}")
            elif vendored_path(member.name):
                yield source.skip(place, "vendored")
            else:
                licence = partial(nearest, member.name, licences)
                yield _item(member.name, member.read(), place, source, licence)
    except Refused as error:
        yield source.dead(part.name, *error.args)


def _item(name: str, data: bytes, place: str, source: Source, licence: Callable[[], str]) -> Item:
    if generated_name(name):
        return source.skip(place, "generated")
    if binary(data):
        return source.skip(place, "binary")
    if not data.strip():
        return source.skip(place, "empty")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return source.dead(place, "not UTF-8", f"{error.reason} at byte {error.start}", data)
    if reason := unwanted(name, text):
        return source.skip(place, reason)
    language = language_of(name, text)
    if not language:
        return source.skip(place, "unknown language")
    found = spdx_of(text) or licence()
    extra = {"programming_language": language}
    return source.document(text, place, language="code", title=name, licence=found, extra=extra)


def _licence_above(folder: Path, root: Path) -> str:
    """The licence of the nearest folder from ``folder`` up to ``root`` that states one."""
    while True:
        if (found := _licence_of(folder)) or folder == root:
            return found
        folder = folder.parent


@lru_cache(maxsize=4096)
def _licence_of(folder: Path) -> str:
    """Licence files before manifests."""
    stated = [path for path in sorted(folder.iterdir()) if path.is_file() and states_licence(path.name)]
    for path in sorted(stated, key=lambda path: path.suffix in (".json", ".toml")):
        if path.stat().st_size <= _LARGEST_LICENCE and not path.is_symlink():
            found = licence_in(path.name, path.read_text(encoding="utf-8", errors="replace"))
            if found:
                return found
    return ""

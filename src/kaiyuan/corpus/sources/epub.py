"""EPUB books: the pages of the spine in their order, one document a book."""

from __future__ import annotations

import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from urllib.parse import unquote
from xml.etree import ElementTree

from kaiyuan.corpus.sources.archives import Refused, budget_of
from kaiyuan.corpus.sources.document import Item
from kaiyuan.corpus.sources.html import decode, extract
from kaiyuan.corpus.sources.parts import Part
from kaiyuan.corpus.sources.spec import Source

_CONTAINER, _ENCRYPTION = "META-INF/container.xml", "META-INF/encryption.xml"
_FONTS = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")
_DUBLIN = "{http://purl.org/dc/elements/1.1/}"


def read(part: Part, source: Source) -> Iterator[Item]:
    if part.size > source.largest:
        yield source.dead(part.name, "too large", f"{part.size:,} bytes, at most {source.largest:,}")
        return
    try:
        with zipfile.ZipFile(part.path) as archive:
            yield _Book(archive, part.size, source).document(part.name)
    except Refused as error:
        yield source.dead(part.name, *error.args)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        yield source.dead(part.name, "damaged file", f"not an EPUB: {error}")


class _Book:
    """The parts of one open book."""

    def __init__(self, archive: zipfile.ZipFile, packed: int, source: Source) -> None:
        self.archive, self.source = archive, source
        total = sum(entry.file_size for entry in archive.infolist())
        if total > budget_of(packed):
            raise Refused("archive bomb", f"{total:,} bytes when unpacked")
        if _ENCRYPTION in archive.NameToInfo and self._protected():
            raise Refused("encrypted", "protected against copying")

    def document(self, place: str) -> Item:
        package_name = self._package_name()
        package = self._xml(package_name)
        chapters = [text for page in self._pages(package, package_name) if (text := self._text(page))]
        if not chapters:
            raise Refused("no text", "no page of this book holds text")
        values = {name: self._stated(package, tag) for name, tag in
                  (("title", "title"), ("date", "date"), ("licence", "rights"))}  # fmt: skip
        language = self.source.language
        if language == "und":
            language = self._stated(package, "language").split("-")[0].lower() or "und"
        author = self._stated(package, "creator")
        extra = {"author": author} if author else {}
        return self.source.document("\n\n".join(chapters), place, language=language, extra=extra, **values)

    def _protected(self) -> bool:
        """Whether more than fonts is encrypted."""
        methods = (item for item in self._xml(_ENCRYPTION).iter() if item.tag.endswith("}EncryptionMethod"))
        return any(method.get("Algorithm") not in _FONTS for method in methods)

    def _package_name(self) -> str:
        for item in self._xml(_CONTAINER).iter():
            if item.tag.endswith("}rootfile") and item.get("full-path"):
                return str(item.get("full-path"))
        raise Refused("damaged file", "its container names no package")

    def _pages(self, package: ElementTree.Element, package_name: str) -> Iterator[str]:
        folder = posixpath.dirname(package_name)
        items = [item for item in package.iter() if item.tag.endswith("}item")]
        names = {item.get("id"): item.get("href", "") for item in items if "nav" not in item.get("properties", "")}
        for item in package.iter():
            if item.tag.endswith("}itemref") and names.get(item.get("idref")):
                yield posixpath.normpath(posixpath.join(folder, unquote(names[item.get("idref")]).split("#")[0]))

    def _text(self, name: str) -> str:
        try:
            page = extract(decode(self._bytes(name), None)[0], self.source.model_copy(update={"main_content": False}))
        except UnicodeDecodeError:
            raise Refused("unknown encoding", name) from None
        return page.text if page else ""

    def _stated(self, package: ElementTree.Element, tag: str) -> str:
        found = package.find(f".//{_DUBLIN}{tag}")
        return " ".join((found.text or "").split()) if found is not None else ""

    def _bytes(self, name: str) -> bytes:
        if name not in self.archive.NameToInfo:
            raise Refused("damaged file", f"{name} is missing")
        if self.archive.NameToInfo[name].file_size > self.source.largest:
            raise Refused("too large", f"{name}: more than {self.source.largest:,} bytes")
        return self.archive.read(name)

    def _xml(self, name: str) -> ElementTree.Element:
        data = self._bytes(name)
        # Entities are how XML blows up; no book needs its own.
        if b"<!ENTITY" in data:
            raise Refused("refused", f"{name} defines entities")
        try:
            return ElementTree.fromstring(data)
        except ElementTree.ParseError as error:
            raise Refused("damaged file", f"{name}: {error}") from None

"""EPUB and PDF: books made on the spot, whole, broken and hostile."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from reading import read, reasons

from kaiyuan.corpus.sources import archives

CONTAINER = (
    '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
)
PACKAGE = (
    '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>'
    "<dc:title>开元 a book</dc:title><dc:language>zh-CN</dc:language><dc:date>2020-02-02</dc:date>"
    "<dc:rights>CC0</dc:rights><dc:creator>Nobody</dc:creator></metadata><manifest>"
    '<item id="b" href="two%20b.xhtml"/><item id="a" href="one.xhtml"/><item id="n" href="nav.xhtml" properties="nav"/>'
    '</manifest><spine><itemref idref="n"/><itemref idref="a"/><itemref idref="b"/></spine></package>'
)
PAGES = {
    "OEBPS/one.xhtml": "<html><body><h1>第一章</h1><p>正文一。</p></body></html>",
    "OEBPS/two b.xhtml": "<html><body><p>正文二。</p></body></html>",
    "OEBPS/nav.xhtml": "<html><body>目录</body></html>",
}


def epub(path: Path, **changes: str) -> None:
    files = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": CONTAINER,
        "OEBPS/book.opf": PACKAGE,
        **PAGES,
    }
    files.update(
        {
            name.replace("__", "/").replace("_OPF", ".opf").replace("_XML", ".xml"): text
            for name, text in changes.items()
        }
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)


def test_a_book_in_the_order_of_its_spine(tmp_path: Path):
    epub(tmp_path / "book.epub")
    (document,), dead = read(tmp_path)
    assert not dead
    assert document.text == "第一章\n\n正文一。\n\n正文二。"
    assert (document.title, document.language, document.date, document.licence, document.label, document.extra) == (
        "开元 a book", "zh", "2020-02-02", "CC0", "books", {"author": "Nobody"})  # fmt: skip


BILLION = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]><container>&b;</container>'
LOCKED = (
    '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container" xmlns:enc="http://www.w3.org/2001/04/xmlenc#">'
    '<enc:EncryptedData><enc:EncryptionMethod Algorithm="http://www.w3.org/2001/04/xmlenc#aes128-cbc"/>'
    "</enc:EncryptedData></encryption>"
)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"META-INF__container_XML": BILLION}, "refused"),
        ({"META-INF__container_XML": "<container/>"}, "damaged file"),
        ({"META-INF__encryption_XML": LOCKED}, "encrypted"),
        ({"OEBPS__book_OPF": PACKAGE.replace("one.xhtml", "../../none.xhtml")}, "damaged file"),
        ({"OEBPS__book_OPF": "<package"}, "damaged file"),
        ({"OEBPS__one.xhtml": "", "OEBPS__two b.xhtml": "<p></p>"}, "no text"),
        ({"OEBPS__one.xhtml": "x" * 3_000_000}, "too large"),
    ],
)
def test_books_that_cannot_be_read_are_dead_with_their_reason(tmp_path: Path, changes: dict[str, str], kind: str):
    epub(tmp_path / "book.epub", **changes)
    assert reasons(read(tmp_path, max_bytes=1_000_000)[1]) == [("book.epub", kind)]


def test_a_book_that_is_no_archive_or_a_bomb(tmp_path: Path, monkeypatch):
    (tmp_path / "cut.epub").write_bytes(b"PK\x03\x04 nothing")
    assert reasons(read(tmp_path)[1]) == [("cut.epub", "damaged file")]
    monkeypatch.setattr(archives, "MIN_BUDGET", 1_000_000)
    epub(tmp_path / "cut.epub", OEBPS__big="x" * 5_000_000)
    assert reasons(read(tmp_path)[1]) == [("cut.epub", "archive bomb")]


def pdf(texts: list[str], title: str = "") -> bytes:
    """A minimal PDF with a page for every text."""
    kids = " ".join(f"{5 + 2 * n} 0 R" for n in range(len(texts)))
    objects = {
        1: "<< /Type /Catalog /Pages 2 0 R >>", 2: f"<< /Type /Pages /Kids [{kids}] /Count {len(texts)} >>",
        3: "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        4: f"<< /Title ({title}) /CreationDate (D:20210304050607Z) /Author (Nobody) >>",
    }  # fmt: skip
    for n, text in enumerate(texts):
        stream = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET"
        objects[5 + 2 * n] = (
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> "
            f"/Contents {6 + 2 * n} 0 R >>"
        )
        objects[6 + 2 * n] = f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream"
    data, offsets = b"%PDF-1.4\n", []
    for number, body in sorted(objects.items()):
        offsets.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n".encode()
    start = len(data)
    data += f"xref\n0 {len(offsets) + 1}\n0000000000 65535 f \n".encode()
    data += b"".join(f"{offset:010d} 00000 n \n".encode() for offset in offsets)
    return (
        data + f"trailer\n<< /Size {len(offsets) + 1} /Root 1 0 R /Info 4 0 R >>\nstartxref\n{start}\n%%EOF\n".encode()
    )


def test_pdf_page_by_page_with_title_and_date(tmp_path: Path):
    (tmp_path / "a.pdf").write_bytes(pdf(["Page one", "Page two"], "A paper"))
    (document,), dead = read(tmp_path)
    assert (document.text, document.title, document.date, document.label, document.extra, dead) == (
        "Page one\n\nPage two", "A paper", "2021-03-04", "books", {"author": "Nobody"}, [])  # fmt: skip


def test_pdf_without_text_damaged_or_locked(tmp_path: Path):
    from pypdf import PdfReader, PdfWriter

    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4 nothing")
    (tmp_path / "b.pdf").write_bytes(pdf([""]))
    (tmp_path / "c.pdf").write_bytes(pdf(["x"]))
    writer = PdfWriter(clone_from=PdfReader(tmp_path / "c.pdf"))
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(tmp_path / "c.pdf")
    assert reasons(read(tmp_path)[1]) == [("a.pdf", "damaged file"), ("b.pdf", "no text"), ("c.pdf", "encrypted")]
    assert reasons(read(tmp_path / "c.pdf", max_bytes=10)[1]) == [("c.pdf", "too large")]

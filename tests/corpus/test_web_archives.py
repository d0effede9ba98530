"""WARC and WET: pages to text, and every way in which an archive can be broken."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import pytest
import zstandard
from reading import read, reasons

from kaiyuan.corpus.sources import Source
from kaiyuan.corpus.sources.html import decode, document_of

PARAGRAPH = "This is the main text of page {0}, long enough for anyone to take it for the content. " * 3
PAGE = (
    "<!DOCTYPE html><html lang='en-GB'><head><title> Page\n {0} &amp; more</title></head><body>"
    "<nav><a href='/'>Home</a>"
    "</nav><article><h1>Heading {0}</h1><p>" + PARAGRAPH + "</p></article><footer>Imprint</footer></body></html>"
)


def record(number: int, body: bytes, kind: str = "response", http: str = "text/html; charset=utf-8", extra: str = "",
           status: str = "200 OK") -> bytes:  # fmt: skip
    if kind == "response":
        body = f"HTTP/1.1 {status}\r\nContent-Type: {http}\r\n{extra}\r\n".encode() + body
    media = "application/http; msgtype=response" if kind == "response" else "text/plain"
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://site/{number}\r\nWARC-Date: 2024-05-01T00:00:00Z\r\n"
        f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-{number:012d}>\r\nContent-Type: {media}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body + b"\r\n\r\n"


def page(number: int) -> bytes:
    return record(number, PAGE.format(number).encode())


def numbers(documents: list) -> list[int]:
    return [int(document.url.rsplit("/", 1)[1]) for document in documents]


PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


@pytest.mark.parametrize("ending", PACK)
def test_pages_become_text_with_title_language_url_and_date(tmp_path: Path, ending: str):
    info = record(9, b"software: x", "warcinfo")
    (tmp_path / f"a.warc{ending}").write_bytes(b"".join(PACK[ending](part) for part in (info, page(0), page(1))))
    documents, dead = read(tmp_path)
    assert not dead
    first = documents[0]
    assert (first.title, first.language, first.url, first.date) == (
        "Page 0 & more",
        "en",
        "http://site/0",
        "2024-05-01T00:00:00Z",
    )
    assert first.text == f"Heading 0\n\n{PARAGRAPH.format(0).strip()}"
    assert first.place == f"a.warc{ending}@{len(PACK[ending](info))}"
    assert read(tmp_path, language="de")[0][0].language == "de"
    assert "Home" in read(tmp_path, main_content=False)[0][0].text


def test_trafilatura_reads_the_same_page(tmp_path: Path):
    pytest.importorskip("trafilatura")
    (tmp_path / "a.warc").write_bytes(page(0))
    (document,), _ = read(tmp_path, extractor="trafilatura")
    assert (document.title, document.language) == ("Page 0 & more", "en")
    assert PARAGRAPH.format(0).strip() in document.text
    assert "Imprint" not in document.text


def test_texts_of_wet_files(tmp_path: Path):
    (tmp_path / "a.warc.wet.gz").write_bytes(gzip.compress(record(4, "正文".encode(), "conversion")))
    (document,), dead = read(tmp_path)
    assert (document.text, document.url, dead) == ("正文", "http://site/4", [])


def test_what_is_no_page_is_left_out_and_counted(tmp_path: Path):
    (tmp_path / "a.warc").write_bytes(
        record(0, b"\x89PNG", http="image/png") + record(1, b"gone", status="404 Not Found") + page(2)
        + record(3, b"<html><body><script>x()</script></body></html>") + record(4, b"plain", http="text/plain")
    )  # fmt: skip
    documents, dead = read(tmp_path)
    assert numbers(documents) == [2, 4]
    assert [(item.kind, item.skipped) for item in dead] == [
        ("no text", True), ("no page", True), ("page without text", False)]  # fmt: skip


@pytest.mark.parametrize("damage", range(6))
def test_a_damaged_member_costs_that_member(tmp_path: Path, damage: int):
    members = [gzip.compress(page(number)) for number in range(6)]
    hurt = bytearray(members[damage])
    hurt[len(hurt) // 2 : len(hurt) // 2 + 8] = bytes(byte ^ 0xFF for byte in hurt[len(hurt) // 2 : len(hurt) // 2 + 8])
    (tmp_path / "a.warc.gz").write_bytes(b"".join([*members[:damage], bytes(hurt), *members[damage + 1 :]]))
    documents, dead = read(tmp_path)
    found = numbers(documents)
    assert [number for number in range(6) if number != damage] == [number for number in found if number != damage]
    assert dead
    assert {item.kind for item in dead} == {"damaged record"}


def test_places_hold_behind_damage_and_further_damage_costs_no_more(tmp_path: Path):
    members = [gzip.compress(page(number)) for number in range(12)]
    for number in (2, 7):
        middle = len(members[number]) // 2
        members[number] = members[number][:middle] + b"\xff" * 8 + members[number][middle + 8 :]
    (tmp_path / "a.warc.gz").write_bytes(b"".join(members))
    documents, dead = read(tmp_path)
    assert [number for number in range(12) if number not in (2, 7)] == [
        n for n in numbers(documents) if n not in (2, 7)
    ]
    starts = [sum(map(len, members[:number])) for number in range(12)]
    places = {int(item.place.partition("@")[2]) for item in documents}
    assert places >= {start for number, start in enumerate(starts) if number not in (2, 7)} and places <= set(starts)
    assert len(dead) == 2


@pytest.mark.parametrize("cut", [1, 20, 100, 250])
@pytest.mark.parametrize("packed", [True, False])
def test_an_archive_that_was_cut_off_gives_what_comes_before(tmp_path: Path, cut: int, packed: bool):
    pack = gzip.compress if packed else bytes
    whole = [pack(page(number)) for number in range(3)]
    (tmp_path / f"a.warc{'.gz' if packed else ''}").write_bytes(b"".join(whole)[:-cut])
    documents, dead = read(tmp_path)
    assert numbers(documents)[:2] == [0, 1]
    # What is cut off may be no more than the checksum or the empty lines behind the last record.
    assert len(documents) + len(dead) == 3 or (cut < 20 and len(documents) == 3)
    assert all(item.kind == "damaged record" for item in dead)


def test_garbage_between_records(tmp_path: Path):
    (tmp_path / "a.warc").write_bytes(page(0) + b"garbage\r\n\r\n" + page(1))
    (tmp_path / "b.warc.gz").write_bytes(
        gzip.compress(page(0)) + gzip.compress(b"garbage\r\n\r\n") + gzip.compress(page(1))
    )
    (tmp_path / "c.warc.gz").write_bytes(b"\x1f\x8b\x08" + b"garbage" * 100)
    documents, dead = read(tmp_path)
    assert numbers(documents) == [0, 1, 0, 1]
    assert {item.place.split("@")[0] for item in dead} == {"a.warc", "b.warc.gz", "c.warc.gz"}


def test_sizes_are_checked_before_and_while_unpacking(tmp_path: Path):
    bomb = gzip.compress(b"<p>" + b"a" * 50_000_000)
    (tmp_path / "a.warc").write_bytes(
        record(0, b"<p>" + b"x" * 200_000) + record(1, bomb, extra="Content-Encoding: gzip\r\n") + page(2)
    )
    documents, dead = read(tmp_path, max_bytes=100_000)
    assert numbers(documents) == [2]
    assert [item.kind for item in dead] == ["too large", "too large"]


def test_packed_bodies_are_unpacked(tmp_path: Path):
    body = gzip.compress(PAGE.format(0).encode())
    chunked = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    (tmp_path / "a.warc").write_bytes(
        record(0, body, extra="Content-Encoding: gzip\r\n")
        + record(1, chunked, extra="Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n")
    )
    documents, dead = read(tmp_path)
    assert [PARAGRAPH.format(0).strip() in document.text for document in documents] == [True, True]
    assert not dead


CHINESE = "开元是一个完整的系统，用来训练和运行语言模型。它的正文足够长，可以被认作正文。" * 3
ENCODINGS = [
    ("gb18030", None, "<meta charset=gb2312>"), ("gb18030", "gbk", ""), ("gb18030", None, ""), ("big5", "big5", ""),
    ("gb18030", "iso-8859-1", "<meta http-equiv=Content-Type content='text/html; charset=gb2312'>"),
    ("utf-8", "gbk", ""),
    ("utf-16", None, ""), ("utf-8", "iso-8859-1", ""), ("gb18030", "no-such-charset", ""),
]  # fmt: skip


@pytest.mark.parametrize(("encoding", "stated", "meta"), ENCODINGS)
def test_encodings_stated_wrong_or_not_at_all(encoding: str, stated: str | None, meta: str):
    text = CHINESE if encoding != "big5" else "這是一個完整的系統，用來訓練和運行語言模型。" * 5
    html = f"<html><head>{meta}<title>标题</title></head><body><p>{text}</p></body></html>".replace(
        "标题", "標題" if encoding == "big5" else "标题"
    )
    assert text in decode(html.encode(encoding), stated)[0]


def test_western_pages_and_bytes_that_are_no_text():
    assert decode("naïve café — “quoted”".encode("cp1252"), "iso-8859-1")[0] == "naïve café — “quoted”"
    source = Source(path="x", name="x", format="html")
    item = document_of(bytes(range(256)) * 50, None, "p", source)
    assert not hasattr(item, "text") or "\ufffd" not in item.text  # type: ignore[union-attr]


@pytest.mark.parametrize("tag", ["<div>", "<div></x>", "<b x={}>", "<B\nx={}>", "<table><tr><td>", "<ul><li>"])
def test_pages_nested_without_end_are_refused(tmp_path: Path, tag: str):
    (tmp_path / "deep.html").write_text("".join(tag.format(n) for n in range(100_000)) + "text")
    documents, dead = read(tmp_path / "deep.html")
    assert reasons(dead) == [("deep.html", "nested too deep")]
    assert not documents


def test_formatting_that_would_be_opened_again_and_again_is_refused(tmp_path: Path):
    """Each paragraph would hold all the fonts: 500 x 100,000 elements from a page of a megabyte."""
    fonts = "".join(f"<font color={n}>" for n in range(500))
    (tmp_path / "deep.html").write_text(fonts + "<p>text</p>" * 100_000)
    assert reasons(read(tmp_path / "deep.html")[1]) == [("deep.html", "nested too deep")]


def test_sloppy_formatting_is_read(tmp_path: Path):
    """What closes its tags, or forgets to close the same tag in every row, is no bomb however long it is."""
    rows = "".join(f"<p><font color={n}>A row of words with a number {n}</font> and <b>more</p>" for n in range(5000))
    (tmp_path / "page.html").write_text(f"<html><body>{rows}</body></html>")
    documents, dead = read(tmp_path / "page.html")
    assert len(documents) == 1 and not dead


def test_without_resiliparse_one_line_says_what_to_install(tmp_path: Path, monkeypatch):
    from kaiyuan.errors import DataError

    (tmp_path / "a.warc").write_bytes(page(0))
    for module in ("fastwarc.warc", "resiliparse.parse.html"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(DataError, match="needs resiliparse: pip install"):
                read(tmp_path)

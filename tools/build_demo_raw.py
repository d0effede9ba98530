"""Build the raw part of the demo corpus, ``kaiyuan/corpus/data/raw``: files of many kinds, dirty as such files are.

    python tools/build_demo_raw.py

Pages of a newspaper in a WARC file, letters as JSON lines, an archive in Parquet, notes in Markdown, a book, a project
of code. In them are menus, cookie notices, mojibake, another language, advertisements, copies and near-copies,
personal data (invented), questions that the demo is evaluated with, and records that are broken. Needs pyarrow.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from demo_raw_code import FILES
from demo_raw_texts import (
    BOOK,
    CHINESE,
    DATA,
    ENGLISH,
    GERMAN,
    LETTERS,
    NOTES,
    QUIZ,
    SPAM,
    TRADITIONAL,
)

from kaiyuan.corpus.sources import demo_documents

RAW = Path(__file__).resolve().parent.parent / "src" / "kaiyuan" / "corpus" / "data" / "raw"
SITE = "https://gazette.example"
MOJIBAKE = ' "It’s slow work," says the vat man, “but no two sheets are the same, and that’s what I like about it.”'
IN_ARCHIVE = 5
"""Articles of each language from this one on are in the Parquet file alone."""
MIRRORED = (("world-factbook", 8, 6000), ("chinese-bible", 6, 2500), ("chinese-prose", 6, 2000))

Page = tuple[str, str, str]  # path, title, text


def articles() -> dict[str, list[tuple[str, str]]]:
    return {"en": list(ENGLISH.items()), "zh": list(CHINESE.items())}


def mirrored(rng: random.Random) -> Iterator[Page]:
    """Copies of documents of the demo corpus with a word in a hundred missing, or a character in two hundred."""
    for source, count, longest in MIRRORED:
        found = [
            document
            for document in demo_documents()
            if document.source == source and longest / 3 < len(document.text) <= longest
        ]
        for number, document in enumerate(rng.sample(found, count)):
            chinese = document.language == "zh"
            units = list(document.text) if chinese else document.text.split(" ")
            kept = [unit for unit in units if unit.strip("\n") != unit or rng.random() > (0.005 if chinese else 0.01)]
            yield f"mirror/{source}/{number}", document.title, ("" if chinese else " ").join(kept)


def pages(rng: random.Random) -> Iterator[Page]:
    for language, found in articles().items():
        for number, (title, text) in enumerate(found[:IN_ARCHIVE]):
            if title.startswith("A sheet of paper"):
                text = (text + MOJIBAKE).encode().decode("cp1252", "replace")
            yield f"{language}/{number}", title, text
    yield (
        "en/0?utm_source=mail",
        "The wheel turns again",
        ENGLISH["The wheel turns again"] + "\n\nPrinted page.",
    )
    yield "zh/tw", "讀書會", TRADITIONAL
    yield "de/0", "Das Mühlrad", GERMAN
    yield from mirrored(rng)
    for language in ("en", "zh"):
        yield f"{language}/offer", "!!!", SPAM[language]
        yield f"{language}/quiz", "Quiz", QUIZ[language]


def html(path: str, title: str, text: str) -> str:
    """A page as sites make them: what it says is the smaller part of it."""
    chinese = any("\u4e00" <= letter <= "\u9fff" for letter in title)
    menu = (
        ("首页", "新闻", "天气", "来信", "关于我们") if chinese else ("Home", "News", "Weather", "Letters", "About us")
    )
    notice = "本站使用cookies，继续浏览即表示同意隐私政策。" if chinese else "We use cookies. Accept all cookies"
    share, onward = ("分享到朋友圈", "下一页") if chinese else ("Share on social media", "Next page")
    links = "".join(f'<li><a href="/{name}">{name}</a></li>' for name in menu)
    body = "".join(f"<p>{paragraph}</p>" for paragraph in text.split("\n\n"))
    return (
        f'<!doctype html><html lang="{"zh" if chinese else "en"}"><head><title>{title}</title></head><body>'
        f'<div class="cookie-banner">{notice}</div><nav><ul>{links}</ul></nav><main><article><h1>{title}</h1>'
        f"<p>The Mill Gazette 磨坊报, est. 1888</p>{body}"
        f"<p>{share}</p><p>{onward}</p></article></main>"
        f"<footer>© The Mill Gazette {SITE}/{path}</footer></body></html>"
    )


def warc(found: list[Page]) -> bytes:
    """One compressed record a page; a page that is not there, and one record that is damaged."""
    records = [
        _record(number, path, "200 OK", html(path, title, text)) for number, (path, title, text) in enumerate(found)
    ]
    records.append(_record(len(records), "gone", "404 Not Found", html("gone", "Not found", "There is no such page.")))
    broken = bytearray(_record(len(records), "broken", "200 OK", html("broken", "Broken", GERMAN)))
    broken[len(broken) // 2] ^= 0xFF
    return b"".join((*records[:7], bytes(broken), *records[7:]))


def _record(number: int, path: str, status: str, page: str) -> bytes:
    body = f"HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\n\r\n{page}".encode()
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {SITE}/{path}\r\nWARC-Date: 2024-05-01T06:00:00Z\r\n"
        f"WARC-Record-ID: <urn:uuid:00000000-0000-4000-8000-{number:012x}>\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + body + b"\r\n\r\n", 9, mtime=0)


def letters() -> bytes:
    """JSON lines with their own field names; one is broken, one holds no text, two are older copies of articles."""
    used = {language: dict.fromkeys(kinds, 0) for language, kinds in DATA.items()}
    rows: list[Any] = []
    for language, form in LETTERS:
        values = {}
        for kind, known in DATA[language].items():
            if f"{{{kind}}}" in form:
                values[kind] = known[used[language][kind] % len(known)]
                used[language][kind] += 1
        rows.append(
            {
                "content": {"body": form.format(**values), "lang": language},
                "meta": {"url": f"{SITE}/letters/{len(rows)}"},
            }
        )
    for language, found in articles().items():
        title, text = found[1]
        rows.append({"content": {"body": text, "lang": language}, "meta": {"url": f"{SITE}/copy/{title}"}, "stars": 1})
    rows += [{"content": {"body": QUIZ[language] + extra, "lang": language}, "meta": {"url": f"{SITE}/quiz/{language}"}}
             for language, extra in (("en", " So much for the quiz."), ("zh", "晚会到此结束。"))]  # fmt: skip
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    lines[3:3] = ['{"content": {"body": "The rest of this letter was los', '{"content": {"body": null}, "meta": {}}']
    return gzip.compress(("\n".join(lines) + "\n").encode(), 9, mtime=0)


def archive() -> bytes:
    """A table: articles that no other file has, copies of two of each language, and what readers thought of them."""
    import pyarrow
    from pyarrow import parquet

    rows = [
        {"content": text, "title": title, "language": language, "stars": 2 + number % 4}
        for language, found in articles().items()
        for number, (title, text) in enumerate(found)
        if number in (1, 2) or number >= IN_ARCHIVE
    ]
    stream = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), stream, compression="zstd", row_group_size=6)
    return stream.getvalue()


def book() -> bytes:
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="book.opf"/></rootfiles></container>'
    )
    numbers = range(len(BOOK))
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>'
        "<dc:title>The Lamp on the Weir</dc:title><dc:creator>The Mill Gazette</dc:creator>"
        "<dc:language>en</dc:language><dc:rights>CC0-1.0</dc:rights></metadata><manifest>"
        + "".join(f'<item id="c{n}" href="{n}.xhtml" media-type="application/xhtml+xml"/>' for n in numbers)
        + "</manifest><spine>" + "".join(f'<itemref idref="c{n}"/>' for n in numbers) + "</spine></package>"
    )  # fmt: skip
    chapters = {}
    for number, (title, text) in enumerate(BOOK.items()):
        body = "".join(f"<p>{paragraph}</p>" for paragraph in text.split("\n\n"))
        chapters[f"{number}.xhtml"] = f"<html><body><h2>{title}</h2>{body}</body></html>"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, text in {"META-INF/container.xml": container, "book.opf": package, **chapters}.items():
            packed.writestr(zipfile.ZipInfo(name, (2024, 5, 1, 6, 0, 0)), text)
    return stream.getvalue()


def project() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as packed:
        for name, text in sorted(FILES.items()):
            entry = tarfile.TarInfo(f"millstone/{name}")
            entry.size = len(text.encode())
            packed.addfile(entry, io.BytesIO(text.encode()))
    return gzip.compress(stream.getvalue(), 9, mtime=0)


def main() -> None:
    (RAW / "notes").mkdir(parents=True, exist_ok=True)
    found = list(pages(random.Random(1888)))
    made = {
        "pages.warc.gz": warc(found), "letters.jsonl.gz": letters(), "archive.parquet": archive(),
        "lamp.epub": book(), "millstone.tar.gz": project(),
    }  # fmt: skip
    for name, (language, title, text) in NOTES.items():
        head = f"---\ntitle: {title}\nlanguage: {language}\nlicense: CC0-1.0\n---\n\n"
        made[f"notes/{name}"] = (head + text + "\n").encode()
    for name, data in made.items():
        (RAW / name).write_bytes(data)
        print(f"{name:24} {len(data):>8,} bytes")


if __name__ == "__main__":
    main()

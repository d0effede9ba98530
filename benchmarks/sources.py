"""How fast each reader is, on one core, and the JSONL, Parquet and WARC ones against datatrove's own.

    python benchmarks/sources.py                 16 MB of text in every format
    python benchmarks/sources.py --megabytes 64 --formats jsonl warc
    python benchmarks/sources.py --workers 1 2   the whole way into a store of units, by number of processes

MB are of text that comes out. Input is the demo corpus, repeated, in files made on the spot. Needs the extras
``corpus`` and ``parquet``; the comparison needs ``datatrove[io]`` and, for text from HTML, trafilatura.
"""

from __future__ import annotations

import argparse
import gzip
import html
import io
import json
import logging
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

from kaiyuan.corpus.sources import Document, Source, demo_documents, read_part
from kaiyuan.corpus.sources.reading import find_parts
from kaiyuan.corpus.work import Store, plan, run_units

LONGEST = 4000
"""Characters of one document: pages of the web are about as long."""


def texts(size: int) -> Iterator[str]:
    """``size`` bytes of the demo corpus in pieces."""
    pieces = [
        document.text[start : start + LONGEST]
        for document in demo_documents()
        for start in range(0, len(document.text), LONGEST)
    ]
    for piece in cycle(pieces):
        yield piece
        size -= len(piece.encode())
        if size <= 0:
            return


def write_jsonl(folder: Path, size: int, ending: str = "") -> None:
    data = "".join(json.dumps({"text": t, "id": n, "url": f"http://s/{n}"}, ensure_ascii=False) + "\n"
                   for n, t in enumerate(texts(size))).encode()  # fmt: skip
    if ending == ".gz":
        data = gzip.compress(data, 6)
    elif ending == ".zst":
        import zstandard

        data = zstandard.compress(data)
    (folder / f"rows.jsonl{ending}").write_bytes(data)


def write_text(folder: Path, size: int) -> None:
    for number, text in enumerate(texts(size)):
        (folder / f"{number:06d}.md").write_text(f"---\ntitle: Number {number}\ntags: [a, b]\n---\n{text}")


def write_parquet(folder: Path, size: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = list(texts(size))
    table = {"text": rows, "id": list(range(len(rows))), "url": [f"http://s/{n}" for n in range(len(rows))]}
    pq.write_table(pa.table(table), folder / "rows.parquet", row_group_size=1000)


def page(number: int, text: str) -> bytes:
    """A page as they are: menus, scripts, styles and links around the text."""
    links = "".join(
        f"<li><a href='/section/{n}?from={number}' class='nav-item'>Section {n}</a></li>" for n in range(40)
    )
    body = "".join(f"<p class='par'>{html.escape(part)}</p>\n" for part in text.split("\n") if part)
    style = ".nav-item { color: #123; margin: 0 4px; }\n" * 60
    return (
        f"<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'><title>Page {number}</title><style>{style}</style>"
        f"<script>{'window.track(1);' * 100}</script></head><body><header><nav><ul>{links}</ul></nav></header>"
        f"<main><article><h1>Page {number}</h1>{body}</article></main><aside><ul>{links}</ul></aside>"
        f"<footer><p>Imprint and privacy</p></footer></body></html>"
    ).encode()


def write_warc(folder: Path, size: int) -> None:
    with (folder / "pages.warc.gz").open("wb") as stream:
        for number, text in enumerate(texts(size)):
            body = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + page(number, text)
            head = (
                f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://site/{number}\r\n"
                f"WARC-Date: 2024-05-01T00:00:00Z\r\nWARC-Record-ID: <urn:uuid:{number:032x}>\r\n"
                f"WARC-Identified-Payload-Type: text/html\r\nContent-Type: application/http; msgtype=response\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            stream.write(gzip.compress(head.encode() + body + b"\r\n\r\n", 6))


def write_code(folder: Path, size: int) -> None:
    root = Path(__file__).resolve().parents[1]
    files = [path.read_bytes() for part in ("src", "tests") for path in sorted((root / part).rglob("*.py"))]
    with tarfile.open(folder / "code.tar.gz", "w:gz", compresslevel=6) as archive:
        for number, data in enumerate(cycle(files)):
            entry = tarfile.TarInfo(f"code/{number}.py")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
            size -= len(data)
            if size <= 0:
                return


def write_epub(folder: Path, size: int) -> None:
    """Books of 50 pages."""
    container = '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>' \
                '<rootfile full-path="book.opf"/></rootfiles></container>'  # fmt: skip
    pages = [page(number, text) for number, text in enumerate(texts(size))]
    for book, start in enumerate(range(0, len(pages), 50)):
        items = pages[start : start + 50]
        manifest = "".join(f'<item id="p{n}" href="{n}.xhtml"/>' for n in range(len(items)))
        spine = "".join(f'<itemref idref="p{n}"/>' for n in range(len(items)))
        package = f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{manifest}</manifest><spine>{spine}</spine></package>'
        with zipfile.ZipFile(folder / f"{book}.epub", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("META-INF/container.xml", container)
            archive.writestr("book.opf", package)
            for number, item in enumerate(items):
                archive.writestr(f"{number}.xhtml", item)


def write_pdf(folder: Path, size: int) -> None:
    """Pages of 40 lines of ASCII."""
    from pypdf import PdfWriter
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = PdfWriter()
    font = DictionaryObject({NameObject("/Type"): NameObject("/Font"), NameObject("/Subtype"): NameObject("/Type1"),
                             NameObject("/BaseFont"): NameObject("/Helvetica")})  # fmt: skip
    for text in texts(size):
        plain = text.encode("ascii", "replace").decode().replace("\\", "").replace("(", "").replace(")", "")
        lines = [plain[n : n + 100] for n in range(0, len(plain), 100)]
        stream = DecodedStreamObject()
        shown = "".join(f"({line}) Tj 0 -14 Td\n" for line in lines)
        stream.set_data(f"BT /F1 10 Tf 50 780 Td\n{shown}ET".encode())
        sheet = writer.add_blank_page(595, 842)
        fonts = DictionaryObject({NameObject("/F1"): font})
        sheet[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        sheet[NameObject("/Contents")] = writer._add_object(stream)
    writer.write(folder / "paper.pdf")


FORMATS: dict[str, Callable[[Path, int], None]] = {
    "jsonl": write_jsonl, "jsonl.gz": partial(write_jsonl, ending=".gz"),
    "jsonl.zst": partial(write_jsonl, ending=".zst"), "markdown": write_text, "parquet": write_parquet,
    "warc.gz": write_warc, "code.tar.gz": write_code, "epub": write_epub, "pdf": write_pdf,
}  # fmt: skip


def ours(folder: Path) -> Iterator[str]:
    source = Source(path=str(folder), name="bench")
    for part, found in find_parts(source):
        for item in read_part(part, source.model_copy(update={"format": found})):
            if isinstance(item, Document):
                yield item.text


def peers(name: str) -> dict[str, Callable[[Path], Iterator[str]]]:
    """datatrove's ways to read the same folder."""
    try:
        from datatrove.pipeline.readers import JsonlReader, ParquetReader, WarcReader
    except ImportError:
        return {}
    logging.disable(logging.INFO)
    from datatrove.utils.logging import logger

    logger.remove()

    def read(reader: Any, steps: Iterable[Any] = ()) -> Callable[[Path], Iterator[str]]:
        def run(folder: Path) -> Iterator[str]:
            documents = reader(str(folder))()
            for step in steps:
                documents = step()(documents)
            yield from (document.text for document in documents)

        return run

    if name.startswith("jsonl"):
        return {"JsonlReader": read(JsonlReader)}
    if name == "parquet":
        return {"ParquetReader": read(ParquetReader)}
    if name != "warc.gz":
        return {}
    from datatrove.pipeline.extractors import Trafilatura

    return {"WarcReader, HTML as it is": read(WarcReader), "WarcReader + Trafilatura": read(WarcReader, (Trafilatura,))}


def seconds(read: Callable[[Path], Iterator[str]], folder: Path, repeats: int) -> tuple[float, int]:
    """Best time of some, and the bytes of text that came out."""
    best, size = float("inf"), 0
    for _ in range(repeats):
        start = time.perf_counter()
        found = list(read(folder))
        best = min(best, time.perf_counter() - start)
        size = sum(len(text.encode("utf-8", "replace")) for text in found)
    return best, size


def compare(name: str, size: int, repeats: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        FORMATS[name](folder, size)
        time_ours, count = seconds(ours, folder, repeats)
        stored = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{name:12} {count / time_ours / 1e6:7.1f} MB/s of text   {stored / time_ours / 1e6:7.1f} MB/s of files")
        for peer, read in peers(name).items():
            # The same documents are to be read, so the times can be compared where the text cannot.
            time_peer, _ = seconds(read, folder, repeats if "Trafilatura" not in peer else 1)
            print(f"{'':12} datatrove {peer}: {time_peer / time_ours:.2f} times our time")


def scale(size: int, workers: list[int]) -> None:
    """Reading, writing, fsync and merging, as a run does it."""
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "in").mkdir()
        write_jsonl(Path(place) / "in", size)
        for count in workers:
            units = plan([Source(path=f"{place}/in")], unit_bytes=max(2**20, size // 16))
            store = Store(Path(place) / f"out{count}")
            start = time.perf_counter()
            run_units(units, store, workers=count)
            middle = time.perf_counter()
            documents = sum(1 for _ in store.documents(units))
            end = time.perf_counter()
            into, back = size / (middle - start) / 1e6, size / (end - middle) / 1e6
            print(f"{count} workers: {into:.1f} MB/s into units, {documents:,} documents read back at {back:.1f} MB/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=16)
    parser.add_argument("--formats", nargs="*", choices=list(FORMATS), default=list(FORMATS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="*", default=[])
    options = parser.parse_args()
    if options.workers:
        scale(options.megabytes * 10**6, options.workers)
        return
    try:
        import pyarrow

        pyarrow.set_cpu_count(1)  # for both: the work is spread by units, not by threads
        pyarrow.set_io_thread_count(1)
    except ImportError:
        pass
    for name in options.formats:
        compare(name, options.megabytes * 10**6, options.repeats)
        sys.stdout.flush()


if __name__ == "__main__":
    main()

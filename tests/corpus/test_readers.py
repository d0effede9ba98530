"""Text, Markdown, JSON lines and Parquet; what they refuse, and where they say it was."""

from __future__ import annotations

import gzip
import itertools
import json
import lzma
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from reading import read, reasons

from kaiyuan.corpus.sources import Document, Source, document_id
from kaiyuan.corpus.sources import jsonl as jsonl_reader
from kaiyuan.corpus.sources.detect import by_content, by_name
from kaiyuan.corpus.sources.document import sample_of
from kaiyuan.corpus.sources.parts import Part
from kaiyuan.corpus.sources.text import front_matter
from kaiyuan.errors import DataError

PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress, ".xz": lzma.compress}


def jsonl(rows: list) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


@pytest.mark.parametrize("ending", PACK)
def test_json_lines_with_nested_fields_ids_and_metadata(tmp_path: Path, ending: str):
    row = {"body": {"en": "Hello"}, "meta": {"url": "http://a", "n": 7}, "license": ["MIT", "BSD"], "date": 2024,
           "title": None, "language": "en"}  # fmt: skip
    path = tmp_path / f"rows.jsonl{ending}"
    path.write_bytes(PACK[ending](jsonl([row, {"body.en": "flat wins"}])))
    settings = {"text": "body.en", "id": "meta.n", "keys": {"url": "meta.url"}, "keep": ["meta.n"], "licence": "X"}
    documents, dead = read(path, **settings)
    assert not dead
    assert documents[0] == Document(
        document_id("Hello"), "Hello", "mine", "en", "web", place=f"rows.jsonl{ending}:1", url="http://a",
        licence="MIT, BSD", date="2024", extra={"meta.n": 7, "id": 7},
    )  # fmt: skip
    assert (documents[1].text, documents[1].licence, documents[1].title) == ("flat wins", "X", "")


DAMAGED = [
    (b'{"text": "cut', "not valid JSON"),
    (b'{"text": "\xff"}', "not UTF-8"),
    (b'["text"]', "wrong type"),
    (b'{"text": 3}', "wrong type"),
    (b'{"text": null}', "wrong type"),
    (b'{"text": "x", "label": 1}', "wrong type"),
    (b'{"other": 1}', "no text field"),
    (b'{"text": "\\ud800"}', "broken characters"),
    (b"[" * 100_000, "not valid JSON"),
    (b'{"text": "' + b"x" * 300_000 + b'"}', "too large"),
    (b'{"text": ' + b"9" * 5000 + b"}", None),
]


@pytest.mark.parametrize(("line", "kind"), DAMAGED, ids=lambda value: str(value)[:20])
@pytest.mark.parametrize("fast", [True, False])
def test_a_damaged_line_costs_that_line_only(tmp_path: Path, monkeypatch, line: bytes, kind: str | None, fast: bool):
    if not fast:
        monkeypatch.setattr(jsonl_reader, "parser", lambda: jsonl_reader.parse_line)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "before"}\n\n' + line + b'\n{"text": "behind"}')
    documents, dead = read(path, max_bytes=200_000)
    assert [(document.text, document.place) for document in documents] == [
        ("before", "rows.jsonl:1"),
        ("behind", "rows.jsonl:4"),
    ]
    assert [(item.place, item.kind) for item in dead] == [("rows.jsonl:3", kind or dead[0].kind)]
    assert len(dead[0].sample) <= 200
    assert dead[0].sample.isprintable()


@pytest.mark.parametrize("ending", [".gz", ".zst", ".xz"])
@pytest.mark.parametrize("cut", [5, 3000])
def test_a_stream_that_was_cut_off_gives_what_comes_before(tmp_path: Path, ending: str, cut: int):
    rows = [{"text": document_id(str(n))} for n in range(5000)]
    path = tmp_path / f"rows.jsonl{ending}"
    path.write_bytes(PACK[ending](jsonl(rows))[:-cut])
    documents, dead = read(path)
    assert [document.text for document in documents] == [row["text"] for row in rows[: len(documents)]]
    assert reasons(dead) == [(f"rows.jsonl{ending}:{len(documents)}", "damaged file")]
    assert len(documents) > 100


def test_many_frames_and_members_are_one_stream(tmp_path: Path):
    for ending, pack in PACK.items():
        path = tmp_path / f"rows.jsonl{ending}"
        path.write_bytes(b"".join(pack(jsonl([{"text": str(n)}])) for n in range(50)))
        assert [document.text for document in read(path)[0]] == [str(n) for n in range(50)]


def test_zstd_that_wants_too_much_memory_is_dead(tmp_path: Path):
    big = zstandard.ZstdCompressionParameters(window_log=28)
    data = zstandard.ZstdCompressor(compression_params=big).compressobj().compress(b"x")
    packer = zstandard.ZstdCompressor(compression_params=big).compressobj()
    data = packer.compress(b'{"text": "a"}\n') + packer.flush()
    (tmp_path / "rows.jsonl.zst").write_bytes(data)
    documents, dead = read(tmp_path / "rows.jsonl.zst")
    assert (documents, dead[0].kind) == ([], "damaged file")


@given(
    lines=st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), max_size=20),
    cuts=st.lists(st.integers(0, 400)),
)
def test_ranges_of_bytes_give_every_line_once(tmp_path_factory, lines: list[bytes], cuts: list[int]):
    path = tmp_path_factory.mktemp("ranges") / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    source = Source(path=str(path), name="mine", format="jsonl")
    whole = [item.row() for item in jsonl_reader.read(Part(path, "rows.jsonl", stop=path.stat().st_size), source)]
    borders = sorted({0, path.stat().st_size, *(cut for cut in cuts if cut < path.stat().st_size)})
    pieces = [
        item.row()
        for start, stop in itertools.pairwise(borders)
        for item in jsonl_reader.read(Part(path, "rows.jsonl", start=start, stop=stop), source)
    ]
    assert pieces == whole
    assert len(whole) == sum(not line.isspace() and line != b"" for line in lines)


def test_text_and_markdown_folders_in_sorted_order_with_front_matter(tmp_path: Path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "no.txt").write_text("no")
    (tmp_path / "b" / "note.md").write_text(
        '---\ntitle: "A note"\ndate: 2024-05-01\ntags: [x, "y"]\nlang: en\nauthors:\n  - Ann\n  - Bo\n'
        "license: MIT\n---\n\n# H\nText.\n"
    )
    (tmp_path / "b.md").write_text("intro\n# Heading #\n\nBody")
    (tmp_path / "a.txt").write_bytes("\ufeff正文".encode())
    (tmp_path / "c.md").write_text('+++\ntitle = "T"\nweight = 3\n+++\nX')
    (tmp_path / "wide.txt").write_bytes("café".encode("utf-16"))
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    documents, dead = read(tmp_path)
    assert [document.place for document in documents] == ["a.txt", "b/note.md", "b.md", "c.md", "wide.txt"]
    assert not dead
    note = documents[1]
    assert (note.title, note.date, note.language, note.licence) == ("A note", "2024-05-01", "en", "MIT")
    assert note.extra == {"tags": ["x", "y"], "authors": ["Ann", "Bo"]}
    assert note.text == "# H\nText.\n"
    assert [document.title for document in documents] == ["a", "A note", "Heading", "T", "wide"]
    assert (documents[0].text, documents[3].extra, documents[4].text) == ("正文", {"weight": 3}, "café")


@pytest.mark.parametrize(
    "text", ["---\nno fence", "--- \nnot: closed\n", "---\n{a: 1\n---\nx", "text\n---\na: 1\n---\n"]
)
def test_what_is_no_front_matter_stays_in_the_text(text: str):
    assert front_matter(text) == ({}, text)


def test_other_encodings_are_stated_or_detected(tmp_path: Path):
    text = "开元是一个完整的系统，用来训练和运行语言模型。" * 20
    (tmp_path / "a.txt").write_bytes(text.encode("gb18030"))
    documents, dead = read(tmp_path)
    assert (documents, dead[0].kind, dead[0].place) == ([], "not UTF-8 text", "a.txt")
    for encoding in ("gb18030", "auto"):
        assert read(tmp_path, encoding=encoding)[0][0].text == text
    assert read(tmp_path, max_bytes=10)[1][0].kind == "too large"


def write_table(path: Path, groups: int = 3, rows: int = 10) -> None:
    count = groups * rows
    table = pa.table({
        "text": [f"text {n}" for n in range(count)],
        "meta": [{"url": f"http://{n}", "big": "x" * 50} for n in range(count)],
        "score": [n / 2 for n in range(count)], "unused": [b"y" * 1000] * count,
    })  # fmt: skip
    pq.write_table(table, path, row_group_size=rows)


def test_parquet_by_row_groups_and_columns(tmp_path: Path):
    path = tmp_path / "t.parquet"
    write_table(path)
    documents, dead = read(path, keys={"url": "meta.url"}, keep=["score"], limit=0)
    assert not dead
    assert [document.place for document in documents] == [f"t.parquet#{n}" for n in range(30)]
    assert (documents[21].text, documents[21].url, documents[21].extra) == ("text 21", "http://21", {"score": 10.5})
    from kaiyuan.corpus.sources import parquet

    source = Source(path=str(path), name="mine", format="parquet")
    middle = list(parquet.read(Part(path, "t.parquet", start=1, stop=2), source))
    assert [item.place for item in middle] == [f"t.parquet#{n}" for n in range(10, 20)]


def test_parquet_without_the_text_column_of_other_types_and_damaged(tmp_path: Path):
    write_table(tmp_path / "a.parquet")
    documents, dead = read(tmp_path / "a.parquet", text="content")
    assert (len(documents), {item.kind for item in dead}, len(dead)) == (0, {"no text field"}, 30)
    pq.write_table(pa.table({"text": [b"ok", b"\xff\xfe", None]}), tmp_path / "b.parquet")
    documents, dead = read(tmp_path / "b.parquet")
    assert ([document.text for document in documents], reasons(dead)) == (
        ["ok"], [("b.parquet#1", "not UTF-8"), ("b.parquet#2", "wrong type")])  # fmt: skip
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    (tmp_path / "cut.parquet").write_bytes(data[:-100])
    group = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(1)
    start = group.column(0).dictionary_page_offset or group.column(0).data_page_offset
    data[start : start + 60] = b"\xff" * 60
    (tmp_path / "hurt.parquet").write_bytes(data)
    assert reasons(read(tmp_path / "cut.parquet")[1]) == [("cut.parquet", "damaged file")]
    documents, dead = read(tmp_path / "hurt.parquet")
    assert [document.text for document in documents] == [f"text {n}" for n in (*range(10), *range(20, 30))]
    assert reasons(dead) == [("hurt.parquet#10", "damaged file")]


NAMES = {
    "a.TXT": "text", "a.md": "markdown", "a.jsonl.zst": "jsonl", "a.ndjson": "jsonl", "a.parquet": "parquet",
    "a.warc.gz": "warc", "a.warc.wet.gz": "warc", "a.epub": "epub", "a.pdf": "pdf", "a.tar.gz": "code", "a.tgz": "code",
    "a.zip": "code", "a.html": "html", "a.csv": None, "a.txt.gz": None, "README": None, "a.parquet.gz": None,
}  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), NAMES.items())
def test_formats_by_name(name: str, expected: str | None):
    assert by_name(name) == expected


CONTENTS = {
    b'{"text": "x"}\n': "jsonl", b"PAR1....": "parquet", b"WARC/1.0\r\n": "warc", b"%PDF-1.7": "pdf",
    b"\n<!DOCTYPE html><html>": "html", "纯文本".encode(): "text", b"\x89PNG\r\n\0": None, b"": None,
    gzip.compress(b"WARC/1.1\r\n", mtime=0): "warc", gzip.compress(b'{"a": 1}\n', mtime=0): "jsonl",
    gzip.compress(b"\0\1", mtime=0): None,
}  # fmt: skip


@pytest.mark.parametrize(("data", "expected"), CONTENTS.items())
def test_formats_by_content(tmp_path: Path, data: bytes, expected: str | None):
    (tmp_path / "file").write_bytes(data)
    assert by_content(tmp_path / "file") == expected


def test_globs_links_and_wrong_paths(tmp_path: Path):
    (tmp_path / "data" / "x").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "data" / "x" / "one.txt").write_text("one")
    (tmp_path / "data" / "inside.txt").symlink_to(tmp_path / "data" / "x" / "one.txt")
    (tmp_path / "data" / "outside.txt").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
    documents, dead = read(tmp_path / "data")
    assert [document.text for document in documents] == ["one", "one"]
    assert reasons(dead) == [("outside.txt", "link")]
    assert "secret" in [document.text for document in read(tmp_path / "data", follow_links=True)[0]]
    documents, dead = read(f"{tmp_path}/data/**/o*.txt")
    assert [document.place for document in documents] == ["x/one.txt"]
    assert reasons(dead) == [("outside.txt", "link")]
    for path, message in [
        (tmp_path / "absent", "no such file or folder"), (f"{tmp_path}/*.jsonl", "matches this pattern"),
        ("s3://bucket/x", "nothing is fetched over the network"), ("https://a/b.jsonl", "download it"),
        ("hf://nonsense", "write hf://owner/name"),
    ]:  # fmt: skip
        with pytest.raises(DataError, match=re.escape(message)) as caught:
            read(path)
        assert "\n" not in str(caught.value)
    (tmp_path / "what.bin").write_bytes(b"\0\1\2")
    with pytest.raises(DataError, match="cannot tell what this is"):
        read(tmp_path / "what.bin")


@pytest.mark.parametrize(
    "wrong",
    [{"path": ""}, {"path": "x", "format": "csv"}, {"path": "x", "limit": -1}, {"path": "x", "colour": 1},
     {"path": "x", "encoding": "nope"}, {"path": "x", "encoding": "hex"}, {"path": "x", "keys": {"txt": "a"}},
     {"path": 3}],
)  # fmt: skip
def test_wrong_tables_are_refused(wrong: dict):
    with pytest.raises(ValidationError):
        Source.of(wrong)


def test_samples_are_safe_to_print():
    assert sample_of(b"\x1b[31m\xff\0" + b"x" * 1000).startswith("\\x1b[31m\\xff\\x00x")
    assert len(sample_of("\x00" * 1000)) <= 200
    assert sample_of({"a": 1}) == "{'a': 1}"
    assert sample_of("\ud800").isascii()

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaiyuan import corpus
from kaiyuan.corpus.sources import SourceInfo, demo, demo_documents, demo_sources, document_id, read_documents
from kaiyuan.errors import DataError

DATA = Path(corpus.__file__).parent / "data"
ROOT = Path(__file__).parents[2]
DOCUMENTS = list(demo_documents())


def size(language: str) -> int:
    return sum(len(document.text.encode()) for document in DOCUMENTS if document.language == language)


def test_the_demo_corpus_is_large_enough_and_a_third_chinese():
    total = sum(map(size, ("en", "zh", "code")))
    assert total == sum(len(document.text.encode()) for document in DOCUMENTS)
    assert total >= 6_000_000
    assert size("zh") >= total / 3
    assert size("en") >= total / 4
    assert size("code") >= 300_000
    assert sum(path.stat().st_size for path in DATA.glob("*.xz")) < 4_000_000


def test_long_documents_for_long_contexts_in_both_languages():
    for language in ("en", "zh"):
        assert sum(len(d.text) >= 30_000 for d in DOCUMENTS if d.language == language) >= 3


@pytest.mark.parametrize("source", demo_sources(), ids=lambda source: source.name)
def test_every_file_is_as_its_entry_says(source: SourceInfo):
    data = (DATA / source.file).read_bytes()
    rows = [json.loads(line) for line in lzma.decompress(data).decode().split("\n") if line]
    assert hashlib.sha256(data).hexdigest() == source.sha256
    assert len(rows) == source.documents
    assert sum(len(row["text"].encode()) for row in rows) == source.bytes
    assert all(set(row) == {"title", "text"} and row["title"] for row in rows)


@pytest.mark.parametrize("source", demo_sources(), ids=lambda source: source.name)
def test_every_source_has_a_free_licence_and_is_in_both_notices(source: SourceInfo):
    assert re.match("public domain|MIT|BSD-3-Clause", source.licence)
    assert f"`{source.name}`" in (DATA / "NOTICE.md").read_text(encoding="utf-8")
    assert source.name in (ROOT / "NOTICE").read_text(encoding="utf-8")


def test_no_file_is_without_an_entry():
    assert {path.name for path in DATA.glob("*.xz")} == {source.file for source in demo_sources()}


def test_no_document_comes_twice_and_ids_are_hashes_of_the_text():
    assert len({document.id for document in DOCUMENTS}) == len(DOCUMENTS)
    assert len({(document.source, document.title) for document in DOCUMENTS}) == len(DOCUMENTS)
    first = DOCUMENTS[0]
    assert first.id == hashlib.sha256(first.text.encode()).hexdigest()[:16]


def test_texts_are_clean():
    control = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffd\ufeff\ue000-\uf8ff]")
    markup = re.compile(r"</?[a-z]+>|&(?:amp|nbsp|lt|gt|quot);|https?://| {3}|Gutenberg")
    for document in DOCUMENTS:
        assert not control.search(document.text), document.title
        if document.language != "code":
            assert not markup.search(document.text), document.title


def test_chinese_is_chinese_and_simplified():
    text = "".join(document.text for document in DOCUMENTS if document.language == "zh")
    han = len(re.findall("[\u3400-\u9fff\U00020000-\U0003134f]", text))
    assert han / len(text) > 0.8
    assert not re.search("[說來們個為這國學長門東車馬頭書見問間雲陽無時會對從將與]", text)


def test_the_texts_are_what_they_are_said_to_be():
    """Openings and numbers of chapters that anyone can look up in the books."""
    by_title = {document.title: document.text for document in DOCUMENTS}
    assert "It is a truth universally acknowledged" in by_title["Pride and Prejudice, chapter 1"]
    assert "起初神创造天地。" in by_title["创世纪"]
    assert "床前明月光" in "".join(document.text for document in DOCUMENTS if document.label == "poetry")
    assert "学而时习之" in by_title["论语·学而篇"]
    assert sum(title.startswith("Pride and Prejudice") for title in by_title) == 61
    assert sum(title.startswith("Emma") for title in by_title) == 55
    bible = [document for document in DOCUMENTS if document.source == "chinese-bible"]
    assert sum("章" not in document.title for document in bible) == 39
    assert sum("章" in document.title for document in bible) == 260
    assert by_title["诗篇"].count("章\n\n") == 150


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the smallest source as the whole demo corpus, for tests to damage."""
    smallest = min(json.loads((DATA / "sources.json").read_text()), key=lambda entry: entry["bytes"])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sources.json").write_text(json.dumps([smallest]))
    file = tmp_path / "data" / smallest["file"]
    file.write_bytes((DATA / smallest["file"]).read_bytes())
    monkeypatch.setattr(demo, "files", lambda package: tmp_path)
    return file


def test_a_damaged_demo_file_is_noticed(copy: Path):
    assert len(list(demo_documents())) == demo_sources()[0].documents
    data = bytearray(copy.read_bytes())
    data[len(data) // 2] ^= 1
    copy.write_bytes(data)
    with pytest.raises(DataError, match=f"{copy.name} is damaged"):
        list(demo_documents())


def test_a_missing_demo_file_is_noticed(copy: Path):
    copy.unlink()
    with pytest.raises(DataError, match=f"{copy.name} is missing"):
        list(demo_documents())


TEXT = st.text(st.characters(codec="utf-8"))
ROWS = st.lists(st.fixed_dictionaries({"text": TEXT}, optional={"title": TEXT, "language": TEXT, "label": TEXT}))


@given(rows=ROWS, suffix=st.sampled_from([".jsonl", ".jsonl.gz", ".jsonl.xz"]), ascii_only=st.booleans())
def test_json_lines_come_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]], suffix: str, ascii_only: bool
):
    path = tmp_path_factory.mktemp("rows") / f"my.corpus{suffix}"
    opener = {".jsonl": open, ".jsonl.gz": gzip.open, ".jsonl.xz": lzma.open}[suffix]
    with opener(path, "wt", encoding="utf-8", newline="\n") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows)
    found = list(read_documents([path], label="web"))
    assert [document.text for document in found] == [row["text"] for row in rows]
    assert [document.title for document in found] == [row.get("title", "") for row in rows]
    assert [document.language for document in found] == [row.get("language") or "und" for row in rows]
    assert [document.label for document in found] == [row.get("label") or "web" for row in rows]
    assert all(document.source == "my.corpus" and document.id == document_id(document.text) for document in found)


def test_folders_are_read_in_sorted_order_and_text_files_whole(tmp_path: Path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.txt").write_text("\ufeff第一行\n\n第二行", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text('{"body": "one"}\n\n{"body": "more", "source": "elsewhere"}\n')
    (tmp_path / "ignored.csv").write_text("a,b")
    with pytest.raises(DataError, match=r"a\.jsonl:1: no text field: no 'text' among its keys \(body\)"):
        list(read_documents([tmp_path]))
    found = list(read_documents([tmp_path], text_key="body", language="zh", label="books"))
    assert [(d.text, d.source, d.title) for d in found] == [
        ("one", "a", ""),
        ("more", "elsewhere", ""),
        ("第一行\n\n第二行", "two", "two"),
    ]
    assert {(d.language, d.label) for d in found} == {("zh", "books")}
    assert {d.source for d in read_documents([tmp_path], text_key="body", source="mine")} == {"mine", "elsewhere"}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"text": "cut', "not valid JSON"),
        (b'["text"]', "must be a JSON object"),
        (b"{}", "no 'text' among its keys (none)"),
        (b'{"text": 3}', "the text must be a string, not int"),
        (b'{"text": "x", "label": ["web"]}', "label must be a string, not list"),
        (b'{"text": "\xff"}', "not UTF-8"),
        (b'{"text": "\\ud800"}', "half of a surrogate pair"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, line: bytes, problem: str):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"text": "good"}\n\n' + line + b"\n")
    with pytest.raises(DataError, match=re.escape(problem)) as caught:
        list(read_documents([path]))
    assert str(caught.value).startswith(f"{path}:3: ")


@pytest.mark.parametrize("opener", [gzip, lzma])
def test_a_file_that_was_cut_off_is_an_error(tmp_path: Path, opener):
    path = tmp_path / f"cut.jsonl.{'gz' if opener is gzip else 'xz'}"
    lines = "".join(json.dumps({"text": hashlib.sha256(str(n).encode()).hexdigest()}) + "\n" for n in range(5000))
    path.write_bytes(opener.compress(lines.encode())[:-5000])
    with pytest.raises(DataError, match=rf"{path.name}:\d+: damaged file: damaged after line"):
        list(read_documents([path]))


def test_paths_that_cannot_be_read_are_errors(tmp_path: Path):
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    for path, problem in [
        (tmp_path / "absent.jsonl", "no such file"),
        (tmp_path / "table.parquet", "not a Parquet file"),
        (tmp_path / "latin.txt", "not UTF-8"),
    ]:
        with pytest.raises(DataError, match=problem) as caught:
            list(read_documents([path]))
        assert str(caught.value).startswith(str(path))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="no file in this folder"):
        list(read_documents([empty]))

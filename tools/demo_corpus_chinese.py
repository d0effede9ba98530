"""Readers of the Chinese packages of the demo corpus: each yields (title, text) pairs in simplified characters."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

NEW_TESTAMENT_FROM = "马太福音"
DIGITS = "零一二三四五六七八九"
TRANSLATORS_NOTE = re.compile(
    r"（[^（）]*(?:原文|或作|或名|或指|或无|又作|有作|古卷|下同|七十经|即古实|章[一二三四五六七八九十]+节)[^（）]*）|（细拉）"
)
EDITORS_NOTE = re.compile(r"[(（](?:[^()（）]*(?:一作|\s通[\s：])[^()（）]*|[\sa-zāáǎàēéěè]*)[)）]|\[通[^\]]*\]")
STRAY = re.compile(r"[0-9⒅\ue000-\uf8ff]")
PARAGRAPH_CHARACTERS = 200
POEMS_CHARACTERS = 1_000


@cache
def converter() -> Any:
    from opencc import OpenCC

    return OpenCC("t2s")


def simplified(text: str) -> str:
    """Simplified characters, mainland quotation marks, no editors' notes, no stray spaces."""
    text = STRAY.sub("", EDITORS_NOTE.sub("", converter().convert(text)))
    text = text.translate(str.maketrans("「」『』∶．", "“”‘’：。"))
    return re.sub(r"[ \u3000\xa0]+", " ", text).strip()


def load(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def chinese_bible(package: Path) -> Iterator[tuple[str, str]]:
    """The Old Testament, a document a book; the New Testament, a document a chapter."""
    file = next(path for path in package.rglob("*.txt") if path.name == "圣经.txt")
    books: dict[str, list[list[str]]] = {}
    for line in converter().convert(file.read_text(encoding="utf-8")).splitlines():
        add_line(books, line.strip())
    by_chapter = False
    for book, chapters in books.items():
        by_chapter = by_chapter or book == NEW_TESTAMENT_FROM
        texts = [(chapter_name(number), prose(clean_verses(verses))) for number, verses in enumerate(chapters, 1)]
        if by_chapter:
            yield from ((f"{book}{heading}", f"{book} {heading}\n\n{text}") for heading, text in texts)
        else:
            yield book, "\n\n".join([book, *(f"{heading}\n\n{text}" for heading, text in texts)])


def add_line(books: dict[str, list[list[str]]], line: str) -> None:
    """File one line of the source: a book's name, a chapter's heading or a numbered verse."""
    verse = re.fullmatch(r"\d+ *(.*)", line)
    if verse:
        list(books.values())[-1][-1].append(verse[1])
    elif line.startswith("第"):
        list(books.values())[-1].append([])
    elif line:
        books.setdefault(line, [])


def clean_verses(verses: list[str]) -> list[str]:
    """The verses of a chapter without the translators' notes, in full-width punctuation."""
    text = re.sub(r"\(\d+:\d+\)", "", "\n".join(verses))
    text = text.replace(" ", "").translate(str.maketrans("()．；,:", "（）。，，："))
    text = TRANSLATORS_NOTE.sub("", text).replace("xo", "")
    return [verse for verse in without_lone_brackets(text).split("\n") if verse]


def without_lone_brackets(text: str) -> str:
    """Drop brackets that have no partner."""
    opened: list[int] = []
    lone: set[int] = set()
    for position, character in enumerate(text):
        if character == "（":
            opened.append(position)
        elif character == "）" and opened:
            opened.pop()
        elif character == "）":
            lone.add(position)
    lone.update(opened)
    return "".join(character for position, character in enumerate(text) if position not in lone)


def prose(verses: Iterable[str]) -> str:
    """Verses joined into paragraphs that end with a sentence."""
    paragraphs = [""]
    for verse in verses:
        paragraphs[-1] += verse
        if len(paragraphs[-1]) >= PARAGRAPH_CHARACTERS and verse.endswith(("。", "？", "！", "”")):
            paragraphs.append("")
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def chapter_name(number: int) -> str:
    """第一章 to 第一百五十章."""
    hundreds, rest = divmod(number, 100)
    tens, ones = divmod(rest, 10)
    text = f"{DIGITS[hundreds]}百" if hundreds else ""
    if tens:
        text += ("" if tens == 1 and not hundreds else DIGITS[tens]) + "十"
    elif hundreds and ones:
        text += "零"
    return f"第{text}{DIGITS[ones] if ones else ''}章"


def chinese_prose(package: Path) -> Iterator[tuple[str, str]]:
    """Confucian classics by chapter, 古文观止 by essay, primers by part, 幽梦影 by some sayings with their comments."""
    data = package / "package" / "dist"
    for name, file in (("论语", "lunyu/lunyu.json"), ("孟子", "sishuwujing/mengzi.json")):
        for chapter in load(data / file):
            yield document(f"{name}·{chapter['chapter']}", chapter["paragraphs"])
    for file in ("sishuwujing/daxue.json", "sishuwujing/zhongyong.json"):
        book = load(data / file)
        yield document(book["chapter"], book["paragraphs"])
    for volume in load(data / "mengxue" / "guwenguanzhi.json")["content"]:
        for essay in volume["content"]:
            yield document(f"{essay['chapter']}（{essay['author'].strip()}）", essay["paragraphs"])
    yield from primers(data / "mengxue")
    sayings = load(data / "youmengying" / "youmengying.json")
    yield from packed("幽梦影", [saying(entry["content"], entry["comment"]) for entry in sayings])


def saying(content: str, comments: list[str]) -> str:
    """A saying and its comments; lines that were garbled upstream hold Latin letters and are dropped."""
    lines = [simplified(line) for line in (content, *comments)]
    return "\n".join(line for line in lines if not re.search("[A-Za-z]", line))


def primers(folder: Path) -> Iterator[tuple[str, str]]:
    """Schoolbooks for children: one document a volume or a book."""
    for name in ("youxueqionglin", "shenglvqimeng"):
        book = load(folder / f"{name}.json")
        for volume in book["content"]:
            for chapter in volume["content"]:
                yield document(f"{book['title']}·{chapter['chapter'].replace(' ', '')}", chapter["paragraphs"])
    for name in ("zengguangxianwen", "dizigui"):
        book = load(folder / f"{name}.json")
        yield document(book["title"], [line for chapter in book["content"] for line in chapter["paragraphs"]])
    for name in ("sanzijing-traditional", "zhuzijiaxun"):
        book = load(folder / f"{name}.json")
        yield document(book["title"], book["paragraphs"])


def document(title: str, paragraphs: list[str]) -> tuple[str, str]:
    title = simplified(title)
    return title, simplified("\n".join([title, "", *paragraphs]))


def chinese_poetry(package: Path) -> Iterator[tuple[str, str]]:
    """Some poems a document, each under its title and author."""
    data = package / "package" / "dist"
    songs = load(data / "shijing" / "shijing.json")
    yield from packed("诗经", [poem(f"{song['section']}·{song['title']}", "", song["content"]) for song in songs])
    songs = load(data / "chuci" / "chuci.json")
    yield from packed("楚辞", [poem(song["title"], song["author"], song["content"]) for song in songs])
    songs = load(data / "caocaoshiji" / "caocao.json")
    yield from packed("曹操诗集", [poem(song["title"], "曹操", song["paragraphs"]) for song in songs])
    parts = load(data / "mengxue" / "tangshisanbaishou.json")["content"]
    tang = [song for part in parts for song in part["content"]]
    yield from packed("唐诗三百首", [poem(song["chapter"], song["author"], song["paragraphs"]) for song in tang])
    songs = load(data / "songci" / "宋词三百首.json")
    yield from packed("宋词三百首", [poem(song["rhythmic"], song["author"], song["paragraphs"]) for song in songs])
    songs = load(data / "nalanxingde" / "纳兰性德诗集.json")
    yield from packed("纳兰性德诗集", [poem(song["title"], song["author"], song["para"]) for song in songs])


def poem(title: str, author: str, lines: list[str]) -> str:
    """A poem under its heading; a line without final punctuation gets one."""
    verses = [line.strip() for line in simplified("\n".join(lines)).split("\n") if line.strip()]
    verses = [verse if verse.endswith(tuple("。？！；，：、”’")) else f"{verse}。" for verse in verses]
    return "\n".join([f"《{simplified(title)}》{simplified(author)}", *verses])


def packed(title: str, pieces: list[str]) -> Iterator[tuple[str, str]]:
    """Short pieces gathered into documents of about ``POEMS_CHARACTERS``."""
    part, number = "", 0
    for index, piece in enumerate(pieces):
        part = f"{part}\n\n{piece}" if part else piece
        if len(part) >= POEMS_CHARACTERS or index == len(pieces) - 1:
            number += 1
            yield f"{title}（{number}）", part
            part = ""

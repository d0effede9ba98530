"""Headings with a list below them: "How to ..." with numbered steps, "Ways to ..." with points."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kaiyuan.corpus.units import units
from kaiyuan.curation.extract.candidate import Candidate, end_of, headings, tidy
from kaiyuan.curation.sample import language_of

_ITEM = re.compile(r"^[ \t]*(?:(\d{1,3})[.)、．]|[（(](\d{1,3})[）)]|[-*+•])[ \t]*(?=\S)", re.MULTILINE)
_FEWEST, _MOST, _INTRODUCTION = 3, 40, 400
_HOW = re.compile(r"^(?:how to|steps (?:to|for)|如何|怎样|怎么)", re.IGNORECASE)
_SAYS_NOTHING = re.compile(
    r"^(?:contents|table of contents|toc|references|bibliography|see also|external links|further reading|notes|"
    r"links|index|changelog|change log|licen[cs]e|credits|authors|acknowledge?ments|sources|todo|"
    r"目录|参考文献|参考资料|参见|外部链接|延伸阅读|注释|脚注|更新日志|版本历史|许可证?|致谢|作者|索引|v?\d[\d.\-]*.*)$",
    re.IGNORECASE,
)
_ASK = {
    "en": ("{} Give the steps in order.", "Explain in steps: {}", "Give a list: {}"),
    "zh": ("{}？请按顺序写出步骤。", "请分步说明：{}", "请列出：{}"),
}


def lists(text: str) -> Iterator[Candidate]:
    """One candidate a section that is a short introduction, if any, and one list of three to forty items."""
    for section in headings(text):
        head, body = tidy(section.head), section.body.strip("\n")
        if not _says_something(head) or not (ordered := _list_in(body)):
            continue
        question = _question(head, ordered == "steps")
        yield Candidate(question, tidy(body), section.start, end_of(text, section.start, section.end), "list")


def _says_something(head: str) -> bool:
    return len(units(head)) >= 3 and not _SAYS_NOTHING.match(head) and not head.endswith(("?", "？"))


def _list_in(body: str) -> str:
    """ "steps" or "points" if ``body`` is one list, perhaps introduced; else ""."""
    marks = list(_ITEM.finditer(body))
    if not _FEWEST <= len(marks) <= _MOST or marks[0].start() > _INTRODUCTION:
        return ""
    numbers = [int(mark[1] or mark[2] or 0) for mark in marks]
    steps = numbers == list(range(1, len(marks) + 1))
    if (any(numbers) and not steps) or _links_only(body[marks[0].start() :]):
        return ""
    rest = [line for line in body[marks[0].start() :].split("\n") if line.strip()]
    loose = sum(not _ITEM.match(line) and not line.startswith((" ", "\t")) for line in rest)
    return "" if loose > len(marks) else ("steps" if steps else "points")


def _links_only(body: str) -> bool:
    """A list of links is a menu, not an answer."""
    items = [line for line in body.split("\n") if _ITEM.match(line)]
    links = sum(re.search(r"\]\([^)]*\)\s*$|https?://\S+\s*$", line) is not None for line in items)
    return links * 2 > len(items)


def _question(head: str, steps: bool) -> str:
    asking = _ASK["zh" if language_of(head) == "zh" else "en"]
    if not steps:
        return asking[2].format(head.rstrip("。.:："))
    if not _HOW.match(head):
        return asking[1].format(head.rstrip("。.:："))
    if asking is _ASK["en"]:
        plain = re.sub(r"^how to", "How do I", head.rstrip(".:"), flags=re.IGNORECASE)
        return asking[0].format(f"{plain}?" if plain.startswith("How") else f"{plain}.")
    return asking[0].format(head.rstrip("。：:"))

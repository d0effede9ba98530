"""Names of people, by rules alone: after a title or a self-introduction in English, around one in Chinese.

Off by default: rules find what is introduced as a name and miss the rest, and a corpus without the names of authors and
historical persons is a worse corpus.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from kaiyuan.corpus.pii.spans import Span, Zones

_SURNAMES = (
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林罗郑梁谢宋唐许韩冯邓曹彭曾肖田董袁潘蒋蔡余杜叶程苏魏吕丁任沈姚卢姜崔钟谭陆汪范金石廖贾夏韦"
    "付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔向汤尚施樊兰殷颜倪洪翟"
)
_COMPOUND = "欧阳|司马|上官|诸葛|东方|皇甫|尉迟|公孙|慕容|令狐|司徒|夏侯"
_SURNAME = f"(?:{_COMPOUND}|[{_SURNAMES}])"
_HONORIFIC = (
    "先生|女士|小姐|太太|夫人|老师(?!傅)|教授|博士|院士|医生|大夫|护士|律师|同学|同志|师傅|阿姨|叔叔"
    "|经理|总监|主任|校长|院长|局长|科长|处长|工程师"
)
_STOP = "的了是在和与及来去到也都就说，。今昨年岁家住为我你他她这那有从向跟很不"
_GIVEN = f"(?:(?![{_STOP}]|{_HONORIFIC})[\u4e00-\u9fff])"
_CHINESE_TITLED = re.compile(f"(?<![感多致]){_SURNAME}{_GIVEN}{{0,2}}(?={_HONORIFIC})")
_CHINESE_INTRODUCED = re.compile(
    rf"(?:我叫|名叫|名字[是叫]|我是(?={_SURNAME}{_GIVEN}{{1,2}}[，。,.！!])"
    rf"|(?:姓名|联系人|收件人)[:： ]{{1,2}}|此致[，, ]?)"
    rf"(?P<name>{_SURNAME}{_GIVEN}{{1,2}})"
)
_WORD = r"(?:[OD]['’]|Ma?c)?[A-Z][a-z]+(?:['’-][A-Z][a-z]+)?"
_INITIAL = r"(?:[A-Z]\. ?){0,2}"
_FULL = rf"(?P<name>{_INITIAL}{_WORD}(?: {_INITIAL}{_WORD}){{0,2}})"
_ENGLISH_TITLED = re.compile(rf"(?:Mr|Mrs|Ms|Miss|Dr|Prof|Professor|Sir|Madam)(?<![A-Za-z](?:Mr|Ms|Dr))\.? {_FULL}")
_ENGLISH_INTRODUCED = re.compile(
    r"(?:[Mm]y name is|[Mm]y name's|[Ii] am called|[Cc]all me|(?:Full )?[Nn]ame: ?|[Cc]ontact: ?"
    r"|[Rr]egards,\s|[Ss]incerely,\s"
    rf"|(?:I am|I'm|This is) (?={_WORD} {_INITIAL}{_WORD}[,.!])) ?{_FULL}"
)
_PATTERNS = (
    ("zh-titled", _CHINESE_TITLED, 0), ("zh-introduced", _CHINESE_INTRODUCED, "name"),
    ("en-titled", _ENGLISH_TITLED, "name"), ("en-introduced", _ENGLISH_INTRODUCED, "name"),
)  # fmt: skip


def names(text: str, zones: Zones) -> Iterator[Span]:
    """The name without its title; of overlapping finds, the first."""
    found = [
        Span(*match.span(group), rule)
        for rule, pattern, group in _PATTERNS
        if not (rule.startswith("zh") and text.isascii())
        for match in pattern.finditer(text)
    ]
    last = 0
    for span in sorted(found):
        if span.start >= last:
            last = span.end
            yield span

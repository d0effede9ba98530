"""Identity cards, passports and social security numbers of people, and number plates of their cars."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator

from kaiyuan.corpus.pii.spans import (
    NO_DIGIT_AFTER,
    NO_DIGIT_BEFORE,
    Span,
    Zones,
    before,
    in_hexadecimal,
    library,
    places,
)

_PROVINCE = "(?:1[1-5]|2[1-3]|3[1-7]|4[1-6]|5[0-4]|6[1-5]|71|8[1-3]|9[1-8])"  # 9: foreigners' residence permits
_CARD_18 = re.compile(
    rf"{NO_DIGIT_BEFORE}{_PROVINCE}[0-9]{{4}}[ -]?(?:19|20)[0-9]{{2}}[ -]?[0-9]{{4}}[ -]?"
    rf"[0-9]{{3}}[0-9Xx]{NO_DIGIT_AFTER}"
)
_CARD_15 = re.compile(rf"{NO_DIGIT_BEFORE}{_PROVINCE}[0-9]{{4}}[ -]?[0-9]{{6}}[ -]?[0-9]{{3}}{NO_DIGIT_AFTER}")
_CARD_WORD = re.compile(
    r"(?:身份证|证件|身份号|公民身份|户口|户籍|(?<![A-Za-z])ID(?![A-Za-z])"
    r"|identity (?:card|no|number)|identification|resident)[^0-9\n]{0,18}$",
    re.IGNORECASE,
)

_SSN = re.compile(
    rf"{NO_DIGIT_BEFORE}(?<!-)(?!000|666|9)[0-9]{{3}}([- ]?)(?!00)[0-9]{{2}}\1(?!0000)[0-9]{{4}}(?!-){NO_DIGIT_AFTER}"
)
_SSN_WORD = re.compile(
    r"(?:(?<![A-Za-z])SSN?(?![A-Za-z])|social[ -]security|社会安全号|社安号|社会保障号)[^0-9\n]{0,24}$", re.IGNORECASE
)
_PART_WORD = re.compile(
    r"(?:part|item|sku|model|order|serial|catalog(?:ue)?|型号|编号|订单|货号|零件)[^0-9\n]{0,12}$", re.I
)

_PASSPORT_WORDS = ("护照", "通行证", "passport", "Passport", "PASSPORT")
_PASSPORT = (
    r"(?P<mixed>[A-Za-z]{1,3}[0-9]{6,8}|(?=(?:[A-Z]{0,3}[0-9]){4})[A-Z][A-Z0-9]{8}|[0-9]{2}[A-Z]{2}[0-9]{5})"
    r"|(?P<digits>[0-9]{8,9}|[0-9]{2} [0-9]{7})"
)
_GAP = r"[^0-9\n。.!?！？]"
_AFTER_WORD = re.compile(rf"{_GAP}{{0,48}}?(?:\.\s?)?{_GAP}{{0,4}}?(?<![A-Za-z0-9-])(?:{_PASSPORT})(?![A-Za-z0-9-])")
_LINK = re.compile(
    r"(?:s|\s|:|：|#|number|num(?![a-z])|no(?![a-z])|nr(?![a-z])|\.|is|was|with|\(|（|号码?|号|是|为|编|码|=|[\"'/，,])*",
    re.IGNORECASE,
)
_BEFORE_WORD = re.compile(
    r"(?<![A-Za-z0-9-])[A-Za-z]{1,2}[0-9]{7,8}(?=[号 ]{0,2}(?:的|[(（]?|as |on |is ) ?"
    r"(?:(?:my|his|her|a|the|your|中国|美国|普通|因私|[A-Z][a-z]+) ?){0,2}$)"
)

_PLATE = re.compile(
    r"[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼][A-HJ-NP-Z][·•・ .-]?"
    r"(?:[DF][A-HJ-NP-Z0-9][0-9]{4}|[0-9]{5}[DF]|(?=[A-Z]{0,4}[0-9])[A-HJ-NP-Z0-9]{5}|[A-HJ-NP-Z0-9]{4}[学警港澳挂])"
    r"(?![A-Za-z0-9])"
)


def identity_cards(text: str, zones: Zones) -> Iterator[Span]:
    """18 digits with a right date and check digit; 15 (before 1999), which have none, after a word for them."""
    for match in zones.matches(_CARD_18, text):
        if _is_identity(re.sub("[ -]", "", match[0]).upper()):
            yield Span(*match.span(), "cn-18")
    for match in zones.matches(_CARD_15, text):
        if _is_date("19" + re.sub("[ -]", "", match[0])[6:12]) and before(_CARD_WORD, text, match.start(), 28):
            yield Span(*match.span(), "cn-15")


def _is_identity(number: str) -> bool:
    """Check digit and date of birth; the table of counties is left out, since every reform leaves it out of date."""
    ric = library("stdnum.cn.ric")

    return _is_date(number[6:14]) and bool(ric.calc_check_digit(number) == number[-1])


def _is_date(digits: str) -> bool:
    try:
        datetime.date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))
    except ValueError:
        return False
    return True


def social_security_numbers(text: str, zones: Zones) -> Iterator[Span]:
    """US numbers with their hyphens; with spaces or nothing between the groups only after a word for them."""
    for match in zones.matches(_SSN, text):
        if match[1] == "-":
            wanted = not before(_PART_WORD, text, match.start())
        else:
            wanted = before(_SSN_WORD, text, match.start(), 36) and not in_hexadecimal(text, *match.span())
        if wanted:
            yield Span(*match.span(), "us-ssn")


def passports(text: str, zones: Zones) -> Iterator[Span]:
    """Numbers of the common forms near "passport" or 护照; digits alone only where nothing else stands between."""
    words, last = places(text, _PASSPORT_WORDS), 0
    for index, (start, end) in enumerate(words):
        # No further than the words on both sides, which have their own turns: else a text of such words takes long.
        left = max(start - 40, words[index - 1][1] if index else 0, last)
        right = min(end + 72, words[index + 1][0] if index + 1 < len(words) else len(text))
        for found in (_passport_before(text, left, start), _passport_after(text, end, right)):
            if found is not None:
                last = found[1]
                yield Span(*found, "passport")


def _passport_before(text: str, left: int, word: int) -> tuple[int, int] | None:
    match = _BEFORE_WORD.search(text, left, word)
    return match.span() if match else None


def _passport_after(text: str, word: int, right: int) -> tuple[int, int] | None:
    match = _AFTER_WORD.match(text, word, right)
    if match is None:
        return None
    if match["mixed"]:
        return match.span("mixed") if match["mixed"][:3].isupper() or not match["mixed"][:3].isalpha() else None
    linked = _LINK.fullmatch(text, word, match.start("digits")) is not None
    is_date = len(match["digits"]) == 8 and _is_date(match["digits"])
    counted = text[match.end() : match.end() + 1] in tuple("本张份人元次页")
    return match.span("digits") if linked and not is_date and not counted else None


def plates(text: str, zones: Zones) -> Iterator[Span]:
    if text.isascii():
        return
    for match in _PLATE.finditer(text):
        yield Span(*match.span(), "cn-plate")

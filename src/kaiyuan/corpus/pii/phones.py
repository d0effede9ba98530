"""Telephone numbers: Chinese and North American by their form, others by country code, any after a word for them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from kaiyuan.corpus.pii.spans import NO_DIGIT_AFTER, NO_DIGIT_BEFORE, Span, Zones, before, in_hexadecimal, library

_CHINA = r"(?:(?:\(?\+86\)?|(?:00)?86)[- ]?)?"
_PHONES = re.compile(
    rf"{NO_DIGIT_BEFORE}(?:"
    rf"(?P<cn>{_CHINA}(?:1[3-9][0-9][- ]?[0-9]{{4}}[- ]?[0-9]{{4}}|1[3-9][0-9]([ -])[0-9]{{3}}\2[0-9]{{5}}"  # mobile
    rf"|(?:\(0(?:10|2[0-9])\)|0(?:10|2[0-9]))[- ]?[2-9][0-9]{{3}}[- ]?[0-9]{{4}}"  # landline, 3-digit area code
    rf"|(?:\(0[3-9][0-9]{{2}}\)|0[3-9][0-9]{{2}})[- ]?[2-9][0-9]{{2,3}}[- ]?[0-9]{{4}})"  # 4-digit area code
    r"|[48]00-[0-9]{3,4}-[0-9]{3,4})"  # Chinese service numbers
    r"|(?P<us>(?<!-)(?:\+?1[-. ]?)?"  # North America
    r"(?:\([2-9][0-9]{2}\) ?[2-9][0-9]{2}[-. ]|[2-9][0-9]{2}-[2-9][0-9]{2}-|[2-9][0-9]{2}\.[2-9][0-9]{2}\.)"
    r"[0-9]{4}(?!-))"
    rf"){NO_DIGIT_AFTER}"
)
_CODED = re.compile(
    r"(?<![0-9)])(?:(?:\((?=\+[0-9]{1,3}\)))?\+ ?\(?|(?<![0-9.,-])00(?=[1-9][0-9]{0,2}[- (]))"
    r"[0-9](?:[ ().-]{0,3}[0-9]){6,16}"
)
_LAST_GROUP = re.compile(r"[ ().-]+[0-9]+$")

_GROUPED = re.compile(rf"{NO_DIGIT_BEFORE}\+?\(?[0-9](?:[ ().-]{{0,2}}[0-9]){{6,14}}{NO_DIGIT_AFTER}")
_PHONE_WORD = re.compile(
    r"(?:(?<![a-z])(?:tele?(?:phone)?|phone|mobile|cell(?:phone)?|fax|call|dial|ring|text|sms|whatsapp|hotline)"
    r"|电话|手机|座机|固话|热线|传真|致电|拨打|打给|短信|联系方式|微信)"
    r"(?:s(?![a-z])|\s|:|：|\.|#|\(|\)|（|）|[=\"'/]|number|no(?![a-z])|is|was|at|on|me|us|him|her|them|today|now|or|home|work|office"
    r"|号码?|联系|我|他|她|到|至|是|为|请|可|或|就|打){0,8}$",
    re.IGNORECASE,
)
_DATE = re.compile(r"(?:19|20)[0-9]{2}([-. ]?)(?:0?[1-9]|1[0-2])\1(?:0?[1-9]|[12][0-9]|3[01])")
_COUNTED = re.compile(
    r"[ ]?(?:times|people|units|users|minutes|元|块|台|部|次|个|人|万|亿|条|%|％|年|种|家|名|位用户)", re.IGNORECASE
)


def coded_phones(text: str, zones: Zones) -> Iterator[Span]:
    """Numbers with ``+`` or 00 and a country code that phonenumbers knows; digits behind a valid one are left alone."""
    for match in zones.matches(_CODED, text):
        number = match[0]
        for _ in range(4):
            if _is_international(number):
                yield Span(match.start(), match.start() + len(number), "international")
                break
            number, groups = _LAST_GROUP.subn("", number)
            if not groups:
                break


def _is_international(number: str) -> bool:
    """What ``phonenumbers.is_valid_number`` says of a number with its country code, from its tables, much faster."""
    digits = "".join(filter(str.isdigit, number.replace("(0)", "")))
    digits = digits[2:] if number.startswith("00") else digits
    for length in (1, 2, 3):  # no country code starts with another one
        pattern = _national(digits[:length])
        if pattern:
            national = digits[length:]
            return bool(pattern.fullmatch(national) or (national[:1] == "0" and pattern.fullmatch(national[1:])))
    return False


@cache
def _national(code: str) -> re.Pattern[str] | None:
    """What may follow a country code: a number of any kind, in any of the regions that share it."""
    phonenumbers = library("phonenumbers")
    regions = phonenumbers.COUNTRY_CODE_TO_REGION_CODE.get(int(code or 0)) if not code.startswith("0") else None
    if not regions:
        return None
    patterns = {
        pattern for region in regions for pattern in _kinds_of_numbers(phonenumbers.PhoneMetadata, region, code)
    }
    return re.compile("|".join(f"(?:{pattern})" for pattern in sorted(patterns)))


def _kinds_of_numbers(metadata: Any, region: str, code: str) -> Iterator[str]:
    known = metadata.metadata_for_nongeo_region(int(code)) if region == "001" else metadata.metadata_for_region(region)
    for kind in (
        "fixed_line",
        "mobile",
        "toll_free",
        "premium_rate",
        "shared_cost",
        "personal_number",
        "voip",
        "pager",
        "uan",
    ):
        description = getattr(known, kind)
        if description is not None and description.national_number_pattern:
            yield description.national_number_pattern


def phones(text: str, zones: Zones) -> Iterator[Span]:
    """Chinese mobile, landline and service numbers; North American ones with signs between their groups."""
    for match in zones.matches(_PHONES, text):
        if not in_hexadecimal(text, *match.span()):
            yield Span(*match.span(), "cn" if match["cn"] else "us")


def named_phones(text: str, zones: Zones) -> Iterator[Span]:
    """7 to 15 digits, in groups or not, right after a word such as phone, call, 电话; neither a date nor a count."""
    for match in zones.matches(_GROUPED, text):
        if (
            before(_PHONE_WORD, text, match.start(), 32)
            and not _DATE.fullmatch(match[0])
            and not _COUNTED.match(text, match.end())
        ):
            yield Span(*match.span(), "after-a-word")

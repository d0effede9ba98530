"""Personal data out, placeholders in: e-mail addresses, phone numbers, IP addresses, identity and bank cards.

Every pattern brings its own ASCII lookarounds. ``\\b`` is no help: Python takes Han characters for word characters,
so that between 是 and 8 in IP是8.8.8.8 there is no boundary. What is deliberately left alone:

- loopback, unspecified, multicast and reserved addresses and net masks (127.0.0.1, ::1, 0.0.0.0, 255.255.255.0), which
  identify nobody; private ones (192.168.1.7) are replaced: in a log they may well identify a machine and its user;
- dotted numbers that the text calls a version or a section (v1.2.3.4, 版本1.2.3.4, Chrome/118.0.0.1);
- identity and card numbers whose check digit is wrong, 15-digit identity numbers (before 1999), which have none, and
  phone numbers without area or country code: nothing sets them apart from other numbers;
- digits inside long hexadecimal strings.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator

Span = tuple[int, int]

_START = r"(?<![0-9])(?<![0-9]\.)"
_END = r"(?![0-9])(?!\.[0-9])"

_LOCAL_PART = re.compile(r"[A-Za-z0-9_%+][A-Za-z0-9._%+-]*$")
_DOMAIN = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}")

_IDENTITY = re.compile(rf"{_START}[1-9][0-9]{{5}}[ -]?(?:19|20)[0-9]{{6}}[ -]?[0-9]{{3}}[0-9Xx]{_END}")

_CARD = re.compile(
    rf"{_START}(?:[2-69][0-9]{{12,18}}|[2-69][0-9]{{3}}([ -])[0-9]{{4}}\1[0-9]{{4}}\1[0-9]{{4}}(?:\1[0-9]{{1,3}})?"
    rf"|3[47][0-9]{{2}}([ -])[0-9]{{6}}\2[0-9]{{5}}){_END}"
)
_ISSUER = re.compile(
    "62[0-9]{14,17}|9558[0-9]{12,15}"  # UnionPay and the cards of Chinese banks before it
    "|4[0-9]{12}|4[0-9]{15}|4[0-9]{18}|5[1-5][0-9]{14}|2[2-7][0-9]{14}"  # Visa, Mastercard
    "|3[47][0-9]{13}|35[0-9]{14}|3[068][0-9]{12}|6(?:011|5[0-9]{2}|4[4-9][0-9])[0-9]{12}"  # Amex, JCB, Diners, Discover
)

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = re.compile(rf"{_START}{_OCTET}(?:\.{_OCTET}){{3}}{_END}")
_NO_ADDRESS = re.compile(
    r"(?:(?<![a-z])v(?:er(?:sion)?)?[.]?|版本?号?|release|build|section|chapter|§|第|[=<>~]=|[~^]"
    r"|(?:chrom(?:e|ium)|edge?|safari|firefox|opr|opera|micromessenger|version)/)[ :：]*$",
    re.IGNORECASE,
)
_IPV6 = re.compile(r"(?<![0-9:.])[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{0,4}){2,7}")

_CHINA = r"(?:(?:\+|00)?86[- ]?)?"
_PHONES = re.compile(
    rf"{_START}(?:"
    rf"{_CHINA}1[3-9][0-9][- ]?[0-9]{{4}}[- ]?[0-9]{{4}}"  # Chinese mobile
    rf"|{_CHINA}(?:\(0(?:10|2[0-9])\)|0(?:10|2[0-9]))[- ]?[2-9][0-9]{{3}}[- ]?[0-9]{{4}}"  # landline, 3-digit area code
    rf"|{_CHINA}(?:\(0[3-9][0-9]{{2}}\)|0[3-9][0-9]{{2}})[- ]?[2-9][0-9]{{2,3}}[- ]?[0-9]{{4}}"  # 4-digit area code
    r"|[48]00-[0-9]{3,4}-[0-9]{3,4}"  # Chinese service numbers
    r"|(?<!-)(?:\+?1[-. ]?)?"  # North America
    r"(?:\([2-9][0-9]{2}\) ?[0-9]{3}[-. ]|[2-9][0-9]{2}-[0-9]{3}-|[2-9][0-9]{2}\.[0-9]{3}\.)[0-9]{4}(?!-)"
    rf"){_END}"
)
_SEVEN_DIGITS = re.compile("[0-9](?:[-. ()]{0,2}[0-9]){6}")
_PLUS = re.compile(r"(?<![0-9)])\+ ?\(?[0-9](?:[ ().-]{0,3}[0-9]){6,16}")
_LAST_GROUP = re.compile(r"[ ().-]+[0-9]+$")

_WIDE = re.compile("[０-９Ａ-Ｚａ-ｚ＠．－＋（）\u2010-\u2013]")
_NARROW = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F) if chr(code) not in "：，；！？"} | dict.fromkeys(
    range(0x2010, 0x2014), ord("-")
)
_HEX = re.compile("[0-9A-Fa-f]{32,}")
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")


def anonymize(text: str) -> tuple[str, Counter[str]]:
    """``text`` with ``[EMAIL]``, ``[ID]``, ``[CARD]``, ``[IP]`` and ``[PHONE]`` for personal data, and the counts.

    The counter's keys are "email", "id", "card", "ip" and "phone". Full-width digits and letters count as ASCII ones.
    """
    # One character becomes one character, so that what is found in ``plain`` lies at the same place in ``text``.
    plain = text.translate(_NARROW) if _WIDE.search(text) else text
    found: list[tuple[int, int, str]] = []
    for kind, find in _DETECTORS:
        spans = list(find(plain))
        found += [(start, end, kind) for start, end in spans]
        plain = _fill(plain, [(start, end, "\0" * (end - start)) for start, end in spans])
    found.sort()
    anonymous = _fill(text, [(start, end, f"[{kind.upper()}]") for start, end, kind in found])
    return anonymous, Counter(kind for _, _, kind in found)


def _fill(text: str, spans: list[tuple[int, int, str]]) -> str:
    """``text`` with every span (in order, none overlapping) replaced by its third entry."""
    pieces, position = [], 0
    for start, end, filling in spans:
        pieces += [text[position:start], filling]
        position = end
    return "".join([*pieces, text[position:]]) if spans else text


def _emails(text: str) -> Iterator[Span]:
    at, last = text.find("@"), 0
    while at >= 0:
        local = _LOCAL_PART.search(text, max(last, at - 64), at)
        domain = _DOMAIN.match(text, at + 1)
        if local and domain:
            last = domain.end()
            yield local.start(), last
        at = text.find("@", at + 1)


def _identity_cards(text: str) -> Iterator[Span]:
    for match in _IDENTITY.finditer(text):
        if _is_identity(re.sub("[ -]", "", match[0]).upper()):
            yield match.span()


def _is_identity(number: str) -> bool:
    """Check digit and date of birth; the table of counties is left out, since every reform leaves it out of date."""
    from stdnum.cn import ric
    from stdnum.exceptions import ValidationError

    try:
        ric.get_birth_date(number)
    except ValidationError:
        return False
    return bool(ric.calc_check_digit(number) == number[-1])


def _bank_cards(text: str) -> Iterator[Span]:
    from stdnum import luhn

    for match in _CARD.finditer(text):
        number = re.sub("[ -]", "", match[0])
        if _ISSUER.fullmatch(number) and luhn.is_valid(number) and not _in_hex(text, *match.span()):
            yield match.span()


def _ipv4_addresses(text: str) -> Iterator[Span]:
    for match in _IPV4.finditer(text):
        if _NO_ADDRESS.search(text, max(0, match.start() - 16), match.start()) is None and _is_personal(match[0]):
            yield match.span()


def _ipv6_addresses(text: str) -> Iterator[Span]:
    for match in _IPV6.finditer(text):
        found = match[0] if match[0].endswith("::") else match[0].rstrip(":")
        written_out = len(found.split(":", 1)[0]) == 4 or found.count(":") == 7
        if written_out and any(map(str.isdigit, found)) and _is_personal(found):
            yield match.start(), match.start() + len(found)


def _is_personal(address: str) -> bool:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    nobody = ip.is_loopback or ip.is_unspecified or ip.is_multicast or ip.is_reserved
    return not nobody and not (ip.version == 4 and ip.packed[0] == 0)


def _phones(text: str) -> Iterator[Span]:
    if not _SEVEN_DIGITS.search(text):  # most texts: a search ten times faster than the one below
        return
    for match in _PHONES.finditer(text):
        if not _in_hex(text, *match.span()):
            yield match.span()


def _international_phones(text: str) -> Iterator[Span]:
    """Numbers with ``+`` and a country code that phonenumbers knows; digits behind a valid number are left alone."""
    for match in _PLUS.finditer(text):
        number = match[0]
        while number and not _is_international(number):
            shorter = _LAST_GROUP.sub("", number)
            number = shorter if shorter != number else ""
        if number:
            yield match.start(), match.start() + len(number)


def _is_international(number: str) -> bool:
    import phonenumbers

    try:
        return bool(phonenumbers.is_valid_number(phonenumbers.parse(number, None)))
    except phonenumbers.NumberParseException:
        return False


def _in_hex(text: str, start: int, end: int) -> bool:
    """Whether the digits of a match are part of a hash or another long hexadecimal string."""
    while start > 0 and text[start - 1] in _HEX_DIGITS:
        start -= 1
    while end < len(text) and text[end] in _HEX_DIGITS:
        end += 1
    return _HEX.fullmatch(text, start, end) is not None


_DETECTORS: tuple[tuple[str, Callable[[str], Iterator[Span]]], ...] = (
    ("email", _emails),
    ("id", _identity_cards),
    ("card", _bank_cards),
    ("ip", _ipv4_addresses),
    ("ip", _ipv6_addresses),
    ("phone", _international_phones),
    ("phone", _phones),
)

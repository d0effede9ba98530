"""Bank cards and IBANs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kaiyuan.corpus.pii.spans import NO_DIGIT_AFTER, NO_DIGIT_BEFORE, Span, Zones, before, in_hexadecimal, library

_CARD = re.compile(
    rf"{NO_DIGIT_BEFORE}(?:[2-69][0-9]{{11,18}}"
    rf"|[2-69][0-9]{{3}}([ .-])[0-9]{{4}}\1[0-9]{{4}}\1[0-9]{{4}}(?:\1[0-9]{{1,3}})?|62[0-9]{{4}} [0-9]{{13}}"
    rf"|3[47][0-9]{{2}}([ -])[0-9]{{6}}\2[0-9]{{5}}|3[068][0-9]{{2}}([ -])[0-9]{{6}}\3[0-9]{{4}}){NO_DIGIT_AFTER}"
)
_ISSUER = re.compile(
    "62[0-9]{14,17}|9558[0-9]{12,15}"  # UnionPay and the cards of Chinese banks before it
    "|4[0-9]{12}|4[0-9]{15}|4[0-9]{18}|5[1-5][0-9]{14}|2[2-7][0-9]{14}"  # Visa, Mastercard
    "|3[47][0-9]{13}|35[0-9]{14}|3[068][0-9]{12}|6(?:011|5[0-9]{2}|4[4-9][0-9])[0-9]{12}"  # Amex, JCB, Diners, Discover
)
_MAESTRO = re.compile("(?:50|5[6-8]|6[0-9])[0-9]{10,17}")
_CARD_WORD = re.compile(r"(?:card|卡)[^0-9\n]{0,16}$", re.IGNORECASE)

_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}", re.IGNORECASE)
_IBAN_LENGTHS = {
    15: "NO", 16: "BE", 18: "DK FI FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK",
    21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HU LB NI PL SV", 29: "BR EG PS QA UA", 30: "JO KW MU", 31: "MT SC", 32: "LC", 33: "RU",
}  # fmt: skip
_LENGTH_OF = {country: length for length, countries in _IBAN_LENGTHS.items() for country in countries.split()}


def bank_cards(text: str, zones: Zones) -> Iterator[Span]:
    """Numbers of an issuer's length with a right Luhn digit; Maestro's, of any length, only after a word for card."""
    luhn = library("stdnum.luhn")

    for match in zones.matches(_CARD, text):
        number = re.sub("[ .-]", "", match[0])
        known = _ISSUER.fullmatch(number) or (_MAESTRO.fullmatch(number) and before(_CARD_WORD, text, match.start()))
        if known and luhn.is_valid(number) and not in_hexadecimal(text, *match.span()):
            yield Span(*match.span(), "card")


def ibans(text: str, zones: Zones) -> Iterator[Span]:
    """As many characters as the country's IBANs have, with the right check digits; in groups or not."""
    iban = library("stdnum.iban")

    for match in zones.matches(_IBAN, text):
        end = _end_of(match[0], _LENGTH_OF.get(match[0][:2].upper(), 0))
        tail = text[match.start() + end : match.start() + end + 1]
        if end and not (tail.isascii() and tail.isalnum()) and iban.is_valid(match[0][:end], check_country=False):
            yield Span(match.start(), match.start() + end, "iban")


def _end_of(found: str, length: int) -> int:
    """Where the first ``length`` characters other than spaces of ``found`` end; 0 if there are fewer."""
    seen = 0
    for index, char in enumerate(found):
        seen += char != " "
        if length and seen == length:
            return index + 1
    return 0

"""Which detectors run in what order, and what takes the place of what they find."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal, get_args

from kaiyuan.corpus.pii.addresses import ipv4_addresses, ipv6_addresses
from kaiyuan.corpus.pii.emails import emails
from kaiyuan.corpus.pii.finance import bank_cards, ibans
from kaiyuan.corpus.pii.identity import identity_cards, passports, plates, social_security_numbers
from kaiyuan.corpus.pii.names import names
from kaiyuan.corpus.pii.phones import coded_phones, named_phones, phones
from kaiyuan.corpus.pii.secrets import secrets
from kaiyuan.corpus.pii.spans import Finding, Span, Zones, blank, fill, fold
from kaiyuan.settings import Settings

Kind = Literal["email", "phone", "id", "passport", "ssn", "card", "iban", "ip", "secret", "plate", "name"]
KINDS: tuple[Kind, ...] = get_args(Kind)

Detector = Callable[[str, Zones], Iterator[Span]]

# The order settles who takes what several could take: the surest first.
_DETECTORS: tuple[tuple[Kind, Detector], ...] = (
    ("secret", secrets),
    ("email", emails),
    ("iban", ibans),
    ("id", identity_cards),
    ("card", bank_cards),
    ("passport", passports),
    ("ip", ipv4_addresses),
    ("ip", ipv6_addresses),
    ("phone", coded_phones),
    ("phone", phones),
    ("ssn", social_security_numbers),
    ("phone", named_phones),
    ("plate", plates),
    ("name", names),
)
_NEEDS_DIGITS = {
    ibans,
    identity_cards,
    bank_cards,
    ipv4_addresses,
    coded_phones,
    phones,
    social_security_numbers,
    named_phones,
}
_MAY_BE_PRIVATE = {ipv4_addresses, ipv6_addresses}


class PrivacySettings(Settings):
    """What ``anonymize`` looks for and writes."""

    kinds: list[Kind] = [kind for kind in KINDS if kind != "name"]
    numbered: bool = False
    """``[EMAIL_1]``, ``[EMAIL_2]``: the same datum has the same number throughout a document, however it is spelt."""
    private_addresses: bool = False
    """Replace addresses of private networks and links (192.168.1.7, fe80::1), too."""


DEFAULT = PrivacySettings()


def find(text: str, settings: PrivacySettings = DEFAULT) -> list[Finding]:
    """Everything that ``settings`` ask for, in order, none overlapping; offsets are those of ``text``."""
    # One character becomes one character, so that what is found in ``plain`` lies at the same place in ``text``.
    plain = fold(text)
    zones = Zones(plain)
    found: list[Finding] = []
    for kind, detector in _DETECTORS:
        if kind not in settings.kinds or (detector in _NEEDS_DIGITS and not zones.spans):
            continue
        find_spans = partial(detector, private=settings.private_addresses) if detector in _MAY_BE_PRIVATE else detector
        spans = list(find_spans(plain, zones))
        if spans:
            found += [Finding(start, end, kind, rule) for start, end, rule in spans]
            plain = blank(plain, spans)
    return sorted(found)


def canonical(text: str, finding: Finding) -> str:
    """The datum in one spelling, for numbers and hashes: width, case, separators, +86 and +1 make no difference."""
    value = fold(text[finding.start : finding.end])
    if finding.kind in ("secret", "name"):
        return value
    if finding.kind in ("email", "ip"):
        return value.lower()
    value = "".join(filter(str.isalnum, value)).upper()
    return (
        _without_country(value, text[finding.start : finding.end], finding.rule) if finding.kind == "phone" else value
    )


def _without_country(digits: str, written: str, rule: str) -> str:
    digits = digits.removeprefix("00")
    if digits.startswith("86") and len(digits) >= 12:
        return digits[2:]
    # An 11-digit number that starts with 1 is North American or a Chinese mobile: only how it is written tells.
    return digits[1:] if len(digits) == 11 and (rule == "us" or fold(written).startswith("+1")) else digits


def replace(text: str, findings: Sequence[Finding], numbered: bool = False) -> str:
    """``text`` with ``[KIND]``, or ``[KIND_1]``, ``[KIND_2]``, ... in the place of every finding."""
    if not numbered:
        return fill(text, ((start, end, f"[{kind.upper()}]") for start, end, kind, _ in findings))
    numbers: dict[str, dict[str, int]] = {}
    filled = []
    for finding in findings:
        known = numbers.setdefault(finding.kind, {})
        number = known.setdefault(canonical(text, finding), len(known) + 1)
        filled.append((finding.start, finding.end, f"[{finding.kind.upper()}_{number}]"))
    return fill(text, filled)


def anonymize(text: str, settings: PrivacySettings = DEFAULT) -> tuple[str, Counter[str]]:
    """``text`` with placeholders (``[EMAIL]``, ``[PHONE]``, ...) for personal data, and the counts by kind."""
    findings = find(text, settings)
    return replace(text, findings, settings.numbered), Counter(finding.kind for finding in findings)

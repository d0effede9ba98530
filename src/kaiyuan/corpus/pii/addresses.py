"""IP addresses, and what only looks like one: versions, sections, net masks."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from functools import cache, lru_cache

from kaiyuan.corpus.pii.spans import NO_DIGIT_AFTER, NO_DIGIT_BEFORE, Span, Zones, before

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = re.compile(rf"{NO_DIGIT_BEFORE}{_OCTET}(?:\.{_OCTET}){{3}}{NO_DIGIT_AFTER}")
_VERSION_BEFORE = re.compile(
    r"(?:(?<![a-z])(?:v(?:er(?:sion)?)?|rev(?:ision)?|release|build|section|chapter|clause|firmware|driver|patch|sdk|oid"
    r"|update|upgraded? to|since)[.]?|版本?号?|固件|驱动|补丁|升级到|更新到|章节?|条款|§|第|[=<>~]=|[~^]"
    r"|[a-z]/|[a-z][-_])[ :：]*$",
    re.IGNORECASE,
)
_VERSION_AFTER = re.compile(
    r" ?(?:版本|版(?!权)|固件|补丁|节|章|小节|release|version|update|firmware)"
    r"|[-_.](?:tar|zip|whl|jar|deb|rpm|exe|dmg|msi|tgz|gz|dll|so|apk|alpha|beta|rc|dev|post|final|snapshot)",
    re.IGNORECASE,
)
_HEADING = re.compile(r"(?:\A|\n)[ \t#>*]{0,8}$")

_COLONS = re.compile(r":[0-9A-Fa-f]{0,4}:")
_IPV6 = re.compile(r"(?<![0-9:.])[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{0,4}){2,7}")
_DOCUMENTATION = ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20")


def ipv4_addresses(text: str, zones: Zones, private: bool = False) -> Iterator[Span]:
    for match in zones.matches(_IPV4, text):
        if _is_personal(match[0], private) and not _is_version(text, match):
            yield Span(*match.span(), "ipv4")


def _is_version(text: str, match: re.Match[str]) -> bool:
    return (
        before(_VERSION_BEFORE, text, match.start(), 16)
        or _VERSION_AFTER.match(text, match.end()) is not None
        or _is_heading(text, match)
    )


def _is_heading(text: str, match: re.Match[str]) -> bool:
    """``3.2.1.4 Scope`` at the start of a line: four small numbers, not all alike as in 1.1.1.1, then a title."""
    numbers = match[0].split(".")
    return (
        all(int(number) < 30 for number in numbers)
        and len(set(numbers)) > 1
        and text[match.end() : match.end() + 1] in (" ", "\t", "、")
        and before(_HEADING, text, match.start(), 9)
    )


def ipv6_addresses(text: str, zones: Zones, private: bool = False) -> Iterator[Span]:
    """Addresses that are written out or start with four digits: ``a::b`` is C++."""
    last = 0
    for colons in _COLONS.finditer(text):
        if colons.start() < last:
            continue
        match = _IPV6.search(text, max(last, colons.start() - 4), colons.end() + 36)
        if match is None:
            continue
        found = match[0] if match[0].endswith("::") else match[0].rstrip(":")
        last = match.start() + len(found)
        written_out = len(found.split(":", 1)[0]) == 4 or found.count(":") == 7
        if written_out and any(map(str.isdigit, found)) and _is_personal(found, private):
            yield Span(match.start(), last, "ipv6")


@lru_cache(4096)  # logs name the same few addresses again and again
def _is_personal(address: str, private: bool) -> bool:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if (
        ip.is_loopback
        or ip.is_unspecified
        or ip.is_multicast
        or ip.is_reserved
        or (ip.version == 4 and not ip.packed[0])
    ):
        return False
    return private or ip.is_global or any(ip in network for network in _documentation(ip.version))


@cache
def _documentation(version: int) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    networks = map(ipaddress.ip_network, _DOCUMENTATION)
    return [network for network in networks if network.version == version]

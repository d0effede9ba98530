"""E-mail addresses, also with "@" and "." spelt out in brackets."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kaiyuan.corpus.pii.spans import Span, Zones, places

_LOCAL = re.compile(r"(?:(?<![A-Za-z])[DLOdlo]'(?=[A-Za-z]))?[A-Za-z0-9_%+][A-Za-z0-9._%+-]{0,63}$")
_DOMAIN = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}")
_NEXT_SENTENCE = re.compile(r"\.[A-Z][a-z]+$")
_FILE = re.compile(r"\.(?:png|jpe?g|gif|svg|webp|ico|css|js|ts|py|json|html?|xml|md|txt|zip|gz|so|dll)$", re.IGNORECASE)

_NAME = r"[A-Za-z0-9_%+][A-Za-z0-9._%+-]{0,63}"
_LABEL = "[A-Za-z0-9][A-Za-z0-9-]{0,61}"
_SPELT = re.compile(
    rf"{_NAME} ?[\[({{<] ?at ?[\])}}>] ?{_LABEL}(?:(?:\.| ?[\[({{<] ?dot ?[\])}}>] ?){_LABEL}){{1,6}}", re.IGNORECASE
)
_SPELT_IN_CAPITALS = re.compile(rf"{_NAME} AT {_LABEL}(?:(?:\.| DOT ){_LABEL}){{1,6}}")
_SIGNS = ("at]", "at)", "at}", "at ]", "AT]", "AT)", " AT ")


def emails(text: str, zones: Zones) -> Iterator[Span]:
    """Addresses of ASCII letters; ``git@host:`` (a repository) and names of files (icon@2x.png) are none."""
    yield from sorted([*_plain(text), *_spelt_out(text)])


def _plain(text: str) -> Iterator[Span]:
    at, last = text.find("@"), 0
    while at >= 0:
        domain = _DOMAIN.match(text, at + 1)
        local = _LOCAL.search(text, max(last, at - 64), at) if domain else None
        if local and domain:
            host = _without_next_sentence(domain[0])
            if not _FILE.search(host) and not (local[0] == "git" and text.startswith(":", at + 1 + len(host))):
                last = at + 1 + len(host)
                yield Span(local.start(), last, "email")
        at = text.find("@", at + 1)


def _without_next_sentence(host: str) -> str:
    """``example.com.Please`` is ``example.com`` and a sentence that starts without a space."""
    shorter = _NEXT_SENTENCE.sub("", host)
    return shorter if "." in shorter and shorter == shorter.lower() else host


def _spelt_out(text: str) -> Iterator[Span]:
    last = 0
    for _, place in places(text, _SIGNS):
        if place > last and (match := _spelt_around(text, place, last)):
            last = match.end()
            yield Span(*match.span(), "email-spelt-out")


def _spelt_around(text: str, place: int, last: int) -> re.Match[str] | None:
    """The spelt-out address whose "at" ends at ``place``; its local part is the run of characters before the sign."""
    if text.startswith(" AT ", place - 4):
        end, pattern = place - 4, _SPELT_IN_CAPITALS
    else:
        bracket = max(text.rfind(sign, max(0, place - 6), place) for sign in "[({<")
        end, pattern = bracket - (text[max(0, bracket - 1) : bracket] == " "), _SPELT
    local = _LOCAL.search(text, max(last, end - 64), end) if end > 0 else None
    return pattern.match(text, local.start()) if local else None

"""Keys, tokens and passwords: by the form that their issuer gives them, or by the name that they are assigned to."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from kaiyuan.corpus.pii.spans import Span, Zones, places

_NO_WORD = "(?![A-Za-z0-9])"
_ISSUED: tuple[tuple[str, str, str], ...] = (
    # rule, how it starts, what follows the start
    ("aws-key", "AKIA", rf"[A-Z2-7]{{16}}{_NO_WORD}"),
    ("aws-key", "ASIA", rf"[A-Z2-7]{{16}}{_NO_WORD}"),
    ("alibaba-key", "LTAI", rf"[A-Za-z0-9]{{12,24}}{_NO_WORD}"),
    ("tencent-key", "AKID", rf"[A-Za-z0-9]{{32}}{_NO_WORD}"),
    ("github-token", "ghp_", rf"[A-Za-z0-9]{{36,255}}{_NO_WORD}"),
    ("github-token", "gho_", rf"[A-Za-z0-9]{{36,255}}{_NO_WORD}"),
    ("github-token", "ghu_", rf"[A-Za-z0-9]{{36,255}}{_NO_WORD}"),
    ("github-token", "ghs_", rf"[A-Za-z0-9]{{36,255}}{_NO_WORD}"),
    ("github-token", "ghr_", rf"[A-Za-z0-9]{{36,255}}{_NO_WORD}"),
    ("github-token", "github_pat_", r"[A-Za-z0-9_]{22,255}"),
    ("gitlab-token", "glpat-", r"[A-Za-z0-9_-]{20,64}"),
    ("hugging-face-token", "hf_", rf"[A-Za-z0-9]{{30,64}}{_NO_WORD}"),
    ("npm-token", "npm_", rf"[A-Za-z0-9]{{36}}{_NO_WORD}"),
    ("pypi-token", "pypi-AgE", r"[A-Za-z0-9_-]{50,512}"),
    ("slack-token", "xox", r"[abeoprs]-[A-Za-z0-9-]{10,250}"),
    ("slack-webhook", "https://hooks.slack.com/services/", r"T[A-Za-z0-9]{6,14}/B[A-Za-z0-9]{6,14}/[A-Za-z0-9]{20,40}"),
    ("google-key", "AIza", r"[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"),
    ("google-token", "ya29.", r"[A-Za-z0-9_-]{20,512}"),
    ("google-secret", "GOCSPX-", r"[A-Za-z0-9_-]{24,40}"),
    ("stripe-key", "sk_live_", r"[A-Za-z0-9]{16,255}"),
    ("stripe-key", "sk_test_", r"[A-Za-z0-9]{16,255}"),
    ("stripe-key", "rk_live_", r"[A-Za-z0-9]{16,255}"),
    ("stripe-key", "rk_test_", r"[A-Za-z0-9]{16,255}"),
    ("stripe-secret", "whsec_", r"[A-Za-z0-9]{24,255}"),
    ("sendgrid-key", "SG.", r"[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,64}"),
    ("json-web-token", "eyJ", r"[A-Za-z0-9_-]{8,4096}\.eyJ[A-Za-z0-9_-]{8,8192}\.[A-Za-z0-9_-]{16,1024}"),
    ("api-key", "sk-", r"[A-Za-z0-9_-]{20,255}"),  # OpenAI, Anthropic, DeepSeek, Moonshot, DashScope
)
_PATTERNS = tuple(
    (rule, start, re.compile(rf"{re.escape(start)}(?<![A-Za-z0-9]{re.escape(start)}){rest}"))
    for rule, start, rest in _ISSUED
)

_BEGIN = "PRIVATE KEY"
_PEM_BEGIN = re.compile(r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_PEM_REST = re.compile(
    r"(?:[A-Za-z0-9+/=\s]|\\[nr]|[A-Za-z-]{3,20}: [^\n]{0,200}\n|[\"'+,]){0,20000}(?:-----END [A-Z0-9 ]{1,40}-----)?"
)

_NAMES = ("pass", "pwd", "secret", "token", "key", "credential", "auth")
_NAMED = re.compile(
    r"[A-Za-z0-9_-]{0,24}[\"'\]]{0,2}[ \t]{0,4}"
    r"(?::[ \t]{0,2}(?:str|string|String|bytes)[ \t]{0,2}=|=>|:=|[=:：]|[ \t](?:is|was)(?=[ :]))[ \t]{0,4}"
    r"(?:[rbu]?(?P<quote>[\"'`])(?P<quoted>[!#-&(-_a-~]{8,512})(?P=quote)"
    r"|(?P<bare>[A-Za-z0-9][!#-&*-/0-9;?-Z^-z|~]{7,512}={0,2}))"
)
_PASSPORT = re.compile("pass(?!w|phrase|code)[a-z]")  # also passenger, passive
_PASSWORD = re.compile(r"pass|pwd", re.IGNORECASE)
_BEARER = re.compile(r"[Bb]earer (?P<bare>[A-Za-z0-9._~+/-]{20,1024}=*)")
_CHINESE = ("密码", "口令", "密钥", "秘钥", "令牌", "私钥", "授权码")
_SAID = re.compile(
    r"(?:[：:=\s是为改设成换重置了叫“”\"'「（(]|就|统一|默认|初始|都){0,8}(?P<bare>[!-&(-+\--:<-~]{6,128})"
)
_URL_PASSWORD = re.compile(r"://[^\s:/@?#]{0,64}:(?P<bare>[^\s:/@?#\0]{3,128})@(?=[A-Za-z0-9\[])")
_NO_SECRET = re.compile(
    r"chang(?:e|ing)[_-]?(?:me|it|this)|your[_-]|example|placeholder|dummy|redacted|xxxx|\*\*\*|\.\.\.|<|>|\$\{|\{\{|\$\(|%\(|%s"
    r"|^[$%{@]|\(\)|^(?:https?|file|s3|gs)://|^(?:os|self|config|settings|env|process|request|args|options|this)\.|^/[a-z]+/"
    r"|^\.{0,2}/|insert|replace[_-]",
    re.IGNORECASE,
)


def secrets(text: str, zones: Zones) -> Iterator[Span]:
    """What an issuer's pattern or a name gives away; of overlapping finds, the one that starts first."""
    found = [*_private_keys(text), *_issued(text), *_in_addresses(text), *_named(text), *_said_in_chinese(text)]
    last = 0
    for span in sorted(found, key=lambda span: (span.start, -span.end)):
        if span.start >= last:
            last = span.end
            yield span


def _private_keys(text: str) -> Iterator[Span]:
    last = 0
    for _, place in places(text, [_BEGIN]) if "-----BEGIN" in text else ():
        begin = _PEM_BEGIN.search(text, max(last, place - 60), place + 12)
        if begin and (rest := _PEM_REST.match(text, begin.end())):
            last = rest.end()
            yield Span(begin.start(), begin.start() + len(text[begin.start() : last].rstrip("\"'+, \n")), "private-key")


def _issued(text: str) -> Iterator[Span]:
    underscores = "_" in text  # most prose has none, and half of the forms do
    for rule, start, pattern in _PATTERNS:
        if (underscores or "_" not in start) and start in text:
            for match in pattern.finditer(text):
                if rule != "api-key" or _is_random(match[0][3:], 3.3, 1):
                    yield Span(*match.span(), rule)


def _in_addresses(text: str) -> Iterator[Span]:
    """The password of ``scheme://user:password@host``."""
    at = text.find("://") if "@" in text else -1
    while at >= 0:
        match = _URL_PASSWORD.match(text, at)
        if match and not _NO_SECRET.search(match["bare"]) and match["bare"].lower() not in ("password", "pass", "pwd"):
            yield Span(*match.span("bare"), "url-password")
        at = text.find("://", at + 3)


def _named(text: str) -> Iterator[Span]:
    """``API_KEY = "..."``, ``password: ...``, ``Bearer ...``: a value that is random enough not to be a word."""
    lower = text.lower()
    if len(lower) != len(text):  # a few capitals have two characters in lower case
        lower = text
    last = 0
    for _, place in places(lower, _NAMES):
        match = _NAMED.match(text, place) if place >= last and not _PASSPORT.match(lower, place - 4) else None
        if match:
            group = "quoted" if match["quoted"] else "bare"
            value = match[group] if group == "quoted" else _trimmed(match[group])
            if _is_secret(value, group, _PASSWORD.search(text, max(0, place - 12), place) is not None):
                last = match.start(group) + len(value)
                yield Span(match.start(group), last, "named")
    if "earer " in text:
        for match in _BEARER.finditer(text):
            if _is_random(match["bare"], 3.3, 2):
                yield Span(*match.span("bare"), "bearer")


def _trimmed(value: str) -> str:
    """``value`` without the punctuation of the sentence or line that it ends."""
    return value.rstrip(".,;:!?)]}\"'")


def _is_secret(value: str, group: str, password: bool) -> bool:
    if _NO_SECRET.search(value):
        return False
    if password:
        return _is_random(value, 2.5, 2 if group == "quoted" else 3)
    return len(value) >= 16 and _is_random(value, 3.2, 2)


def _said_in_chinese(text: str) -> Iterator[Span]:
    if not text.isascii():
        for _, place in places(text, _CHINESE):
            match = _SAID.match(text, place)
            if match:
                value = _trimmed(match["bare"])
                if len(value) >= 6 and _is_random(value, 2.2, 2) and not _NO_SECRET.search(value):
                    yield Span(match.start("bare"), match.start("bare") + len(value), "named")


def _is_random(value: str, bits: float, classes: int) -> bool:
    """Whether ``value`` has letters and digits or signs, ``classes`` of the four kinds, ``bits`` of entropy each."""
    kinds = [
        any("a" <= char <= "z" for char in value),
        any("A" <= char <= "Z" for char in value),
        any("0" <= char <= "9" for char in value),
        any(not char.isalnum() and char not in "_-./" for char in value),
    ]
    if not (kinds[2] or kinds[3]) or not (kinds[0] or kinds[1]) or sum(kinds) < classes:
        return False
    return entropy(value) >= bits


def entropy(value: str) -> float:
    """Shannon entropy of the characters of ``value``, in bits a character."""
    return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values())

from __future__ import annotations

import datetime
import ipaddress
import string
from collections import Counter

import phonenumbers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stdnum import luhn
from stdnum.cn import ric

from kaiyuan.corpus.pii import anonymize

SENTENCE = "邮箱zhang@qq.com谢谢，手机13812345678号，IP是8.8.8.8吗，身份证11010519491231002X号。"


def test_between_han_characters() -> None:
    text, counts = anonymize(SENTENCE)
    assert text == "邮箱[EMAIL]谢谢，手机[PHONE]号，IP是[IP]吗，身份证[ID]号。"
    assert counts == {"email": 1, "phone": 1, "ip": 1, "id": 1}


@pytest.mark.parametrize(
    ("text", "anonymous"),
    [
        ("mail a.b-c+d@mail.example.co.uk.", "mail [EMAIL]."),
        ("<x_y%z@host-1.example.com>", "<[EMAIL]>"),
        (".zhang@qq.com,li@163.com", ".[EMAIL],[EMAIL]"),
        ("a@b.cd@e.fg", "[EMAIL]@e.fg"),
        ("zhang@qq.com13812345678", "[EMAIL][PHONE]"),
        ("ｚｈａｎｇ＠ｑｑ．ｃｏｍ，１３８１２３４５６７８", "[EMAIL]，[PHONE]"),
        ("138-1234-5678/139 1234 5678/+86 13812345678/008613812345678", "[PHONE]/[PHONE]/[PHONE]/[PHONE]"),
        ("13812345678,13912345678", "[PHONE],[PHONE]"),
        ("tel13812345678ok", "tel[PHONE]ok"),
        ("电话010-62345678转8", "电话[PHONE]转8"),
        ("（021）62345678、0755-26012345、0371 6234567", "[PHONE]、[PHONE]、[PHONE]"),
        ("热线400-810-1234，010–62345678", "热线[PHONE]，[PHONE]"),
        ("call (650) 253-0000 or 650-253-0000 or 650.253.0000!", "call [PHONE] or [PHONE] or [PHONE]!"),
        ("1-650-253-0000 and +1 650-253-0000 in 2024", "[PHONE] and [PHONE] in 2024"),
        ("London +44 20 7031 3000, Paris +33 1 42 68 53 00; Tokyo +81-3-6384-9000.",
         "London [PHONE], Paris [PHONE]; Tokyo [PHONE]."),
        ("打+442070313000吧", "打[PHONE]吧"),
        ("server 203.0.113.9:8080 (198.51.100.0/24)", "server [IP]:8080 ([IP]/24)"),
        ("http://8.8.4.4/x", "http://[IP]/x"),
        ("地址：2001:db8::1，2001:4860:4860::8888。", "地址：[IP]，[IP]。"),
        ("2001:0db8:85a3:0000:0000:8a2e:0370:7334: up", "[IP]: up"),
        ("从::ffff:8.8.8.8来", "从::ffff:[IP]来"),
        ("证号11010519491231002x，110105 19491231 002X", "证号[ID]，[ID]"),
        ("卡号6222020200112230，4111 1111 1111 1111", "卡号[CARD]，[CARD]"),
        ("5500-0000-0000-0004 or 3782 822463 10005", "[CARD] or [CARD]"),
    ],
)  # fmt: skip
def test_removed(text: str, anonymous: str) -> None:
    assert anonymize(text)[0] == anonymous


@pytest.mark.parametrize(
    "text",
    [
        "约翰福音3:16，诗篇119:105-112",
        "In 1949, 1978-1989 and 2008-08-08 12:30:45.123",
        "17 + 25 = 42; 1234567 * 89 = 109999... 3+12345678",
        "π = 3.14159265358979323846, e = 2.718281828459045, 0.13812345678, 1.13812345678",
        "version 1.2.3, v1.2.3.4, 版本1.2.3.4, numpy==1.2.3.4, Chrome/118.0.0.1, §1.2.3.4, 第1.2.3.4节",
        "192.168.1.7 10.0.0.8 172.16.3.4 fe80::1ff:fe23:4567:890a fd12:3456::1",
        "127.0.0.1 localhost 0.0.0.0 255.255.255.0 224.0.0.251 ::1 ::",
        "256.1.1.1 1.2.3.4.5 1.2.3",
        "std::vector<int> a::b dead::beef 12:30:45 00:1a:2b:3c:4d:5e",
        "11010519491231002 110105194912310021 110105194913310029",
        "4111111111111112 1234567890123452 6222020200112231",
        "ISBN 978-7-5327-1234-5, 0-306-40615-2, EAN 6901234567892",
        "12345678901 10012345678 138123456789 1381234567",
        "1,381,234,567 people; 2147483647; 9007199254740993; 1e10",
        "123-456-7890-1 and 12-345-6789",
        "+12345678 +100 +1 +999999999999",
        "d41d8cd98f00b13812345678998ecf8427e0 550e8400-e29b-41d4-a716-446655440000",
        "@property\ndef f(x): return x @ y",
        "a@b, user@localhost, @mention, mail@",
        "人口 1411778724，面积 9600000 平方公里，GDP 1210207 亿元",
        "5 × 13 = 65，2³² = 4294967296，100!",
        "",
    ],
)
def test_left_alone(text: str) -> None:
    assert anonymize(text) == (text, Counter())


def test_identity_card_needs_its_check_digit() -> None:
    """Of all last characters only the right one makes an identity number."""
    found = [last for last in "0123456789X" if anonymize(f"证11010519491231002{last}。")[1]["id"]]
    assert found == ["X"]
    assert ric.is_valid("11010519491231002X")


# Text without digits, @, + and dots: what it is made of cannot itself be, or run into, personal data.
FILLER = st.text(alphabet="天地玄黄宇宙洪荒，。！？：；（）“”、 \nghijklmnopqrstuwyzGHIJKLMNOPQRSTUWYZ", max_size=12)
DIGIT = st.sampled_from(string.digits)


def digits(length: int) -> st.SearchStrategy[str]:
    return st.lists(DIGIT, min_size=length, max_size=length).map("".join)


EMAILS = st.builds(
    "{}{}@{}.{}".format,
    st.sampled_from(string.ascii_lowercase),
    st.text(alphabet=string.ascii_lowercase + string.digits + "._-", max_size=10),
    st.text(alphabet=string.ascii_lowercase + string.digits, min_size=1, max_size=10),
    st.sampled_from(["com", "cn", "com.cn", "edu.cn", "org", "io"]),
)
COUNTRY = st.sampled_from(["", "+86", "+86 ", "86-"])
MOBILES = st.builds("{}1{}{}".format, COUNTRY, st.sampled_from("3456789"), digits(9))
LANDLINES = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["010", "021", "0755", "0571"]),
    st.sampled_from(["-", " ", ""]),
    st.sampled_from("2345678"),
    digits(7),
)
FOREIGN = st.sampled_from(["US", "GB", "FR", "DE", "JP", "IN", "BR", "AU"]).flatmap(
    lambda region: st.sampled_from(["E164", "INTERNATIONAL"]).map(
        lambda style: phonenumbers.format_number(
            phonenumbers.example_number(region), getattr(phonenumbers.PhoneNumberFormat, style)
        )
    )
)
IPV4 = (
    st.ip_addresses(v=4)
    .filter(lambda ip: not (ip.is_loopback or ip.is_unspecified or ip.is_multicast or ip.is_reserved))
    .filter(lambda ip: ip.packed[0] != 0 and ip.is_global)
    .map(str)
)
IPV6 = st.integers(0x2000 << 112, (0x4000 << 112) - 1).map(lambda value: str(ipaddress.IPv6Address(value)))
IDENTITIES = st.builds(
    lambda place, day, order: (body := f"{place}{day:%Y%m%d}{order}") + ric.calc_check_digit(body + "0"),
    st.sampled_from(["110105", "310101", "440306", "510104"]),
    st.dates(datetime.date(1930, 1, 1), datetime.date(2020, 12, 31)),
    digits(3),
)
CARDS = st.builds(
    lambda prefix, body: (number := prefix + body) + luhn.calc_check_digit(number),
    st.sampled_from(["622202", "621700", "411111", "550000", "353011"]),
    digits(9),
)
PLANTS = st.one_of(
    *(
        st.tuples(st.just(kind), values)
        for kind, values in {
            "email": EMAILS, "phone": st.one_of(MOBILES, LANDLINES, FOREIGN), "ip": st.one_of(IPV4, IPV6),
            "id": IDENTITIES, "card": CARDS,
        }.items()
    )
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(FILLER, PLANTS), min_size=1, max_size=4), FILLER)
def test_whatever_is_planted_is_removed(planted: list[tuple[str, tuple[str, str]]], end: str) -> None:
    """Nothing of a planted number or address survives, wherever it stands; and everything around it does."""
    text = "".join(f"{filler}，{value}。" for filler, (_, value) in planted) + end
    anonymous, counts = anonymize(text)
    kinds = Counter(kind for _, (kind, _) in planted)
    assert counts == kinds
    expected = "".join(f"{filler}，[{kind.upper()}]。" for filler, (kind, _) in planted) + end
    assert anonymous == expected


NEIGHBOURS = st.text(alphabet="天地玄黄，。 ghkz\n", max_size=12)


@settings(max_examples=300, deadline=None)
@given(NEIGHBOURS, PLANTS, NEIGHBOURS)
def test_removed_without_any_space_around_it(before: str, plant: tuple[str, str], after: str) -> None:
    kind, value = plant
    anonymous, counts = anonymize(before + value + after)
    assert counts[kind] == 1
    assert not any(char.isdigit() or char == "@" for char in anonymous)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=string.digits + "+-*/=.,:() \n年月日xX", max_size=60))
def test_only_digits_separators_and_neighbours_are_touched(text: str) -> None:
    """Outside of what was replaced, nothing is lost: the pieces around placeholders occur in the text in this order."""
    anonymous, counts = anonymize(text)
    position = 0
    pieces = anonymous
    for kind in ("PHONE", "IP", "ID", "CARD", "EMAIL"):
        pieces = pieces.replace(f"[{kind}]", "\0")
    assert pieces.count("\0") == counts.total()
    for piece in pieces.split("\0"):
        position = text.index(piece, position) + len(piece)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.sampled_from("+-*/"))
def test_arithmetic_is_left_alone(left: int, right: int, sign: str) -> None:
    text = f"{left} {sign} {right} = {left * right}，{left}:{right % 100}，{left}.{right}%"
    if not any(len(part) >= 11 for part in text.replace("，", " ").split()):
        assert anonymize(text)[0] == text

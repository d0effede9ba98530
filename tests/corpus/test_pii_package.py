"""Options, audit, order and time of the privacy package; what is found is in test_pii.py and test_pii_quality.py."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import random
import stat
import subprocess
import sys
import time
from pathlib import Path

import phonenumbers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan.corpus.pii import KINDS, Audit, PrivacySettings, anonymize, audit_key, canonical, find, replace
from kaiyuan.corpus.pii.phones import _is_international
from kaiyuan.corpus.pii.spans import fold
from kaiyuan.errors import DataError

EVERYTHING = PrivacySettings(kinds=list(KINDS), private_addresses=True)


def test_numbered_placeholders_follow_the_datum_not_its_spelling() -> None:
    text = "ann@example.com, +86 138 0000 1234; ANN@example.com, bob@example.com; 13800001234 and 13800005678"
    numbered, counts = anonymize(text, PrivacySettings(numbered=True))
    assert numbered == "[EMAIL_1], [PHONE_1]; [EMAIL_1], [EMAIL_2]; [PHONE_1] and [PHONE_2]"
    assert counts == {"email": 3, "phone": 3}


def test_only_the_kinds_asked_for() -> None:
    text = "ann@example.com 8.8.8.8 192.168.1.7 Dr. Brown"
    assert anonymize(text, PrivacySettings(kinds=["ip"]))[0] == "ann@example.com [IP] 192.168.1.7 Dr. Brown"
    assert anonymize(text, EVERYTHING)[0] == "[EMAIL] [IP] [IP] Dr. [NAME]"
    assert anonymize(text)[0] == "[EMAIL] [IP] 192.168.1.7 Dr. Brown"


def test_wide_text_keeps_its_length() -> None:
    assert fold("（０２１）６２３４－５６７８＠ａ．ｂ　：，") == "(021)6234-5678@a.b ：，"
    assert anonymize("致电（０２１）９０００－５６７８。")[0] == "致电[PHONE]。"


@settings(max_examples=500, deadline=None)
@given(st.text(alphabet="0123456789+-.()@:/ aAxXeE密码是京护照=\"'sk_\n１＠－", max_size=80))
def test_findings_are_in_order_apart_and_replaced_for_good(text: str) -> None:
    findings = find(text, EVERYTHING)
    ends = [0, *(finding.end for finding in findings)]
    assert all(end <= finding.start < finding.end <= len(text) for end, finding in zip(ends, findings, strict=False))
    assert len(fold(text)) == len(text)
    placeholders = replace(text, findings)
    assert placeholders.count("[") == text.count("[") + len(findings)
    again = {finding.kind for finding in find(placeholders, EVERYTHING)}
    assert not again & {"email", "id", "card", "iban"}, placeholders


def _differs(number: str) -> bool:
    try:
        theirs = phonenumbers.is_valid_number(phonenumbers.parse(number, None))
    except phonenumbers.NumberParseException:
        theirs = False
    return bool(theirs) != _is_international(number)


def test_country_codes_agree_with_phonenumbers() -> None:
    """Every region's example numbers, and each with its last digit gone: the quick check says what the library does."""
    kinds = (phonenumbers.PhoneNumberType.FIXED_LINE, phonenumbers.PhoneNumberType.MOBILE)
    examples = [
        phonenumbers.example_number_for_type(region, kind)
        for region in phonenumbers.SUPPORTED_REGIONS
        for kind in kinds
    ]
    style = phonenumbers.PhoneNumberFormat.INTERNATIONAL
    numbers = [phonenumbers.format_number(example, style) for example in examples if example]
    assert len(numbers) > 400
    assert not any(_differs(number) for number in numbers)
    rng = random.Random(0)
    made_up = [f"+{rng.randint(1, 999)} {rng.randint(10**5, 10**10)}" for _ in range(3000)]
    changed = [number for number in [*(number[:-1] for number in numbers), *made_up] if _differs(number)]
    assert len(changed) <= 0.02 * (len(numbers) + 3000), changed[:20]


def test_audit_rows_say_where_and_not_what() -> None:
    text = "写信给ann@example.com，或ＡＮＮ＠example.com，电话13800001234。"
    rows = list(Audit(b"0" * 32).rows("doc", text, find(text)))
    assert [(row["kind"], text[row["start"] : row["start"] + row["length"]]) for row in rows] == [
        ("email", "ann@example.com"), ("email", "ＡＮＮ＠example.com"), ("phone", "13800001234"),
    ]  # fmt: skip
    assert all(set(row) == {"document", "kind", "rule", "start", "length", "hash"} for row in rows)
    assert rows[0]["hash"] == rows[1]["hash"] != rows[2]["hash"]
    assert "ann" not in json.dumps(rows).lower()
    other = list(Audit(b"1" * 32).rows("doc", text, find(text)))
    assert {row["hash"] for row in rows}.isdisjoint(row["hash"] for row in other)


def test_equal_data_of_two_kinds_have_two_hashes_and_the_audit_can_be_sent_to_workers() -> None:
    text = "11010519491231002X"
    finding = find(text)[0]
    audit = pickle.loads(pickle.dumps(Audit(b"k" * 16)))
    assert audit.hash(text, finding) == Audit(b"k" * 16).hash(text, finding)
    assert audit.hash(text, finding) != audit.hash(text, finding._replace(kind="card"))
    us = "+1 202-555-0143 (202) 555-0143 1-202-555-0143"
    assert {canonical(us, each) for each in find(us)} == {"2025550143"}
    assert canonical("+86 138-0000-1234", find("+86 138-0000-1234")[0]) == "13800001234"
    with pytest.raises(DataError, match="at least 16"):
        Audit(b"short")


def test_key_is_made_once_and_for_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAIYUAN_PII_KEY", raising=False)
    path = tmp_path / "run" / "pii.key"
    key = audit_key(path)
    assert len(key) == 32
    assert audit_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["pii.key"]
    monkeypatch.setenv("KAIYUAN_PII_KEY", "ab" * 16)
    assert audit_key(path) == b"\xab" * 16
    monkeypatch.setenv("KAIYUAN_PII_KEY", "secret")
    with pytest.raises(DataError, match=r"^\$KAIYUAN_PII_KEY: not a key; write at least 32"):
        audit_key(path)
    monkeypatch.delenv("KAIYUAN_PII_KEY")
    path.write_text("")
    with pytest.raises(DataError, match=r"pii\.key: not a key"):
        audit_key(path)


def test_processes_that_start_together_share_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAIYUAN_PII_KEY", raising=False)
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        keys = pool.map(audit_key, [tmp_path / "pii.key"] * 12, chunksize=1)
    assert len(set(keys)) == 1


def test_a_missing_library_is_named() -> None:
    code = (
        "import sys; sys.modules['stdnum'] = None\n"
        "from kaiyuan.corpus.pii import anonymize\nfrom kaiyuan.errors import KaiyuanError\n"
        "try: anonymize('110105194912310029')\nexcept KaiyuanError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ}, check=False)
    assert done.stdout == "finding personal data needs python-stdnum: pip install 'kaiyuan[corpus]'\n", done.stderr


UNITS = [
    "1", "1 ", "1-", "1.", "(", "+1 ", "+1-1-1-1-1-1-1-1-1-1-1-1 ", "a", "@", "a@", "a@a.", "a.", "(at)",
    " AT ", ":", "a:", "abcd:", "2001:db8::1 ", "8.8.8.8 ", "a13812345678", "13800001234,", "key",
    "password=", "password: ", "secret='a", "密码是", "密码", "护照", "护照 E", "passport ", "京A1", "eyJa.eyJa.",
    "-----BEGIN PRIVATE KEY-----", "://a:b@", "://", "sk-a1", "GB29 ", "AB12 3456 ", "我叫", "王小", "Mr. A",
    "A. ", "电话", "phone 1234567 ", "0044 20 ", "a@" + "a" * 61 + ".", "１", "（",
]  # fmt: skip


def _seconds(text: str) -> float:
    start = time.process_time()
    find(text, EVERYTHING)
    return time.process_time() - start


@pytest.mark.parametrize("unit", UNITS)
def test_no_text_takes_long(unit: str) -> None:
    """50,000 characters of anything in well under a second; what backtracks or grows with the square takes minutes."""
    assert _seconds(unit * (50_000 // len(unit))) < 1.0


def test_noise_of_signs_takes_a_second_or_so() -> None:
    rng = random.Random(0)
    for alphabet in (
        "0123456789",
        "0123456789 -.()+",
        "0123456789abcdef:",
        "ABCDEFabcdef012345+/=\"'",
        "密码护照京A1 @.",
    ):
        assert _seconds("".join(rng.choices(alphabet, k=200_000))) < 4.0

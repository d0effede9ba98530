"""The audit file: what was replaced where, without the datum itself.

A row holds a keyed hash of the datum, so that equal data can be counted and a person who asks "was mine removed?" can
be answered, while nobody without the key can try all telephone numbers until a hash fits. Hence the key never goes
into the audit file, and its own file is for its owner's eyes; delete it to make the hashes meaningless for good.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kaiyuan.corpus.pii.detect import canonical
from kaiyuan.corpus.pii.spans import Finding
from kaiyuan.errors import DataError

AUDIT = "pii.jsonl"
KEY_VARIABLE = "KAIYUAN_PII_KEY"
_KEY_BYTES, _HASH_BYTES = 32, 16


class Audit:
    """Makes the rows of ``pii.jsonl``; picklable, so that worker processes can have it."""

    def __init__(self, key: bytes) -> None:
        if len(key) < 16:
            raise DataError(f"the key of the privacy audit has {len(key)} bytes; it needs at least 16")
        self._key = key

    def hash(self, text: str, finding: Finding) -> str:
        """HMAC-SHA256 of kind and canonical datum, the first 32 hexadecimal digits."""
        message = f"{finding.kind}\0{canonical(text, finding)}".encode("utf-8", "surrogatepass")
        return hmac.new(self._key, message, hashlib.sha256).digest()[:_HASH_BYTES].hex()

    def rows(self, document: str, text: str, findings: Sequence[Finding]) -> Iterator[dict[str, Any]]:
        """A row for each of ``findings`` in ``text``, the text of the document before anything was replaced.

        ``start`` and ``length`` count characters (code points) of that text.
        """
        for finding in findings:
            yield {
                "document": document,
                "kind": finding.kind,
                "rule": finding.rule,
                "start": finding.start,
                "length": finding.end - finding.start,
                "hash": self.hash(text, finding),
            }


def audit_key(path: Path) -> bytes:
    """The key in ``$KAIYUAN_PII_KEY`` (hexadecimal), else in the file ``path``, made at random if it is not there.

    The file (mode 0600) appears whole, once: of processes that start together, all get the key of the first.
    """
    stated = os.environ.get(KEY_VARIABLE)
    if stated:
        return _parsed(stated, f"${KEY_VARIABLE}")
    with contextlib.suppress(FileNotFoundError):
        return _parsed(path.read_text(encoding="ascii", errors="replace"), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_hex(_KEY_BYTES) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return _parsed(path.read_text(encoding="ascii", errors="replace"), str(path))


def _parsed(value: str, where: str) -> bytes:
    try:
        key = bytes.fromhex(value.strip())
    except ValueError:
        key = b""
    if len(key) < 16:
        raise DataError(
            f"{where}: not a key; write at least 32 hexadecimal digits (openssl rand -hex 32), or remove it"
        )
    return key

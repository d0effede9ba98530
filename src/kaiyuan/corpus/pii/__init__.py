"""Personal data and secrets out, placeholders in.

Every pattern brings its own ASCII lookarounds. ``\\b`` is no help: Python takes Han characters for word characters,
so that between 是 and 8 in IP是8.8.8.8 there is no boundary. What is deliberately left alone:

- addresses that identify nobody: loopback, unspecified, multicast, reserved, net masks; private ones by default;
- dotted numbers that the text calls a version or a section (v1.2.3.4, 版本1.2.3.4, Chrome/118.0.0.1, foo-1.2.3.4.zip);
- identity, card and IBAN numbers whose check digits are wrong; digits inside of long hexadecimal strings;
- numbers that nothing sets apart from others unless the text says what they are: passports, 15-digit identity cards,
  local telephone numbers, US social security numbers without hyphens.

``docs/privacy.md`` says how well that works, measured.
"""

from __future__ import annotations

from kaiyuan.corpus.pii.audit import AUDIT, KEY_VARIABLE, Audit, audit_key
from kaiyuan.corpus.pii.detect import DEFAULT, KINDS, PrivacySettings, anonymize, canonical, find, replace
from kaiyuan.corpus.pii.spans import Finding

__all__ = [
    "AUDIT", "DEFAULT", "KEY_VARIABLE", "KINDS", "Audit", "Finding", "PrivacySettings", "anonymize", "audit_key",
    "canonical", "find", "replace",
]  # fmt: skip

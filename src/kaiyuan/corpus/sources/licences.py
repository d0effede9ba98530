"""Which licence a file of code is under: its own SPDX line, or the licence file or manifest nearest above it."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any

_SPDX = re.compile(r"SPDX-License-Identifier:\s*([A-Za-z0-9.+\-() ]{2,120}?)\s*(?:\*/|-->|\r|\n|$)")
_LICENCE_FILE = re.compile(
    r"(licen[cs]es?|copying|copyright|unlicense|mit-licen[cs]e)([-_][\w-]+|\.(mit|bsd|apache|l?gpl)[\w-]*)?(\.(md|txt|rst))?",
    re.IGNORECASE,
)
_TITLES = (
    ("gnu affero general public license version 3", "AGPL-3.0-only"),
    ("gnu lesser general public license version 3", "LGPL-3.0-only"),
    ("gnu lesser general public license version 2.1", "LGPL-2.1-only"),
    ("gnu library general public license version 2", "LGPL-2.0-only"),
    ("gnu general public license version 3", "GPL-3.0-only"),
    ("gnu general public license version 2", "GPL-2.0-only"),
    ("apache license version 2.0", "Apache-2.0"),
    ("mozilla public license version 2.0", "MPL-2.0"),
    ("eclipse public license - v 2.0", "EPL-2.0"),
    ("eclipse public license - v 1.0", "EPL-1.0"),
    ("european union public licence v. 1.2", "EUPL-1.2"),
    ("boost software license - version 1.0", "BSL-1.0"),
    ("cc0 1.0 universal", "CC0-1.0"),
    ("attribution-noncommercial-sharealike 4.0", "CC-BY-NC-SA-4.0"),
    ("attribution-noncommercial 4.0", "CC-BY-NC-4.0"),
    ("attribution-sharealike 4.0", "CC-BY-SA-4.0"),
    ("attribution 4.0 international", "CC-BY-4.0"),
    ("do what the fuck you want to public license", "WTFPL"),
    ("木兰宽松许可证 第2版", "MulanPSL-2.0"),
    ("mulan permissive software license version 2", "MulanPSL-2.0"),
)
"""Looked for in the first 1,000 characters, commas and white space evened out."""
_PHRASES = (
    ("permission is hereby granted, free of charge, to any person obtaining a copy", "MIT"),
    ("this is free and unencumbered software released into the public domain", "Unlicense"),
    ("permission to use, copy, modify, and/or distribute this software for any purpose with or without fee", "ISC"),
    ("permission to use, copy, modify, and distribute this software for any purpose with or without fee", "ISC"),
    ("the origin of this software must not be misrepresented", "Zlib"),
    ("licensed under the apache license, version 2.0", "Apache-2.0"),
    ("python software foundation license version 2", "PSF-2.0"),
)


def spdx_of(text: str) -> str:
    """The identifier of a file's ``SPDX-License-Identifier`` line among its first 3,000 characters, or ""."""
    found = _SPDX.search(text[:3000])
    return found[1].strip() if found else ""


def states_licence(name: str) -> bool:
    """Whether a file of this name can tell the licence of its folder."""
    file = name.rsplit("/", 1)[-1]
    return _LICENCE_FILE.fullmatch(file) is not None or file in ("package.json", "Cargo.toml", "pyproject.toml")


def licence_in(name: str, text: str) -> str:
    """The SPDX identifier that a licence file or a manifest states; "" if it is none that we know."""
    file = name.rsplit("/", 1)[-1]
    if file in ("package.json", "Cargo.toml", "pyproject.toml"):
        return _of_manifest(file, text)
    return spdx_of(text) or classify(text)


def classify(text: str) -> str:
    """The SPDX identifier of a licence's text, or ""."""
    flat = " ".join(text[:20_000].lower().split())
    head = " ".join(flat[:1000].replace(",", " ").split())
    for title, name in _TITLES:
        if title in head:
            return name
    for phrase, name in _PHRASES:
        if phrase in flat:
            return name
    if "redistribution and use in source and binary forms" in flat:
        return "BSD-3-Clause" if re.search("neither the names? ", flat) else "BSD-2-Clause"
    return ""


def _of_manifest(file: str, text: str) -> str:
    try:
        values = json.loads(text) if file.endswith(".json") else tomllib.loads(text)
    except (ValueError, RecursionError):
        return ""
    place: Any = values if file.endswith(".json") else values.get("package" if file == "Cargo.toml" else "project")
    found = place.get("license") if isinstance(place, Mapping) else None
    if isinstance(found, Mapping):
        found = found.get("text") or found.get("type")
    return found if isinstance(found, str) and re.fullmatch(r"[A-Za-z0-9.+\-() /]{2,80}", found) else ""


def nearest(name: str, licences: Mapping[str, str]) -> str:
    """The licence of the nearest folder above ``name`` that states one; ``licences`` is by folder, "" the root."""
    folder = name.rpartition("/")[0]
    while folder:
        if licences.get(folder):
            return licences[folder]
        folder = folder.rpartition("/")[0]
    return licences.get("", "")

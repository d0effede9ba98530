"""Records with named fields (JSON lines, tables, datasets) to documents."""

from __future__ import annotations

from typing import Any

from kaiyuan.corpus.sources.document import Item
from kaiyuan.corpus.sources.spec import FIELDS, Source

_SOFT = ("url", "licence", "date")
"""Fields that other people's data hold in many types; they are written down as text, never a reason to reject."""
_ABSENT = object()


def pick(row: dict[str, Any], key: str) -> Any:
    """The value of a field; ``a.b`` is ``b`` inside of ``a`` unless the row has a field of that very name."""
    if key in row:
        return row[key]
    value: Any = row
    for name in key.split("."):
        if not isinstance(value, dict) or name not in value:
            return _ABSENT
        value = value[name]
    return value


class Fields:
    """Which fields of a record become which parts of a document."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.keys = [(name, source.keys.get(name, name)) for name in FIELDS if source.keys.get(name, name)]
        if "licence" not in source.keys:
            self.keys.append(("licence", "license"))

    def names(self) -> list[str]:
        """Every field that is looked at."""
        wanted = [self.source.text, *(key for _, key in self.keys), *self.source.keep]
        return [*wanted, self.source.id] if self.source.id else wanted

    def document(self, row: object, place: str) -> Item:
        source = self.source
        if not isinstance(row, dict):
            kind = type(row).__name__
            return source.dead(place, "wrong type", f"must be a JSON object with a {source.text!r}, not {kind}", row)
        text = pick(row, source.text)
        if text is _ABSENT:
            keys = ", ".join(map(str, row))[:200] or "none"
            return source.dead(place, "no text field", f"no {source.text!r} among its keys ({keys}); name it", row)
        values: dict[str, Any] = {}
        for name, key in self.keys:
            value = row.get(key, _ABSENT) if "." not in key else pick(row, key)
            if value is not _ABSENT and value is not None and not values.get(name):
                values[name] = _as_text(value) if name in _SOFT else value
        return source.document(text, place, extra=self._extra(row), **values)

    def _extra(self, row: dict[str, Any]) -> dict[str, Any]:
        source = self.source
        extra = {key: value for key in source.keep if (value := pick(row, key)) is not _ABSENT}
        if source.id and (own := pick(row, source.id)) is not _ABSENT:
            extra["id"] = own
        return extra


def _as_text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value if isinstance(item, str | int | float))
    return "" if isinstance(value, dict) else str(value)

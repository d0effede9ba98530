"""A conversation with all that is known about it. Its hash is its name in every decision."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from kaiyuan.corpus.units import han_characters, units
from kaiyuan.errors import DataError
from kaiyuan.files import read_jsonl

Message = Mapping[str, str]
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Sample:
    """Messages in turns, the last one the assistant's, and where they come from."""

    messages: tuple[Message, ...]
    source: str = ""
    """Name of the file or data set."""
    place: str = ""
    """``file:line`` or the like, as the source's reader gives it."""
    span: tuple[int, int] | None = None
    """Characters of the document that question and answer were taken from; None for whole records."""
    licence: str = ""
    language: str = ""
    """One of en, zh, und."""
    method: str = ""
    """How it was found: ``chat``, ``qa``, ``exercise``, ``code``, ``list``; ``synthesis`` for a model's answer."""
    author: str = ""
    """The model that wrote the answers; empty if no model did or nobody knows."""
    labels: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of its row, kept as they are."""

    @cached_property
    def hash(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the messages: what was asked and answered, nothing else."""
        plain = [[message["role"], message["content"]] for message in self.messages]
        text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @property
    def question(self) -> str:
        """All that users say."""
        return "\n\n".join(message["content"] for message in self.messages if message["role"] == "user")

    @property
    def answer(self) -> str:
        """All that the assistant says."""
        return "\n\n".join(message["content"] for message in self.messages if message["role"] == "assistant")

    def row(self) -> dict[str, Any]:
        """For JSON; fields that say nothing are left out. ``sample_of`` is its inverse."""
        known = {name: value for name in _FIELDS if (value := getattr(self, name))}
        return {"messages": [dict(message) for message in self.messages], "hash": self.hash, **known, **self.extra}


_TEXTS = ("source", "place", "licence", "language", "method", "author")
_FIELDS = (*_TEXTS, "span", "labels")


def sample_of(row: object, place: str) -> Sample:
    """The sample of a row with ``messages``; a ``DataError`` says at ``place`` what is wrong with it.

    A row of ``kaiyuan synthesize-llm`` names in its provenance the model that answered: its author.
    """
    if not isinstance(row, Mapping) or not isinstance(row.get("messages"), list):
        raise DataError(f'{place}: expected {{"messages": [...]}}')
    messages = messages_in(row["messages"])
    if messages is None:
        raise DataError(f'{place}: a message is not {{"role": system, user or assistant, "content": text}}')
    if problem := problem_of(messages):
        raise DataError(f"{place}: {problem}")
    values: dict[str, Any] = {name: value for name in _TEXTS if isinstance(value := row.get(name), str)}
    values.setdefault("author", author_of(row))
    values["language"] = values.get("language") or language_of(messages[-1]["content"])
    labels, span = row.get("labels"), row.get("span")
    extra = {key: value for key, value in row.items() if key not in (*_FIELDS, "messages", "hash")}
    return Sample(
        messages, labels=labels if isinstance(labels, Mapping) else {}, extra=extra,
        span=(int(span[0]), int(span[1])) if isinstance(span, list) and len(span) == 2 else None, **values,
    )  # fmt: skip


def messages_in(value: object) -> tuple[Message, ...] | None:
    """The messages of a list, without whatever else they hold; None if it is no such list."""
    if not isinstance(value, list) or not all(map(_is_message, value)):
        return None
    return tuple({"role": message["role"], "content": message["content"]} for message in value)


def _is_message(message: object) -> bool:
    return isinstance(message, Mapping) and message.get("role") in ROLES and isinstance(message.get("content"), str)


def problem_of(messages: Iterable[Message]) -> str:
    """Why messages are no conversation to train on, "" if they are: turns of user and assistant, the last answered."""
    turns = list(messages)
    if turns and turns[0]["role"] == "system":
        turns = turns[1:]
    if not turns:
        return "no messages"
    for number, message in enumerate(turns):
        if message["role"] != ("user", "assistant")[number % 2]:
            return f"message {number + 1} is out of turn ({message['role']})"
        if not message["content"].strip():
            return f"message {number + 1} is empty"
    return "" if len(turns) % 2 == 0 else "the last question has no answer"


def author_of(row: Mapping[str, Any]) -> str:
    """The model that answered in a row of ``kaiyuan synthesize-llm``, "" if it is none."""
    provenance = row.get("provenance")
    trail = provenance.get("trail") if isinstance(provenance, Mapping) else None
    notes = [note for note in trail or () if isinstance(note, Mapping) and note.get("step") == "responses"]
    return str(notes[-1].get("model", "")) if notes else ""


def read_samples(path: Path) -> Iterator[Sample]:
    """The samples of a JSON Lines file; a ``DataError`` names file and row of the first that is none."""
    if not path.is_file():
        raise DataError(f"{path.parent}: has no {path.name}; make one with kaiyuan curate extract")
    for number, row in enumerate(read_jsonl(path), 1):
        yield sample_of(row, f"{path}: sample {number}")


def language_of(text: str) -> str:
    """``zh`` if a third of the units are Han characters or more, else "en"; "und" if there are no letters."""
    found = [unit for unit in units(text) if not unit.isdigit()]
    if not found:
        return "und"
    return "zh" if 3 * han_characters(text) >= len(found) else "en"

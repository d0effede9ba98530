"""Calls of the client's functions: how they are described to the model, and how its calls are read.

The system message says which functions there are. The model calls one by

    <tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>

and finds the result in the next message as ``<tool_response>...</tool_response>``. If it has to call one, a grammar
makes it write the JSON object alone.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from kaiyuan.serving.protocol import Function

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*"([\w.-]{1,64})"\s*,\s*"arguments"\s*:\s*(?=\{)', re.ASCII)
_TAIL = re.compile(r"\s*\}?\s*")


def describe(functions: Sequence[Function], parallel: bool) -> str:
    """What the system message says about ``functions``."""
    lines = [
        json.dumps(
            {"name": function.name, "description": function.description or "", "parameters": function.parameters or {}},
            ensure_ascii=False,
        )
        for function in functions
    ]
    how_many = "You may call several, one after the other." if parallel else "Call one at most."
    return "\n".join([
        "You can call these functions:", "<tools>", *lines, "</tools>",
        f'To call one, write {OPEN}{{"name": "...", "arguments": {{...}}}}{CLOSE}. {how_many}',
    ])  # fmt: skip


def call_schema(functions: Sequence[Function]) -> dict[str, Any]:
    """JSON schema of a call of one of ``functions``. Definitions of their parameters move to its top."""
    definitions: dict[str, Any] = {}
    calls = [_one_call(function, definitions) for function in functions]
    schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return {**schema, "$defs": definitions} if definitions else schema


def _one_call(function: Function, definitions: dict[str, Any]) -> dict[str, Any]:
    arguments: Any = {"type": "object", **(function.parameters or {})}
    if '"$ref"' in json.dumps(arguments):
        definitions[function.name] = _moved(
            {key: value for key, value in arguments.items() if key not in ("$defs", "definitions")}, function.name
        )
        for key in ("$defs", "definitions"):
            for name, part in (arguments.get(key) or {}).items():
                definitions[f"{function.name}.{name}"] = _moved(part, function.name)
        arguments = {"$ref": f"#/$defs/{function.name}"}
    return {
        "type": "object",
        "properties": {"name": {"const": function.name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: Any, prefix: str) -> Any:
    """``schema`` with references to its own definitions pointing to where they have moved."""
    if isinstance(schema, list):
        return [_moved(item, prefix) for item in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value, prefix) for key, value in schema.items()}
    reference = schema.get("$ref")
    if reference == "#":
        moved["$ref"] = f"#/$defs/{prefix}"
    elif isinstance(reference, str):
        moved["$ref"] = re.sub(r"^#/(?:\$defs|definitions)/", f"#/$defs/{prefix}.", reference)
    return moved


@dataclass(frozen=True)
class Text:
    """Ordinary text of the answer."""

    text: str


@dataclass(frozen=True)
class CallBegins:
    """A call number ``index`` of function ``name``; its arguments follow."""

    index: int
    name: str
    id: str


@dataclass(frozen=True)
class Arguments:
    """More of the JSON text of call ``index``'s arguments."""

    index: int
    text: str


Event = Text | CallBegins | Arguments


class CallParser:
    """Finds calls in text that comes piece by piece. What is no whole call of a known function stays text.

    ``forced``: all of the text is the JSON object of one call. The events, joined, do not depend on where the text was
    cut. White space around calls is dropped.
    """

    def __init__(self, names: Collection[str], *, forced: bool = False, parallel: bool = True) -> None:
        self._names, self._forced, self._parallel = frozenset(names), forced, parallel
        self._state: Callable[[bool], bool] = self._head if forced else self._text
        self._buffer = ""
        self._events: list[Event] = []
        self._after_call = False
        self._depth, self._in_string, self._escaped = 0, False, False
        self.calls = 0

    def feed(self, text: str, last: bool = False) -> list[Event]:
        """What became certain with ``text``; ``last`` when no more will come."""
        self._buffer += text
        self._events = []
        while self._state(last):
            pass
        return self._events

    def _text(self, last: bool) -> bool:
        """Between calls. True: look again, in the state that is set now."""
        begin = self._buffer.find(OPEN)
        if begin >= 0:
            self._emit_text(self._buffer[:begin].rstrip())
            self._buffer = self._buffer[begin + len(OPEN) :]
            self._state = self._head
            return True
        keep = 0 if last else _held_back(self._buffer)
        cut = len(self._buffer) - keep
        text, self._buffer = self._buffer[:cut], self._buffer[cut:]
        if last and self._after_call and not text.strip():
            return False
        self._emit_text(text)
        return False

    def _emit_text(self, text: str) -> None:
        if self._after_call:
            text = text.lstrip()
        if text:
            self._after_call = False
            self._events.append(Text(text))

    def _head(self, last: bool) -> bool:
        """Behind the opening tag, before the arguments."""
        match = _HEAD.match(self._buffer)
        if match and match[1] in self._names:
            self._begin_call(match[1])
            self._buffer = self._buffer[match.end() :]
            self._depth, self._in_string, self._escaped = 0, False, False
            self._state = self._arguments
            return True
        end = self._buffer.find(CLOSE)
        if end < 0 and not last:
            return False
        end = len(self._buffer) if end < 0 else end
        raw, rest = self._buffer[:end], self._buffer[end : end + len(CLOSE)]
        self._buffer = self._buffer[end + len(CLOSE) :]
        if not self._whole_call(raw):
            self._emit_text(raw + rest if self._forced else OPEN + raw + rest)
        self._state = self._after()
        return True

    def _whole_call(self, raw: str) -> bool:
        """Whether ``raw`` is a call in another order or form than ``_HEAD`` knows."""
        try:
            call = json.loads(raw)
            name, arguments = call["name"], call.get("arguments", {})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return False
        if name not in self._names or not isinstance(arguments, dict):
            return False
        self._begin_call(name)
        self._events.append(Arguments(self.calls - 1, json.dumps(arguments, ensure_ascii=False)))
        self._after_call = True
        return True

    def _begin_call(self, name: str) -> None:
        self._events.append(CallBegins(self.calls, name, f"call_{secrets.token_hex(12)}"))
        self.calls += 1

    def _arguments(self, last: bool) -> bool:
        """Inside of the arguments, up to the bracket that closes them."""
        for position, mark in enumerate(self._buffer):
            if self._ends_arguments(mark):
                self._events.append(Arguments(self.calls - 1, self._buffer[: position + 1]))
                self._buffer = self._buffer[position + 1 :]
                self._state = self._tail
                return True
        if self._buffer:
            self._events.append(Arguments(self.calls - 1, self._buffer))
            self._buffer = ""
        return False

    def _ends_arguments(self, mark: str) -> bool:
        if self._in_string:
            if self._escaped:
                self._escaped = False
            elif mark == "\\":
                self._escaped = True
            elif mark == '"':
                self._in_string = False
            return False
        if mark == '"':
            self._in_string = True
        elif mark in "{[":
            self._depth += 1
        elif mark in "}]":
            self._depth -= 1
            return self._depth == 0
        return False

    def _tail(self, last: bool) -> bool:
        """Behind the arguments: a bracket and the closing tag, which may be missing."""
        match = _TAIL.match(self._buffer)
        rest = self._buffer[match.end() :] if match else self._buffer
        if not last and rest != CLOSE and CLOSE.startswith(rest):
            return False
        self._buffer = rest.removeprefix(CLOSE)
        self._after_call = True
        self._state = self._after()
        return True

    def _after(self) -> Callable[[bool], bool]:
        return self._ignore if self.calls and (self._forced or not self._parallel) else self._text

    def _ignore(self, last: bool) -> bool:
        self._buffer = ""
        return False


def _held_back(text: str) -> int:
    """How many characters at the end of ``text`` may belong to an opening tag or the white space before one."""
    for length in range(min(len(OPEN) - 1, len(text)), 0, -1):
        if text.endswith(OPEN[:length]):
            break
    else:
        length = 0
    return len(text) - len(text[: len(text) - length].rstrip())

"""A call to a model and its answer, and what of a call makes it the same call."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kaiyuan.errors import KaiyuanError

Message = dict[str, str]


class RowFailed(Exception):
    """One row cannot go on; the run does. ``step`` says where, the text why."""

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(reason)
        self.step, self.reason = step, reason


class EndpointFailed(KaiyuanError):
    """An endpoint that the run cannot do without: wrong key, no money, down for too long. Stops the run."""


@dataclass(frozen=True)
class Call:
    """One answer that is wanted. ``parameters`` are what is sent beside model and messages."""

    role: str
    messages: Sequence[Message]
    parameters: dict[str, Any]
    sample: int = 0

    def key(self, model: str) -> str:
        """The address of the answer: hash of model, messages, parameters and sample index, never of URL or API key."""
        content = [model, list(self.messages), self.parameters, self.sample]
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Answer:
    """What a model said. ``paid`` is false if it came from the journal."""

    key: str
    text: str
    finish: str
    model: str
    """As the server names it."""
    tokens_in: int
    tokens_out: int
    seconds: float
    paid: bool = True

    def record(self) -> dict[str, Any]:
        """What the journal keeps."""
        return {"key": self.key, "text": self.text, "finish": self.finish, "model": self.model,
                "in": self.tokens_in, "out": self.tokens_out, "seconds": round(self.seconds, 3)}  # fmt: skip

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Answer:
        return cls(record["key"], record["text"], record["finish"], record["model"], record["in"], record["out"],
                   record["seconds"], paid=False)  # fmt: skip


def digest(text: str) -> str:
    """A short hash of a text, for provenance."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]

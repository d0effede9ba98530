"""A row on its way through the steps, with all that was done to it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from kaiyuan.synthesis.llm.calls import Answer, digest
from kaiyuan.synthesis.llm.client import parameters_of
from kaiyuan.synthesis.llm.config import Asking

KINDS = ("math", "code", "objective", "open")


@dataclass(frozen=True)
class Row:
    """An instruction and its history. Rows are never changed: a step makes a new one."""

    id: str
    instruction: str
    language: str
    topic: str = ""
    kind: str = ""
    difficulty: int = 0
    context: str = ""
    """Text that belongs to the instruction and stands below it."""
    translates: bool = False
    seed: dict[str, str] = field(default_factory=dict)
    """Id, source and hash of the seed; empty for an instruction that expansion made."""
    trail: tuple[dict[str, Any], ...] = ()
    """Every call that shaped the row: step, role, model, parameters, prompt versions, hash of the answer."""

    @property
    def prompt(self) -> str:
        """What the user says."""
        return f"{self.instruction}\n\n{self.context}" if self.context else self.instruction

    def after(self, note: dict[str, Any], **changes: Any) -> Row:
        return replace(self, trail=(*self.trail, note), **changes)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Row:
        return cls(**{**values, "trail": tuple(values["trail"])})


class Refused(Exception):
    """A row that a guard or a filter took out: not an error, but not good enough."""

    def __init__(self, step: str, reason: str, row: Row | None = None, **details: Any) -> None:
        super().__init__(reason)
        self.step, self.reason, self.row, self.details = step, reason, row, details


def note_of(config: Asking, step: str, role: str, answer: Answer, **more: Any) -> dict[str, Any]:
    """One entry of a trail."""
    endpoint = config.endpoint_of(config.role(role))
    note = {
        "step": step,
        "role": role,
        "model": endpoint.model,
        "parameters": parameters_of(config, role, None),
        "call": answer.key[:16],
        "answer": digest(answer.text),
    }
    if answer.model and answer.model != endpoint.model:
        note["served_as"] = answer.model
    return {**note, **more}

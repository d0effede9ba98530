"""The models that grade and label: endpoints, who plays critic and labeller, what it may cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from kaiyuan.settings import Settings, load_settings
from kaiyuan.synthesis.llm.config import Asking, Role


class Judge(Role):
    """Who plays a role; a judge says what is likeliest unless told otherwise."""

    temperature: float | None = Field(default=0.0, ge=0, le=2)


class JudgesRun(Settings):
    budget: float | None = Field(default=None, gt=0)
    """All answers in the folder's journal together may cost this much."""
    tokenizer: str = ""
    """A folder with a tokenizer to estimate tokens with; empty: from characters."""
    taxonomy: str = ""
    """A file of domains and topics in place of the built-in one."""


class Judges(Asking):
    """A config of ``kaiyuan curate grade`` and ``kaiyuan curate label``."""

    run: JudgesRun = JudgesRun()
    critics: list[Judge] = []
    """In this order: a sample goes to the first that did not write it."""
    votes: Annotated[int, Field(ge=1, le=9)] = 1
    """Critiques of one sample; the (lower) middle one is its tier."""
    labeller: Judge | None = None

    @model_validator(mode="after")
    def _roles_are_filled(self) -> Judges:
        if problems := list(self._without_endpoint()):
            raise ValueError("\n".join(problems))
        return self

    def named(self) -> Iterator[tuple[str, Role]]:
        yield from ((f"critics.{place}", role) for place, role in enumerate(self.critics))
        if self.labeller is not None:
            yield "labeller", self.labeller

    @property
    def budget(self) -> float | None:
        return self.run.budget


def load_judges(path: Path) -> Judges:
    """Read a config; a ``ConfigError`` lists everything that is wrong. Paths in it are relative to the file."""
    config = load_settings(Judges, path)
    paths = {key: str(path.parent / value) for key in ("tokenizer", "taxonomy") if (value := getattr(config.run, key))}
    return config.model_copy(update={"run": config.run.model_copy(update=paths)})

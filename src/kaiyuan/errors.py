"""The errors that a user can mend. Their text is what the command line prints: what is wrong, where, what to do."""

from __future__ import annotations

from collections.abc import Sequence


class KaiyuanError(Exception):
    """A problem with the user's input. The command line prints its text alone; ``--debug`` adds the traceback."""


class ConfigError(KaiyuanError):
    """A model config or a recipe that cannot be used."""


class CheckpointError(KaiyuanError):
    """A model folder or a training checkpoint that cannot be read."""


class DataError(KaiyuanError):
    """Text, tokens or chat data that cannot be used."""


class TrainingError(KaiyuanError):
    """Training that must not go on: a loss that is not finite, or diverges."""


def listing(title: str, problems: Sequence[str], limit: int = 40) -> str:
    """One message for all ``problems``, so that the user mends them in one go; the first ``limit`` are shown."""
    shown = [f"  - {problem}" for problem in problems[:limit]]
    if len(problems) > limit:
        shown.append(f"  ... and {len(problems) - limit} more")
    return "\n".join([f"{title}:", *shown])

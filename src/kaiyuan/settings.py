"""The base of every group of settings: strict, frozen, unknown keys refused, all problems told at once."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from kaiyuan.errors import ConfigError, listing


class Settings(BaseModel):
    """A frozen group of settings. No value is converted to another type, no unknown key is let through."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def files_read(self) -> list[Path]:
        """Files outside of the run that the settings name, and whose content decides what comes of them."""
        return []


S = TypeVar("S", bound=Settings)


def load_settings(kind: type[S], path: Path) -> S:
    """The ``kind`` of settings that a TOML file holds; a ``ConfigError`` lists everything that is wrong with it."""
    return checked(kind, read_toml(path), path)


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file; a ``ConfigError`` says why there are none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: a folder; give a TOML file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def checked(kind: type[S], values: dict[str, Any], path: Path) -> S:
    """``values`` of the file ``path`` as settings; a ``ConfigError`` lists everything that is wrong with them."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(listing(f"{path} cannot be used", problems_of(error))) from None


def problems_of(error: ValidationError) -> list[str]:
    """Pydantic's findings as ``section.key: what is wrong``, one line each."""
    problems: list[str] = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"] if not _names_a_type(str(part)))
        prefix = f"{key}: " if key else ""
        if item["type"] == "extra_forbidden":
            problems.append(f"{prefix}no such setting")
        elif item["type"] == "missing":
            problems.append(f"{prefix}missing")
        elif item["type"] == "value_error":
            problems += [f"{prefix}{line}" for line in item["msg"].removeprefix("Value error, ").split("\n")]
        else:
            problems.append(f"{prefix}{item['input']!r} is not allowed ({item['msg'].lower()})")
    return list({problem.split(" (")[0]: problem for problem in reversed(problems)}.values())[::-1]


def _names_a_type(part: str) -> bool:
    """Whether a part of a location is pydantic's name for one branch of a union instead of a key."""
    return part in ("int", "float", "str", "bool") or "[" in part

"""What the prompts are made of: templates, taxonomy, rubric and the steps' prompts, all data files with versions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kaiyuan.errors import ConfigError, listing
from kaiyuan.files import sha256_of
from kaiyuan.settings import read_toml
from kaiyuan.synthesis.llm.config import SynthesisConfig

_DATA = Path(__file__).parent / "data"
_FENCE = re.compile("={4,}")
_PLACE = re.compile(r"\{\{(\w+)\}\}")
SOURCES = ("document", "qa", "code", "book")


@dataclass(frozen=True)
class Template:
    """One way to ask for instructions, in both languages."""

    id: str
    version: int
    sources: tuple[str, ...]
    topic: str
    texts: Mapping[str, str]
    context: bool = False
    """The seed's text goes below the instruction."""
    translates: bool = False

    @property
    def domain(self) -> str:
        return self.topic.partition("/")[0]


@dataclass(frozen=True)
class Topic:
    """A leaf of the taxonomy."""

    id: str
    names: Mapping[str, str]
    weight: float = 1.0


@dataclass(frozen=True)
class Library:
    templates: tuple[Template, ...]
    topics: Mapping[str, Topic]
    criteria: Mapping[str, Mapping[str, str]]
    prompts: Mapping[str, Any]
    versions: Mapping[str, str]
    """Of each file: its version and the beginning of its hash."""

    def prompt(self, name: str, language: str, /, **values: object) -> str:
        """A prompt of ``prompts.toml``, filled in; no value can write the lines that fence off material."""
        return fill_fenced(str(self.prompts[name][language]), **values)

    @cached_property
    def topic_list(self) -> str:
        return ", ".join(self.topics)


def fill(text: str, /, **values: object) -> str:
    """``text`` with each ``{{name}}`` replaced, in one pass: places inside of values stay as they are."""
    return _PLACE.sub(lambda place: str(values[place[1]]), text)


def fill_fenced(text: str, /, **values: object) -> str:
    """``fill`` for a prompt with fenced material: no value can write the lines that fence it off."""
    return fill(text.strip(), **{key: _FENCE.sub("===", str(value)) for key, value in values.items()})


def built_in(name: str) -> Path:
    """The data file ``name`` that ships with the package: prompts, rubric, taxonomy, templates."""
    return _DATA / f"{name}.toml"


def version_of(values: Mapping[str, Any], path: Path) -> str:
    """Of a data file: its version and the beginning of its hash."""
    return f"{values['version']}:{sha256_of(path)[:12]}"


def load_library(config: SynthesisConfig) -> Library:
    """The library of a run; ``ConfigError`` names the file and what is wrong with it."""
    paths = {
        "templates": Path(config.run.templates or built_in("templates")),
        "taxonomy": Path(config.run.taxonomy or built_in("taxonomy")),
        "rubric": built_in("rubric"),
        "prompts": built_in("prompts"),
    }
    values = {name: read_data(path) for name, path in paths.items()}
    topics = topics_of(values["taxonomy"], paths["taxonomy"])
    templates = _templates(values["templates"], topics, paths["templates"])
    versions = {name: version_of(values[name], path) for name, path in paths.items()}
    library = Library(templates, topics, values["rubric"]["criteria"], values["prompts"], versions)
    _check_names(config, library)
    return library


def read_data(path: Path) -> dict[str, Any]:
    """A TOML file with a version; ``ConfigError`` names the file and what is wrong with it."""
    values = read_toml(path)
    if not isinstance(values.get("version"), int):
        raise ConfigError(f"{path}: version: a whole number is missing")
    return values


def topics_of(values: Mapping[str, Any], path: Path) -> dict[str, Topic]:
    """The leaves of a taxonomy by id."""
    topics = {}
    for domain, entry in values.items():
        if domain == "version":
            continue
        try:
            for name, leaf in entry["topics"].items():
                id = f"{domain}/{name}"
                topics[id] = Topic(id, {"en": str(leaf["en"]), "zh": str(leaf["zh"])}, float(leaf.get("weight", 1)))
        except (KeyError, TypeError, AttributeError, ValueError):
            raise ConfigError(f"{path}: {domain}: expected topics = {{ name = {{ en = ..., zh = ... }} }}") from None
    return topics


def _templates(values: dict[str, Any], topics: Mapping[str, Topic], path: Path) -> tuple[Template, ...]:
    found: dict[str, Template] = {}
    problems = []
    for number, entry in enumerate(values.get("template", []), 1):
        problem = _problem(entry, topics)
        if not problem and entry["id"] in found:
            problem = "its id is taken"
        if problem:
            problems.append(f"template {number} ({entry.get('id', '?')}): {problem}")
            continue
        found[entry["id"]] = Template(
            id=entry["id"],
            version=entry["version"],
            sources=tuple(entry["sources"]),
            topic=entry["topic"],
            texts={"en": entry["en"], "zh": entry["zh"]},
            context=bool(entry.get("context", False)),
            translates=bool(entry.get("translates", False)),
        )
    if problems or not found:
        raise ConfigError(listing(f"{path} cannot be used", problems or ["no templates"]))
    return tuple(found.values())


def _problem(entry: Mapping[str, Any], topics: Mapping[str, Topic]) -> str:
    if not all(isinstance(entry.get(key), str) and entry[key] for key in ("id", "topic", "en", "zh")):
        return "id, topic, en and zh are needed"
    if not isinstance(entry.get("version"), int):
        return "version must be a whole number"
    if entry["topic"] not in topics:
        return f"{entry['topic']} is not in the taxonomy"
    sources = entry.get("sources")
    if not isinstance(sources, list) or not sources or not set(sources) <= set(SOURCES):
        return f"sources must be some of {', '.join(SOURCES)}"
    return ""


def _check_names(config: SynthesisConfig, library: Library) -> None:
    """Refuse names of the config that the taxonomy does not know."""
    known = {*library.topics, *(topic.partition("/")[0] for topic in library.topics)}
    named = [
        *(("instructions.domains", name) for name in config.instructions.domains),
        *(("evolution.expand_topics", name) for name in config.evolution.expand_topics),
        *(("roles.responders", name) for name in config.roles.responders if name != "default"),
    ]
    unknown = [(where, name) for where, name in named if name not in known]
    problems = [f"{where}: {name!r} is no topic or domain of the taxonomy" for where, name in unknown]
    if problems:
        raise ConfigError(listing("the config cannot be used", problems))

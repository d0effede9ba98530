"""The config of a run: endpoints, roles, seeds, and how much of what. Checked before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from kaiyuan.settings import Settings, load_settings

Share = Annotated[float, Field(ge=0, le=1)]
Number = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
DEFAULT = "default"


class Endpoint(Settings):
    """One model behind an OpenAI-compatible API. Limits hold for all roles that share it."""

    base_url: str
    """Up to and with ``/v1``."""
    model: str
    api_key_env: str = ""
    """The NAME of the environment variable that holds the key; empty for none."""
    price_in: float = Field(default=0.0, ge=0)
    """Per million prompt tokens, in any currency."""
    price_out: float = Field(default=0.0, ge=0)
    concurrency: Positive = 16
    requests_per_minute: Number = 0
    """0: no limit."""
    tokens_per_minute: Number = 0
    timeout: float = Field(default=120.0, gt=0)
    """Seconds for a whole request, however slowly the answer trickles in."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: Positive = 1024
    structured: Literal["none", "json_object", "json_schema"] = "none"
    """What is sent as ``response_format`` where JSON is wanted, if the server knows it."""
    send_seed: bool = True
    """Send a ``seed`` that differs from sample to sample, so that no cache on the way joins them."""

    @field_validator("base_url")
    @classmethod
    def _usable_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected http(s)://host/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("no user, password or query belongs here: put the key in the variable api_key_env names")
        return value.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _names_a_variable(cls, value: str) -> str:
        if value and not _VARIABLE.fullmatch(value):
            raise ValueError("must be the name of an environment variable, never the key itself")
        return value


class Role(Settings):
    """Who plays a role, and what it changes of the endpoint's parameters."""

    endpoint: str
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: Positive | None = None


class Roles(Settings):
    instructor: Role
    evolver: Role
    judge: Role
    """Labels instructions, says whether they can be answered, writes tests for code."""
    critic: Role
    """Scores responses."""
    responders: dict[str, Role]
    """By topic (``mathematics/algebra``), domain (``mathematics``) or ``default``."""

    def named(self) -> Iterator[tuple[str, Role]]:
        for name in ("instructor", "evolver", "judge", "critic"):
            yield name, getattr(self, name)
        for name, role in self.responders.items():
            yield f"responders.{name}", role


class Seeds(Settings):
    """A file of seeds, or a folder of them: JSONL with ``text`` and optionally ``id``, ``language``, ``answer``."""

    path: str
    source: Literal["document", "qa", "code", "book"]
    limit: Number = 0
    """Seeds to take of it, spread over the whole by the hash of their text; 0 for all."""


class Client(Settings):
    """How faults are met."""

    tries: Positive = 6
    """Times one request is sent before its row fails."""
    backoff: float = Field(default=1.0, gt=0)
    """Seconds before the second try, doubled from try to try, with jitter."""
    longest_backoff: float = Field(default=60.0, gt=0)
    longest_retry_after: float = Field(default=600.0, gt=0)
    """A server that asks for more patience (429, Retry-After) than this many seconds counts as down."""
    breaker: Positive = 8
    """Failures in a row, over all requests of an endpoint, after which it is taken for down."""
    probe_every: float = Field(default=15.0, gt=0)
    give_up: float = Field(default=1800.0, gt=0)
    """Seconds an endpoint may be down before the run stops (and can be gone on with)."""
    answer_bytes: Positive = 4 << 20
    """Longest body of an answer; a longer one is cut off and refused."""
    format_tries: Positive = 2
    """Times an answer that is not the JSON asked for is asked again, as another sample."""


class Instructions(Settings):
    """Step 1."""

    calls_per_seed: Positive = 1
    per_call: Annotated[int, Field(ge=1, le=8)] = 2
    seed_chars: Annotated[int, Field(ge=200)] = 6000
    """How much of a seed a prompt shows."""
    domains: list[str] = []
    """Only templates of these domains; empty for all."""


class Evolution(Settings):
    """Step 2."""

    clarity_share: Share = 0.3
    difficulty_share: Share = 0.5
    expansion: Share = 0.2
    """New instructions for thin topics, as a share of what step 1 gave."""
    expand_topics: list[str] = []
    """Topics (``mathematics/algebra``) or domains expansion may fill; empty for all."""


class Guards(Settings):
    """What an instruction may not be. See ``guards``."""

    seed_overlap: Share = 0.6
    """Largest share of an instruction's n-grams that its seed has too."""
    similarity: Annotated[float, Field(ge=0.2, le=1)] = 0.7
    """Jaccard similarity of n-grams from which two instructions are one."""
    min_units: Positive = 4
    """Shortest instruction, in words or Han characters."""
    max_chars: Positive = 8000


class Responses(Settings):
    """Step 3."""

    samples: Annotated[int, Field(ge=1, le=64)] = 5
    """Answers where self-consistency is used (maths, code, objective questions); 1 elsewhere."""
    max_chars: Positive = 32_000


class Filters(Settings):
    """Step 4."""

    agreement: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """More than this share of the samples must come to the same."""
    critic: bool = True
    min_score: Annotated[int, Field(ge=1, le=4)] = 3
    """Lowest score (of 1 to 4) that each criterion of the rubric must reach."""
    critic_votes: Annotated[int, Field(ge=1, le=9)] = 1
    """Critiques of one answer; more than half must accept it."""
    min_tests: Positive = 2
    """Fewest usable tests of a code task."""
    require_math_verify: bool = False
    """Refuse to start without the optional math-verify; else plain comparison of numbers and text stands in."""


class SandboxSettings(Settings):
    """Where code of models runs. See ``sandbox``."""

    seconds: float = Field(default=10.0, gt=0, le=600)
    memory_mb: Annotated[int, Field(ge=64)] = 512
    concurrency: Positive = 2
    allow_unisolated: bool = False
    """Run with limits alone where the kernel gives no namespaces: code could then reach the network and your files."""


class Run(Settings):
    name: str = "synthesis"
    seed: int = 0
    languages: list[Literal["en", "zh"]] = ["en", "zh"]
    """Seeds in other languages are left out."""
    budget: float | None = Field(default=None, gt=0)
    """The run stops when it has cost this much, earlier runs on the same journal included."""
    tokenizer: str = ""
    """A folder with a tokenizer to estimate tokens with; empty: from characters."""
    templates: str = ""
    """A file of instruction templates to use in place of the built-in ones."""
    taxonomy: str = ""


class Asking(Settings):
    """Whom an ``Asker`` may ask: endpoints, the roles they play, and how patient it is."""

    endpoints: dict[str, Endpoint]
    client: Client = Client()

    def named(self) -> Iterator[tuple[str, Role]]:
        """Every role with its name."""
        raise NotImplementedError

    @property
    def budget(self) -> float | None:
        """What all may cost."""
        raise NotImplementedError

    def role(self, name: str) -> Role:
        """By the name that ``named`` gives it."""
        return dict(self.named())[name]

    def endpoint_of(self, role: Role) -> Endpoint:
        return self.endpoints[role.endpoint]

    def model_of(self, name: str) -> str:
        """The model that plays the role ``name``."""
        return self.endpoint_of(self.role(name)).model

    def _without_endpoint(self) -> Iterator[str]:
        """What is wrong with roles that nobody plays."""
        for name, role in self.named():
            if role.endpoint not in self.endpoints:
                yield f"{name}.endpoint: there is no endpoints.{role.endpoint}"


class SynthesisConfig(Asking):
    run: Run = Run()
    roles: Roles
    seeds: Annotated[list[Seeds], Field(min_length=1)]
    instructions: Instructions = Instructions()
    evolution: Evolution = Evolution()
    guards: Guards = Guards()
    responses: Responses = Responses()
    filters: Filters = Filters()
    sandbox: SandboxSettings = SandboxSettings()

    @model_validator(mode="after")
    def _roles_are_filled(self) -> SynthesisConfig:
        problems = [f"roles.{problem}" for problem in self._without_endpoint()]
        if DEFAULT not in self.roles.responders:
            problems.append("roles.responders.default: missing; it answers what has no specialist")
        if not problems:
            problems = list(self._self_judges())
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _self_judges(self) -> Iterator[str]:
        """Roles that would pass judgement on their own answers."""
        authors = {model_identity(self.endpoint_of(role).model): name for name, role in self.roles.responders.items()}
        for judging, role in (("critic", self.roles.critic), ("judge", self.roles.judge)):
            model = self.endpoint_of(role).model
            if model_identity(model) in authors:
                name = authors[model_identity(model)]
                yield f"roles.{judging}: {model} also answers as roles.responders.{name}; no model may judge itself"

    def named(self) -> Iterator[tuple[str, Role]]:
        return self.roles.named()

    @property
    def budget(self) -> float | None:
        return self.run.budget

    def responder_of(self, label: str) -> str:
        """The name of the role that answers ``domain/topic``: its own specialist, its domain's, or the default."""
        for name in (label, label.partition("/")[0]):
            if name in self.roles.responders:
                return f"responders.{name}"
        return f"responders.{DEFAULT}"


def model_identity(model: str) -> str:
    """A model's name without owner, tag and case, so that two ways of writing it are one model."""
    return model.strip().lower().rpartition("/")[2].partition(":")[0]


def load_config(path: Path) -> SynthesisConfig:
    """Read a config; a ``ConfigError`` lists everything that is wrong with it. Paths in it are relative to the file."""
    return _anchored(load_settings(SynthesisConfig, path), path.parent)


def _anchored(config: SynthesisConfig, folder: Path) -> SynthesisConfig:
    run = {
        key: str(folder / value)
        for key in ("tokenizer", "templates", "taxonomy")
        if (value := getattr(config.run, key))
    }
    seeds = [seed.model_copy(update={"path": str(folder / seed.path)}) for seed in config.seeds]
    return config.model_copy(update={"run": config.run.model_copy(update=run), "seeds": seeds})

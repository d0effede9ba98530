"""What the server allows, and how it was started."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kaiyuan.errors import ConfigError
from kaiyuan.inference.params import SamplingParams
from kaiyuan.tokenizer.tokenizer import GENERATION_FILE, read_settings

KEY_VARIABLE = "KAIYUAN_API_KEY"
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_SHORTEST_KEY = 16


@dataclass(frozen=True)
class Limits:
    """What one request may ask for. All are checked before the engine sees the request."""

    body_bytes: int = 4 << 20
    body_seconds: float = 30.0
    """Longest time for the body to arrive."""
    json_depth: int = 64
    prompt_tokens: int | None = None
    """None: the model's context less one."""
    max_tokens: int = 32_768
    prompts: int = 128
    """Prompts of one completion request."""
    n: int = 16
    stops: int = 16
    stop_characters: int = 256
    logit_bias: int = 1024
    messages: int = 1024
    tools: int = 128
    schema_bytes: int = 64 << 10
    schema_depth: int = 32
    regex_characters: int = 1024
    max_waiting: int = 256
    """Requests in the queue before new ones are refused."""
    request_seconds: float = 600.0


@dataclass(frozen=True)
class ServerSettings:
    """How the server presents itself. Without ``api_keys`` only requests to this machine's own names are answered."""

    model_name: str
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    """Any of them opens the server. Holders of different keys share no cached prefixes."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Sampling parameters for requests that do not say, as ``generation_defaults`` reads them."""
    limits: Limits = field(default_factory=Limits)
    metrics_prefix: str = "kaiyuan"
    """``vllm`` makes dashboards for vLLM work."""
    drain_seconds: float = 30.0
    """How long requests under way may go on when the server is told to stop."""


def generation_defaults(folder: Path) -> dict[str, Any]:
    """Sampling parameters of ``folder``'s ``generation_config.json``: ``SamplingParams`` names, empty without the file.

    Raises ``ConfigError`` naming the file if a value cannot be used.
    """
    path = folder / GENERATION_FILE
    found = read_settings(path)
    names = {name: name for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")}
    names["max_new_tokens"] = "max_tokens"
    defaults = {ours: found[theirs] for theirs, ours in names.items() if found.get(theirs) is not None}
    if found.get("do_sample") is False:
        defaults["temperature"] = 0.0
    try:
        SamplingParams(**defaults)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return defaults


def is_loopback(host: str) -> bool:
    """Whether ``host`` can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_api_keys(file: Path | None) -> tuple[str, ...]:
    """The keys in ``file``, one a line, else in the environment variable ``KAIYUAN_API_KEY``; empty if there are none.

    Raises ``ConfigError`` for a key that cannot be sent in a header, or is easy to guess.
    """
    if file is not None:
        try:
            text, source = file.read_text(encoding="utf-8"), str(file)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: the API key cannot be read: {error}") from None
        if not text.strip():
            raise ConfigError(f"{file}: the file of the API key is empty")
    else:
        text, source = os.environ.get(KEY_VARIABLE, ""), KEY_VARIABLE
    keys = [line.strip() for line in text.splitlines() if line.strip()]
    for key in keys:
        _check_key(key, source)
    return tuple(dict.fromkeys(keys))


def _check_key(key: str, source: str) -> None:
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"{source}: an API key has printable ASCII characters without spaces")
    if len(key) < _SHORTEST_KEY:
        raise ConfigError(
            f"{source}: the API key has {len(key)} characters, at least {_SHORTEST_KEY} are needed; "
            'make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"'
        )


def check_exposure(host: str, api_keys: Sequence[str]) -> None:
    """Raise ``ConfigError`` if the server would be open to others without a key."""
    if not api_keys and not is_loopback(host):
        raise ConfigError(
            f"--host {host}: others can reach this address, so an API key is needed: "
            f"set the environment variable {KEY_VARIABLE} or give --api-key-file"
        )

"""Preference pairs for DPO and what can be wrong with them (paper 3.2): one question, a better and a worse answer.

Read are rows with ``messages`` (or ``prompt``), ``chosen`` and ``rejected``, each a text or a list of messages; lists
may begin with the prompt. Each pair is decided about by rules, into the same log as samples.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from kaiyuan.corpus.units import units
from kaiyuan.curation.log import DROP, KEEP, Decision, now
from kaiyuan.curation.rules import faults, has_special_token
from kaiyuan.curation.sample import Message, Sample, language_of, messages_in, problem_of
from kaiyuan.errors import DataError
from kaiyuan.files import read_jsonl

NAME, VERSION = "pair rules", "1"


@dataclass(frozen=True)
class Pair:
    """A conversation that ends with the user's turn, and two answers to it."""

    messages: tuple[Message, ...]
    chosen: str
    rejected: str
    place: str = ""
    labels: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of its row, kept as they are."""

    @cached_property
    def hash(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of what was asked, chosen and rejected."""
        turns = [[message["role"], message["content"]] for message in self.messages]
        text = json.dumps([turns, self.chosen, self.rejected], ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @property
    def question(self) -> str:
        """All that users say."""
        return "\n\n".join(message["content"] for message in self.messages if message["role"] == "user")

    @property
    def language(self) -> str:
        return language_of(self.question)

    @cached_property
    def lengths(self) -> tuple[int, int]:
        """Words and Han characters of the chosen and of the rejected answer."""
        return len(units(self.chosen)), len(units(self.rejected))

    def row(self) -> dict[str, Any]:
        """What ``kaiyuan dpo`` reads. ``pair_of`` is its inverse."""
        known = {name: value for name in ("place", "labels") if (value := getattr(self, name))}
        return {
            "messages": [dict(message) for message in self.messages], "chosen": self.chosen,
            "rejected": self.rejected, "hash": self.hash, **known, **self.extra,
        }  # fmt: skip


_KNOWN = ("messages", "prompt", "chosen", "rejected", "hash", "place", "labels")


def pair_of(row: object, place: str) -> Pair:
    """The pair of a row; a ``DataError`` says at ``place`` why it is none."""
    if not isinstance(row, Mapping):
        raise DataError(f"{place}: not an object")
    prompt = row.get("messages", row.get("prompt"))
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if prompt is None and isinstance(row.get("chosen"), list):
        prompt = row["chosen"][:-1]
    messages = messages_in(prompt)
    chosen, rejected = (_answer(row.get(name), messages) for name in ("chosen", "rejected"))
    if not messages or chosen is None or rejected is None:
        raise DataError(f'{place}: expected {{"messages": [...], "chosen": answer, "rejected": answer}}')
    if problem := problem_of([*messages, {"role": "assistant", "content": "-"}]):
        raise DataError(f"{place}: {problem}")
    if not chosen.strip() or not rejected.strip():
        raise DataError(f"{place}: an empty answer")
    labels = row.get("labels")
    extra = {key: value for key, value in row.items() if key not in _KNOWN}
    known = row.get("place")
    return Pair(messages, chosen, rejected, known if isinstance(known, str) else place,
                labels if isinstance(labels, Mapping) else {}, extra)  # fmt: skip


def _answer(value: object, messages: tuple[Message, ...] | None) -> str | None:
    """An answer given as a text, or as messages of which the last is the assistant's, perhaps behind the prompt."""
    if isinstance(value, str):
        return value
    turns = messages_in(value)
    if not turns or turns[-1]["role"] != "assistant" or turns[:-1] not in ((), messages):
        return None
    return turns[-1]["content"]


def read_pairs(path: Path) -> Iterator[Pair]:
    """The pairs of a file of a folder of curation; none without the file."""
    if path.is_file():
        for number, row in enumerate(read_jsonl(path), 1):
            yield pair_of(row, f"{path}: pair {number}")


def collect(paths: Iterable[Path], left_out: Counter[str]) -> Iterator[Pair]:
    """The different pairs of files as they are found; what is none is counted by reason."""
    seen = set[str]()
    for path in paths:
        for number, row in enumerate(read_jsonl(path), 1):
            try:
                pair = pair_of(row, f"{path.name}:{number}")
            except DataError as error:
                left_out[str(error).partition(": ")[2]] += 1
                continue
            if pair.hash in seen:
                left_out["same as one before"] += 1
                continue
            seen.add(pair.hash)
            yield pair


def pair_faults(pair: Pair) -> Iterator[str]:
    """Everything wrong with a pair by itself. The rejected answer may be as bad as it likes."""
    if _plain(pair.chosen) == _plain(pair.rejected):
        yield "chosen equals rejected"
    answered = ({"role": "assistant", "content": pair.chosen},)
    for fault in faults(Sample((*pair.messages, *answered), language=pair.language)):
        yield f"chosen: {fault}"
    if has_special_token(pair.rejected):
        yield "rejected: special token"


def check_pairs(pairs: Iterable[Pair]) -> Iterator[Decision]:
    """A decision on every pair, in order, whatever the order for the outcome.

    Of pairs that differ in spaces and case only, the one with the lowest hash stays. Where one pair chooses what
    another rejects, neither can be learnt from.
    """
    found: dict[str, tuple[tuple[str, ...], tuple[int, int]]] = {}
    alike: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for pair in pairs:
        key = (_asked(pair), _plain(pair.chosen), _plain(pair.rejected))
        alike[tuple(map(_digest, key))].append(pair.hash)
        found[pair.hash] = tuple(dict.fromkeys(pair_faults(pair))), pair.lengths
    gone: dict[str, tuple[str, str]] = {}
    for (asked, chosen, rejected), names in alike.items():
        first, *others = sorted(names)
        gone.update((name, ("duplicate", first)) for name in others)
        if chosen != rejected and (against := alike.get((asked, rejected, chosen))):
            gone[first] = ("contradicts another pair", min(against))
    for name, (problems, lengths) in found.items():
        reason, like = gone.get(name, ("", ""))
        reasons = (*problems, *((reason,) if reason else ()))
        details: dict[str, Any] = {"units": list(lengths), **({"like": like} if like else {})}
        yield Decision(name, "rules", NAME, VERSION, DROP if reasons else KEEP, now(), reasons, details)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _asked(pair: Pair) -> str:
    return _plain("\0".join(f"{message['role']} {message['content']}" for message in pair.messages))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:20]

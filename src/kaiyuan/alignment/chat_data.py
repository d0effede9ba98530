"""What SFT trains on: files of conversations, each as often as its weight says, and a share of plain text.

Shapes: T tokens of a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import torch

from kaiyuan.alignment.sft import PackedRow
from kaiyuan.corpus.loader import MixturePhase, TokenLoader
from kaiyuan.errors import DataError
from kaiyuan.files import read_jsonl
from kaiyuan.tokenizer import ChatTokens, render_training

if TYPE_CHECKING:
    from kaiyuan.corpus.shards import Shard
    from kaiyuan.tokenizer import Tokenizer


@dataclass
class ChatFile:
    """The conversations of one file that can be trained on, and what was counted on the way."""

    name: str
    samples: list[ChatTokens] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """``samples``, and of those left out ``too long`` and ``held out``."""
    labels: Counter[str] = field(default_factory=Counter)
    tiers: Counter[str] = field(default_factory=Counter)
    """How they were checked: ``human``, ``critique 4``, ``rules`` and the like; ``unchecked`` where nothing says so."""

    def report(self, used: int) -> dict[str, Any]:
        trained = sum(sum(sample.trained_mask) for sample in self.samples)
        return {
            "path": self.name, **dict(self.counts), "used_an_epoch": used, "trained_tokens": trained,
            "labels": dict(sorted(self.labels.items())), "tiers": dict(sorted(self.tiers.items())),
        }  # fmt: skip


def read_chats(
    path: Path, name: str, tokenizer: Tokenizer, length: int, held_out: Collection[str] = frozenset()
) -> ChatFile:
    """Render every conversation (``messages``) of a JSON Lines file; ``DataError`` names the first that is wrong.

    Left out and counted are conversations longer than ``length`` tokens and those that ask one of the ``held_out``
    prompts, which the model is evaluated with.
    """
    found = ChatFile(name, counts=Counter({"samples": 0}))
    for number, row in enumerate(read_jsonl(path), 1):
        if not isinstance(row, Mapping) or not isinstance(row.get("messages"), list):
            raise DataError(f'{path}: sample {number}: expected {{"messages": [...]}}')
        try:
            sample = render_training(tokenizer, row["messages"])
        except DataError as error:
            raise DataError(f"{path}: sample {number}: {error}") from None
        if any(message["role"] == "user" and message["content"] in held_out for message in row["messages"]):
            found.counts["held out"] += 1
        elif len(sample.ids) > length:
            found.counts["too long"] += 1
        else:
            found.samples.append(sample)
            found.counts["samples"] += 1
            found.labels[label_of(row)] += 1
            found.tiers[str(row.get("tier", "unchecked"))] += 1
    return found


def label_of(row: Mapping[str, Any]) -> str:
    """The domain of a conversation's topic, else its kind, else "unlabelled"."""
    labels = row.get("labels")
    domain = labels.get("domain") if isinstance(labels, Mapping) else None
    return str(domain or row.get("kind") or "unlabelled")


def weighted(samples: Sequence[ChatTokens], weight: float, key: str) -> list[ChatTokens]:
    """``samples`` with each ``weight`` times: 2.5 is all of them twice and half of them, chosen by ``key``, again."""
    whole = int(weight)
    rest = round((weight - whole) * len(samples))
    extra = sorted(Random(key).sample(range(len(samples)), rest))
    return [*list(samples) * whole, *(samples[index] for index in extra)]


class PlainText:
    """Rows of plain text to mix into SFT, so that the language model is not lost over its answers.

    ``share`` is of all rows. A token of them weighs ``weight`` where one of an answer weighs 1: a plain row trains all
    of its tokens, a row of conversations only those of the answers.
    """

    def __init__(
        self, shards: Mapping[str, Shard], mixture: Mapping[str, float], length: int, share: float, weight: float,
        chat_rows: int, epochs: int, seed: int,
    ) -> None:  # fmt: skip
        self.per_epoch = round(chat_rows * share / (1 - share))
        self.weight = weight
        phases = [MixturePhase(max(1, self.per_epoch * epochs), mixture)]
        self._loader = TokenLoader(shards, phases, length, seed)

    def row(self, index: int) -> PackedRow:
        """Row ``index`` of the whole training, whatever was asked for before."""
        tokens = torch.from_numpy(self._loader.sequence(index).tokens).to(torch.int32)
        weights = torch.full((len(tokens) - 1,), self.weight)
        return PackedRow(tokens[:-1], tokens[1:], weights, torch.zeros(len(tokens) - 1, dtype=torch.int32))

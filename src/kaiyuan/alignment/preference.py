"""Preference pairs: offline ones from a file, and online ones from what the policy itself answers (paper 3.2).

For an online pair the current policy answers a prompt several times; a reward says which answer is best and which is
worst. A prompt whose answers are all equally good teaches nothing and is passed over; an offline pair takes its
place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Protocol

import torch

from kaiyuan.alignment.division import ALONE, Alone
from kaiyuan.errors import DataError
from kaiyuan.files import read_jsonl
from kaiyuan.inference import Completion, Engine
from kaiyuan.inference.params import SamplingParams
from kaiyuan.model.routing import mix_seed
from kaiyuan.model.transformer import Transformer
from kaiyuan.tokenizer.chat import render_chat
from kaiyuan.training.batch import Batch

if TYPE_CHECKING:
    from kaiyuan.tokenizer import Tokenizer

Reward = Callable[[int, str], float]
"""The reward of an answer's text to the prompt with the given index."""


@dataclass(frozen=True)
class PreferencePair:
    """One prompt, a better and a worse answer, as ids; an answer that ended of itself includes its end token."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    def __post_init__(self) -> None:
        for name in ("prompt", "chosen", "rejected"):
            if not getattr(self, name):
                raise DataError(f"a preference pair has no tokens in its {name}")


def offline_pairs(path: Path, tokenizer: Tokenizer) -> list[PreferencePair]:
    """The pairs of a JSON Lines file: ``{"messages": [..., the user's], "chosen": text, "rejected": text}``.

    Raises ``DataError`` naming the file and the first pair that is not like that or whose answers are the same.
    """
    return [_offline_pair(row, tokenizer, f"{path}: pair {number}") for number, row in enumerate(read_jsonl(path), 1)]


def _offline_pair(row: object, tokenizer: Tokenizer, place: str) -> PreferencePair:
    if not isinstance(row, Mapping) or not isinstance(row.get("messages"), list):
        raise DataError(f'{place}: expected {{"messages": [...], "chosen": text, "rejected": text}}')
    for name in ("chosen", "rejected"):
        if not isinstance(row.get(name), str) or not row[name]:
            raise DataError(f"{place}: {name} must be a text")
    if row["chosen"] == row["rejected"]:
        raise DataError(f"{place}: chosen and rejected are the same answer")
    try:
        prompt = render_chat(tokenizer, row["messages"])
    except DataError as error:
        raise DataError(f"{place}: {error}") from None
    chosen, rejected = ([*tokenizer.encode(row[name]), tokenizer.eos_id] for name in ("chosen", "rejected"))
    return PreferencePair(prompt, chosen, rejected)


def best_against_worst(
    prompt: list[int], completions: Sequence[Completion], rewards: Sequence[float], end_id: int
) -> PreferencePair | None:
    """The pair of highest and lowest reward (the first of equals); None if all rewards are equal."""
    best, worst = rewards.index(max(rewards)), rewards.index(min(rewards))
    if rewards[best] == rewards[worst]:
        return None
    return PreferencePair(prompt, _answer(completions[best], end_id), _answer(completions[worst], end_id))


def _answer(completion: Completion, end_id: int) -> list[int]:
    return [*completion.token_ids, end_id] if completion.finish_reason == "stop" else list(completion.token_ids)


def collate(pairs: Sequence[PreferencePair], pad_id: int, multiple: int = 16) -> Batch:
    """Rows chosen, rejected, chosen, ... padded at the end; causal attention never sees that padding."""
    rows = [(pair.prompt, answer) for pair in pairs for answer in (pair.chosen, pair.rejected)]
    longest = max(len(prompt) + len(answer) for prompt, answer in rows) - 1
    length = -(-longest // multiple) * multiple
    ids, targets = torch.full((len(rows), length), pad_id), torch.full((len(rows), length), pad_id)
    weights = torch.zeros(len(rows), length)
    for row, (prompt, answer) in enumerate(rows):
        whole = torch.tensor([*prompt, *answer])
        ids[row, : len(whole) - 1] = whole[:-1]
        targets[row, : len(whole) - 1] = whole[1:]
        weights[row, len(prompt) - 1 : len(whole) - 1] = 1.0
    return Batch(ids, targets, weights, group=2)


class Sampler(Protocol):
    """What answers prompts: ``kaiyuan.inference.engine.Engine``, or another engine with the policy's weights."""

    def generate(self, prompts: Sequence[list[int]], params: Sequence[SamplingParams]) -> list[Completion]:
        """``n`` completions for each prompt, next to each other."""
        ...


@dataclass(frozen=True)
class OnlineSampler:
    """Makes pairs out of the policy's own answers to ``prompts``."""

    prompts: Sequence[list[int]]
    reward: Reward
    params: SamplingParams
    """``n`` answers to every prompt; the seed is set for each prompt and step."""
    seed: int
    tokenizer: Tokenizer
    sampler: Callable[[Transformer, Tokenizer], Sampler] = Engine

    def pairs(
        self, model: Transformer, step: int, count: int, division: Alone = ALONE
    ) -> tuple[list[PreferencePair], dict[str, float]]:
        """At most ``count`` pairs and what was seen on the way; half of the prompts asked may teach nothing."""
        asked = min(2 * count, len(self.prompts))
        chosen = Random(f"online {self.seed} {step}").sample(range(len(self.prompts)), asked)
        found = division.joined(self._answered(model, step, division.share(chosen)))
        pairs = [pair for _, pair in found if pair is not None]
        rewards = [reward for group, _ in found for reward in group]
        mean = sum(rewards) / max(len(rewards), 1)
        return pairs[:count], {"sample_reward": mean, "mixed_prompts": len(pairs) / max(asked, 1)}

    def _answered(
        self, model: Transformer, step: int, chosen: Sequence[int]
    ) -> list[tuple[list[float], PreferencePair | None]]:
        """The rewards of the answers to each chosen prompt, and the pair they make if they differ."""
        params = [replace(self.params, seed=mix_seed(self.seed, step, index)) for index in chosen]
        completions = self.sampler(model, self.tokenizer).generate([self.prompts[index] for index in chosen], params)
        found = []
        for place, index in enumerate(chosen):
            group = completions[place * self.params.n : (place + 1) * self.params.n]
            rewards = [self.reward(index, completion.text) for completion in group]
            found.append((rewards, best_against_worst(self.prompts[index], group, rewards, self.tokenizer.eos_id)))
        return found


class PreferenceSource:
    """Batches that mix offline and online pairs. A batch depends on the step and on the policy's weights alone.

    ``reference`` is a frozen copy of the model that training starts from. Offline pairs take the place of online ones
    that were not found, so there must be some.
    """

    def __init__(
        self,
        offline: Sequence[PreferencePair],
        online: OnlineSampler,
        reference: Transformer,
        *,
        pairs: int,
        online_share: float,
        pad_id: int,
        seed: int,
        division: Alone = ALONE,
    ) -> None:
        if not offline:
            raise DataError("there are no offline preference pairs, which also stand in for missing online ones")
        self.offline, self.online, self.reference = offline, online, reference
        self.pairs, self.online_pairs = pairs, round(pairs * online_share)
        self.pad_id, self.seed, self.division = pad_id, seed, division

    def batch(self, step: int, model: Transformer) -> Batch:
        online, metrics = list[PreferencePair](), dict[str, float]()
        if self.online_pairs and (policy := self.division.policy(model)) is not None:
            online, metrics = self.online.pairs(policy, step, self.online_pairs, self.division)
            del policy
        missing = self.pairs - len(online)
        rng = Random(f"offline {self.seed} {step}")
        fill = (
            rng.sample(self.offline, missing) if missing <= len(self.offline) else rng.choices(self.offline, k=missing)
        )
        batch = collate([*online, *fill], self.pad_id, self.division.multiple)
        batch.extra["reference"] = self.division.reference(self.reference, batch)
        batch.metrics.update(metrics, online_pairs=len(online))
        return batch

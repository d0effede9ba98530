"""The second tier: a critique model puts each answer into one of four tiers and says why (paper 3.1).

It scores accuracy, relevance, completeness, usefulness and clarity, then the answer as a whole. Nobody grades their own
work: a sample goes to the first critic that did not write its answer, and to none if there is no such critic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median_low
from typing import Any, ClassVar

from kaiyuan.curation.asking import ModelTier
from kaiyuan.curation.judges import Judges
from kaiyuan.curation.log import NONE, Standing, Tier
from kaiyuan.curation.sample import Sample
from kaiyuan.errors import ConfigError
from kaiyuan.synthesis.llm import schemas
from kaiyuan.synthesis.llm.calls import Answer, Message, RowFailed
from kaiyuan.synthesis.llm.config import model_identity
from kaiyuan.synthesis.llm.library import built_in, fill_fenced, read_data, version_of
from kaiyuan.synthesis.llm.reading import Unreadable, integer, string

TIERS = (4, 3, 2, 1)
_PROMPTS = Path(__file__).parent / "data" / "critique.toml"
_LONGEST_REASON = 500


class Critique(ModelTier):
    """Grades by the critics of a config."""

    tier: ClassVar[Tier] = "critique"
    doing: ClassVar[str] = "grading"
    done: ClassVar[str] = "graded"
    usual_out: ClassVar[int] = 90

    def __init__(self, config: Judges) -> None:
        super().__init__(config)
        if not config.critics:
            raise ConfigError("the config names no [[critics]]; give one, and a second for what the first one wrote")
        self.critics = [(name, config.model_of(name)) for name, _ in config.named() if name != "labeller"]
        self._data, rubric = read_data(_PROMPTS), read_data(built_in("rubric"))
        self.criteria: Mapping[str, Mapping[str, str]] = rubric["criteria"]
        self.version = f"{version_of(self._data, _PROMPTS)} {version_of(rubric, built_in('rubric'))} x{config.votes}"
        self.schema, self.votes = schemas.grade(self.criteria), config.votes

    def is_known(self, item: Sample, standing: Standing) -> bool:
        found = standing.critique
        critics = {model for _, model in self.critics}
        return bool(found and found.verdict != NONE and found.version == self.version and found.by in critics)

    def role_of(self, item: Sample) -> str:
        wrote = set(authors(item))
        for role, model in self.critics:
            if model_identity(model) not in wrote:
                return role
        raise RowFailed(self.tier, f"written by {', '.join(model for _, model in self.critics)}; no critic is left")

    def check_answer(self, item: Sample, answer: Answer) -> None:
        """An endpoint may serve a model under another name than its own."""
        if answer.model and model_identity(answer.model) in set(authors(item)):
            raise RowFailed(self.tier, f"written by {answer.model}, which the critic's endpoint serves")

    def messages(self, item: Sample) -> list[Message]:
        language = "zh" if item.language == "zh" else "en"
        criteria = "\n".join(f"- {name}: {texts[language]}" for name, texts in self.criteria.items())
        tiers = "\n".join(f"{tier}: {self._data['tiers'][str(tier)][language]}" for tier in TIERS)
        scores = "{" + ", ".join(f'"{name}": 1' for name in self.criteria) + "}"
        prompt = fill_fenced(
            self._data["prompts"][language], instruction=_before(item, self._data["speakers"][language]),
            response=item.messages[-1]["content"], criteria=criteria, tiers=tiers, scores=scores,
        )  # fmt: skip
        return [{"role": "user", "content": prompt}]

    def read(self, value: dict[str, Any]) -> dict[str, Any]:
        """Scores, tier and reason; a tier that contradicts the scores is no answer."""
        scores = value.get("scores")
        if not isinstance(scores, dict):
            raise Unreadable("scores: missing")
        found = {name: integer(scores.get(name), name, 1, 4) for name in self.criteria}
        tier, lowest = integer(value.get("tier"), "tier", 1, 4), min(found.values())
        if not lowest <= tier <= min(lowest + 1, found.get("accuracy", 4)):
            raise Unreadable("the tier contradicts the scores")
        return {"tier": tier, "scores": found, "reason": string(value.get("reason"), "reason")[:_LONGEST_REASON]}

    def verdict(self, found: Sequence[dict[str, Any]]) -> tuple[str, tuple[str, ...], dict[str, Any]]:
        tier = median_low(critique["tier"] for critique in found)
        chosen = next(critique for critique in found if critique["tier"] == tier)
        details = {"scores": chosen["scores"]}
        if len(found) > 1:
            details["tiers"] = [critique["tier"] for critique in found]
        return str(tier), (chosen["reason"],), details


def authors(sample: Sample) -> Iterator[str]:
    """The models that wrote the answer, as far as its row names them: as asked for, and as their server named them."""
    if sample.author:
        yield model_identity(sample.author)
    provenance = sample.extra.get("provenance")
    trail = provenance.get("trail") if isinstance(provenance, Mapping) else None
    for note in trail if isinstance(trail, list) else ():
        if isinstance(note, Mapping) and note.get("step") == "responses":
            names = (note.get("model"), note.get("served_as"))
            yield from (model_identity(name) for name in names if isinstance(name, str))


def _before(sample: Sample, speakers: Mapping[str, str]) -> str:
    """What the last answer answers: a question by itself, or the conversation up to it with the speakers' names."""
    before = sample.messages[:-1]
    if len(before) == 1:
        return before[0]["content"]
    return "\n\n".join(f"{speakers[message['role']]}: {message['content']}" for message in before)

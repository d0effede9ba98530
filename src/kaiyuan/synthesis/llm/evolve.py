"""Step 2: thin topics get new instructions, and instructions become clearer or harder.

What evolution spoils is not lost: if the evolved instruction is refused by a guard or by the judge, the row goes on
with the instruction it had.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from kaiyuan.synthesis.llm import schemas
from kaiyuan.synthesis.llm.calls import Answer, Message, digest
from kaiyuan.synthesis.llm.config import SynthesisConfig
from kaiyuan.synthesis.llm.guards import fault_of_instruction, similarity
from kaiyuan.synthesis.llm.instruct import Tools, read_instruction, user
from kaiyuan.synthesis.llm.library import Library
from kaiyuan.synthesis.llm.reading import read_answer, strings
from kaiyuan.synthesis.llm.rows import Refused, Row, note_of

STEP = "evolution"
_EXAMPLES_KEPT, _EXAMPLES_SHOWN, _UNCHANGED = 8, 4, 0.9


@dataclass
class Coverage:
    """How many instructions each topic and language has, and a few of them as examples."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        place = (row.topic, row.language)
        self.counts[place] += 1
        kept = self.examples.setdefault(place, [])
        if len(kept) < _EXAMPLES_KEPT and len(row.instruction) < 1000:
            kept.append(row.instruction)


@dataclass(frozen=True)
class Expansion:
    """One call for new instructions on a thin topic."""

    topic: str
    language: str
    number: int
    examples: tuple[str, ...]

    def messages(self, config: SynthesisConfig, library: Library) -> list[Message]:
        none = "（暂无）" if self.language == "zh" else "(none yet)"
        shown = "\n".join(f"- {' '.join(text.split())}" for text in self.examples) or none
        name = library.topics[self.topic].names[self.language]
        return user(
            library.prompt("expand", self.language, topic=name, examples=shown, number=self.number + 1,
                           count=config.instructions.per_call)
        )  # fmt: skip


def thin_topics(
    config: SynthesisConfig, library: Library, counts: Mapping[tuple[str, str], int]
) -> dict[tuple[str, str], int]:
    """New instructions wanted by topic and language.

    ``evolution.expansion`` of what there is, poured where least is: the level of each place (count over weight) is
    raised from the bottom until all is used. Languages without any instruction get none.
    """
    wanted = round(config.evolution.expansion * sum(counts.values()))
    allowed = set(config.evolution.expand_topics)
    places: list[tuple[str, str]] = [
        (topic.id, language)
        for topic in library.topics.values()
        for language in sorted({language for _, language in counts})
        if not allowed or {topic.id, topic.id.partition("/")[0]} & allowed
    ]
    weights = {place: library.topics[place[0]].weight for place in places if library.topics[place[0]].weight > 0}
    return _poured(wanted, {place: counts.get(place, 0) for place in weights}, weights)


def _poured(
    amount: int, have: dict[tuple[str, str], int], weights: Mapping[tuple[str, str], float]
) -> dict[tuple[str, str], int]:
    """Whole units given to the places whose level is lowest, by bisection of the level, remainders in order."""
    if not amount or not have:
        return {}
    low, high = 0.0, (amount + max(have.values())) / min(weights.values()) + 1
    for _ in range(60):
        level = (low + high) / 2
        used = sum(max(0, math.floor(level * weights[place]) - count) for place, count in have.items())
        low, high = (level, high) if used <= amount else (low, level)
    given = {place: max(0, math.floor(low * weights[place]) - count) for place, count in have.items()}
    by_level = sorted(have, key=lambda place: ((have[place] + given[place]) / weights[place], place))
    for place in by_level[: amount - sum(given.values())]:
        given[place] += 1
    return {place: count for place, count in sorted(given.items()) if count}


def expansions(config: SynthesisConfig, library: Library, coverage: Coverage) -> Iterator[Expansion]:
    per_call = config.instructions.per_call
    for (topic, language), count in thin_topics(config, library, coverage.counts).items():
        pool = coverage.examples.get((topic, language), [])
        for number in range(math.ceil(count / per_call)):
            rng = Random(f"expand {config.run.seed} {topic} {language} {number}")
            yield Expansion(topic, language, number, tuple(rng.sample(pool, min(_EXAMPLES_SHOWN, len(pool)))))


async def expand(tools: Tools, task: Expansion) -> tuple[list[Row], list[Refused]]:
    """The new rows of one expansion, and those the guards refuse."""
    config = tools.config
    messages = task.messages(config, tools.library)

    async def ask(sample: int) -> Answer:
        return await tools.asker.ask("evolver", messages, sample, schemas.INSTRUCTIONS)

    def read(value: dict[str, Any]) -> list[str]:
        return strings(value.get("instructions"), "instructions", config.instructions.per_call)

    texts, answer = await read_answer(STEP, ask, read, config.client.format_tries)
    note = note_of(config, f"{STEP}: expansion", "evolver", answer, topic=task.topic,
                   prompts=tools.library.versions["prompts"])  # fmt: skip
    good, bad = [], []
    for index, text in enumerate(texts):
        row = Row(
            digest(f"{answer.key} {index}"), text, task.language, task.topic, trail=({**note, "text": digest(text)},)
        )
        fault = fault_of_instruction(text, task.language, config.guards, None)
        if fault:
            bad.append(Refused(STEP, fault, row))
        else:
            good.append(row)
    return good, bad


def ways(config: SynthesisConfig, row: Row) -> list[str]:
    """How ``row`` is evolved: a matter of its id alone."""
    rng = Random(f"evolve {config.run.seed} {row.id}")
    shares = (("clarity", config.evolution.clarity_share), ("difficulty", config.evolution.difficulty_share))
    return [way for way, share in shares if rng.random() < share]


def evolution_messages(config: SynthesisConfig, library: Library, row: Row, way: str) -> list[Message]:
    methods = library.prompts["methods"][row.language]
    method = Random(f"method {config.run.seed} {row.id}").choice(methods)
    values = {"instruction": row.instruction, **({"method": method} if way == "difficulty" else {})}
    return user(library.prompt(way, row.language, **values))


async def evolve(tools: Tools, row: Row, way: str) -> Row:
    """``row`` with a clearer or harder instruction, or as it was with a note of why not."""
    config = tools.config
    messages = evolution_messages(config, tools.library, row, way)

    async def ask(sample: int) -> Answer:
        return await tools.asker.ask("evolver", messages, sample, schemas.INSTRUCTION)

    text, answer = await read_answer(STEP, ask, read_instruction, config.client.format_tries)
    note = note_of(config, f"{STEP}: {way}", "evolver", answer, prompts=tools.library.versions["prompts"],
                   before=digest(row.instruction), text=digest(text))  # fmt: skip
    fault = _fault(config, row, text, way)
    if fault:
        return row.after({**note, "kept_as_it_was": fault})
    return row.after(note, instruction=text)


def _fault(config: SynthesisConfig, row: Row, text: str, way: str) -> str:
    fault = fault_of_instruction(text, row.language, config.guards, None, bool(row.context))
    alike = similarity(text, row.instruction)
    if not fault and (alike == 1 or (way == "difficulty" and alike > _UNCHANGED)):
        return "unchanged"
    if not fault and len(text) > 4 * len(row.instruction) + 400:
        return "too long for what it was"
    return fault

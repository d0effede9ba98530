"""Step 1: instructions from seeds, by templates; each guarded, then labelled by the judge."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from kaiyuan.synthesis.llm import schemas
from kaiyuan.synthesis.llm.calls import Answer, Message, digest
from kaiyuan.synthesis.llm.client import Asker
from kaiyuan.synthesis.llm.config import SynthesisConfig
from kaiyuan.synthesis.llm.guards import fault_of_instruction
from kaiyuan.synthesis.llm.library import Library, Template
from kaiyuan.synthesis.llm.reading import Unreadable, integer, read_answer, string, strings
from kaiyuan.synthesis.llm.rows import KINDS, Refused, Row, note_of
from kaiyuan.synthesis.llm.seeds import Seed

STEP = "instructions"


@dataclass(frozen=True)
class Tools:
    """What every step needs."""

    config: SynthesisConfig
    library: Library
    asker: Asker


@dataclass(frozen=True)
class Task:
    """One call of step 1."""

    seed: Seed
    template: Template
    number: int

    def messages(self, config: SynthesisConfig, library: Library) -> list[Message]:
        language, template = self.seed.language, self.template
        standing = library.prompts["standing"][f"{'context' if template.context else 'alone'}_{language}"]
        prompt = library.prompt(
            "generate", language, task=template.texts[language], count=config.instructions.per_call, standing=standing,
            text=_excerpt(self.seed.text, config.instructions.seed_chars),
        )  # fmt: skip
        return user(prompt)


def user(prompt: str) -> list[Message]:
    return [{"role": "user", "content": prompt}]


def _excerpt(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most].rpartition("\n" if "\n" in text[most // 2 : most] else " ")[0]


def tasks(config: SynthesisConfig, library: Library, seeds: list[Seed]) -> Iterator[Task]:
    """The calls of step 1: for each seed, different templates that fit its source, chosen by the seed's hash."""
    allowed = set(config.instructions.domains)
    for seed in seeds:
        fitting = [
            template
            for template in library.templates
            if seed.source in template.sources and (not allowed or {template.domain, template.topic} & allowed)
        ]
        rng = Random(f"templates {config.run.seed} {seed.hash}")
        for number, template in enumerate(rng.sample(fitting, min(config.instructions.calls_per_seed, len(fitting)))):
            yield Task(seed, template, number)


async def generate(tools: Tools, task: Task) -> tuple[list[Row], list[Refused]]:
    """The new rows of one call, and those the guards refuse."""
    config, seed, template = tools.config, task.seed, task.template
    messages = task.messages(config, tools.library)

    async def ask(sample: int) -> Answer:
        return await tools.asker.ask("instructor", messages, sample, schemas.INSTRUCTIONS)

    def read(value: dict[str, Any]) -> list[str]:
        return strings(value.get("instructions"), "instructions", config.instructions.per_call)

    texts, answer = await read_answer(STEP, ask, read, config.client.format_tries)
    note = note_of(config, STEP, "instructor", answer, template=template.id, template_version=template.version)
    origin = {"id": seed.id, "source": seed.source, "hash": seed.hash}
    rows = [
        Row(
            id=digest(f"{answer.key} {index}"), instruction=text, language=seed.language, topic=template.topic,
            context=_excerpt(seed.text, config.instructions.seed_chars) if template.context else "",
            translates=template.translates, seed=origin, trail=({**note, "text": digest(text)},),
        )
        for index, text in enumerate(texts)
    ]  # fmt: skip
    return _guarded(config, rows, seed)


def _guarded(config: SynthesisConfig, rows: list[Row], seed: Seed) -> tuple[list[Row], list[Refused]]:
    good, bad = [], []
    for row in rows:
        fault = fault_of_instruction(row.instruction, row.language, config.guards, seed, bool(row.context))
        if fault:
            bad.append(Refused(STEP, fault, row))
        else:
            good.append(row)
    return good, bad


async def label(tools: Tools, row: Row, step: str = STEP) -> Row:
    """``row`` with the judge's topic, kind and difficulty; ``Refused`` if the judge says nobody can answer it."""
    prompt = tools.library.prompt("label", row.language, topics=tools.library.topic_list, instruction=row.prompt)
    schema = schemas.label(tools.library.topics)

    async def ask(sample: int) -> Answer:
        return await tools.asker.ask("judge", user(prompt), sample, schema)

    def read(value: dict[str, Any]) -> dict[str, Any]:
        return read_label(value, tools.library.topics)

    verdict, answer = await read_answer(step, ask, read, tools.config.client.format_tries)
    note = note_of(tools.config, f"{step}: label", "judge", answer, verdict=verdict)
    labels = {name: value for name, value in verdict.items() if name != "answerable"}
    if not verdict["answerable"]:
        raise Refused(step, "unanswerable: the judge says so", row.after(note))
    return row.after(note, **labels)


def read_label(value: Mapping[str, Any], topics: Container[str]) -> dict[str, Any]:
    """Topic, kind, difficulty and whether it can be answered, checked."""
    if not isinstance(value.get("topic"), str) or value["topic"] not in topics:
        raise Unreadable("topic: not in the taxonomy")
    if value.get("kind") not in KINDS:
        raise Unreadable(f"kind: expected one of {', '.join(KINDS)}")
    if not isinstance(value.get("answerable"), bool):
        raise Unreadable("answerable: expected true or false")
    difficulty = integer(value.get("difficulty"), "difficulty", 1, 5)
    return {
        "topic": value["topic"], "kind": value["kind"], "difficulty": difficulty, "answerable": value["answerable"],
    }  # fmt: skip


def read_instruction(value: dict[str, Any]) -> str:
    return string(value.get("instruction"), "instruction")

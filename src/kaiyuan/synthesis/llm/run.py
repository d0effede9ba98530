"""A run: the four steps over all seeds. Killed at any moment and started again it goes on, from the journal.

Steps 1 and 2 need to know all instructions before thin topics can be filled, so there are three phases: instructions
from seeds, instructions for thin topics, and then each row by itself through evolution, responses and filtering.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from kaiyuan.errors import KaiyuanError
from kaiyuan.files import write_json
from kaiyuan.progress import Progress, quantity, say
from kaiyuan.synthesis.llm.calls import RowFailed, digest
from kaiyuan.synthesis.llm.client import Asker
from kaiyuan.synthesis.llm.config import SynthesisConfig
from kaiyuan.synthesis.llm.evolve import STEP as EVOLUTION
from kaiyuan.synthesis.llm.evolve import Coverage, Expansion, evolve, expand, expansions, ways
from kaiyuan.synthesis.llm.filtering import Filters, expects_code
from kaiyuan.synthesis.llm.guards import Copies
from kaiyuan.synthesis.llm.instruct import STEP as INSTRUCT
from kaiyuan.synthesis.llm.instruct import Task, Tools, generate, label, tasks
from kaiyuan.synthesis.llm.journal import Journal
from kaiyuan.synthesis.llm.library import Library, load_library
from kaiyuan.synthesis.llm.meter import Meter
from kaiyuan.synthesis.llm.ordering import Turnstile, in_order
from kaiyuan.synthesis.llm.output import JOURNAL, SFT, Failed, Outputs, config_hash, pair_of, sample_of
from kaiyuan.synthesis.llm.reading import together
from kaiyuan.synthesis.llm.respond import respond
from kaiyuan.synthesis.llm.rows import Refused, Row
from kaiyuan.synthesis.llm.seeds import read_seeds

T = TypeVar("T")


@dataclass
class Result:
    """What came of one item: rows or a finished sample, and what was lost on the way."""

    rows: list[Row] = field(default_factory=list)
    sample: tuple[dict[str, Any], dict[str, Any] | None] | None = None
    refused: list[Refused] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)


def synthesize(config: SynthesisConfig, folder: Path) -> dict[str, Any]:
    """Do the whole run in ``folder`` and return its report. Raises ``KaiyuanError`` where it cannot go on."""
    library = load_library(config)
    seeds, skipped = read_seeds(config.seeds, config.run.languages)
    meter, start = Meter(), time.monotonic()
    with Journal(folder / JOURNAL) as journal, Outputs(folder) as outputs:
        write_json(folder / "config.json", config.model_dump())
        say(f"synthesis: {len(seeds)} seeds, {len(journal)} answers in the journal")
        work = list(tasks(config, library, seeds))
        filters = asyncio.run(_run(config, library, journal, meter, outputs, work))
        report = {
            **outputs.as_json(),
            **filters,
            "seeds": len(seeds),
            "seeds_left_out": dict(skipped),
            "usage": meter.as_json(),
            "cost": round(meter.cost, 6),
            "versions": dict(library.versions),
            "config": config_hash(config),
            "seconds": round(time.monotonic() - start, 1),
        }
        if not outputs.counts[SFT]:
            say(f"synthesis: no sample was made; see {folder}/failed.jsonl and refused.jsonl")
        outputs.finish(report)
    return report


async def _run(
    config: SynthesisConfig, library: Library, journal: Journal, meter: Meter, outputs: Outputs, work: Sequence[Task]
) -> dict[str, Any]:
    async with Asker(config, journal, meter) as asker:
        tools = Tools(config, library, asker)
        filters = Filters(tools)
        try:
            if expects_code(config):
                await filters.sandbox.check_setup()
            await Pipeline(tools, filters, meter, outputs).run(work)
        finally:
            filters.close()
        return {"math_checker": filters.math_checker, "sandbox_isolated": filters.sandbox.isolated}


class Pipeline:
    """The three phases, with the memory that they share: which instructions there are."""

    def __init__(self, tools: Tools, filters: Filters, meter: Meter, outputs: Outputs) -> None:
        self.tools, self.filters, self.meter, self.outputs = tools, filters, meter, outputs
        self.copies = Copies(tools.config.guards.similarity)
        self.coverage = Coverage()
        self.window = max(512, 16 * sum(endpoint.concurrency for endpoint in tools.config.endpoints.values()))

    async def run(self, work: Sequence[Task]) -> None:
        config, library = self.tools.config, self.tools.library
        await self._phase("instructions", work, len(work), self.instruct)
        thin = list(expansions(config, library, self.coverage))
        if thin:
            await self._phase("expansion", thin, len(thin), self.expand)
        count = self.outputs.counts["instructions.jsonl"]
        await self._phase("answers", self.outputs.instructions(), count, self.develop)

    async def _phase(
        self, name: str, items: Iterable[T], total: int, work: Callable[[int, T, Turnstile], Awaitable[Result]]
    ) -> None:
        turnstile = Turnstile()
        with Progress(f"synthesis: {name}", total, "rows") as progress:
            async for result in in_order(items, lambda number, item: work(number, item, turnstile), self.window):
                self._keep(result)
                progress.update(
                    1, tokens=quantity(self.meter.tokens), cost=f"{self.meter.cost:.4g}",
                    made=self.outputs.counts[SFT], refused=self.outputs.refusals, failed=self.outputs.failures,
                )  # fmt: skip

    def _keep(self, result: Result) -> None:
        for refused in result.refused:
            self.outputs.refuse(refused)
        for failed in result.failed:
            self.outputs.fail(failed)
        for row in result.rows:
            self.outputs.instruction(row)
            self.coverage.add(row)
        if result.sample is not None:
            self.outputs.accept(*result.sample)

    async def instruct(self, number: int, task: Task, turnstile: Turnstile) -> Result:
        result = Result()
        try:
            result.rows, result.refused = await generate(self.tools, task)
        except RowFailed as error:
            result.failed.append(Failed.of(f"{task.seed.id} {task.template.id}", error))
        return await self._new(number, result, turnstile, INSTRUCT)

    async def expand(self, number: int, task: Expansion, turnstile: Turnstile) -> Result:
        result = Result()
        try:
            result.rows, result.refused = await expand(self.tools, task)
        except RowFailed as error:
            result.failed.append(Failed.of(f"{task.topic} {task.language} {task.number}", error))
        return await self._new(number, result, turnstile, EVOLUTION)

    async def _new(self, number: int, result: Result, turnstile: Turnstile, step: str) -> Result:
        """Keep those of the new rows that copy none before them, with the judge's labels."""
        async with turnstile.turn(number):
            fresh = [row for row in result.rows if self._is_new(row, step, result)]
        labelled = await together(*(self._labelled(row, step, result) for row in fresh))
        result.rows = [row for row in labelled if row is not None]
        return result

    def _is_new(self, row: Row, step: str, result: Result) -> bool:
        like = self.copies.find(row.instruction)
        if like and like != row.id:
            result.refused.append(Refused(step, "copy of another instruction", row, like=like))
            return False
        self.copies.remember(row.instruction, row.id)
        return True

    async def _labelled(self, row: Row, step: str, result: Result) -> Row | None:
        try:
            return await label(self.tools, row, step)
        except Refused as refused:
            result.refused.append(refused)
        except RowFailed as error:
            result.failed.append(Failed.of(row.id, error, row))
        return None

    async def develop(self, number: int, row: Row, turnstile: Turnstile) -> Result:
        """One row through evolution, responses and filtering."""
        result, evolved = Result(), None
        try:
            evolved = await self._evolved(row)
        except RowFailed as error:
            result.failed.append(Failed.of(row.id, error, row))
        async with turnstile.turn(number):
            if evolved is not None and evolved.instruction != row.instruction:
                evolved = evolved if self._is_new(evolved, EVOLUTION, result) else None
        if evolved is not None:
            await self._answered(evolved, result)
        return result

    async def _evolved(self, row: Row) -> Row:
        """``row`` made clearer or harder; as it was where that did not work out."""
        start = row
        for way in ways(self.tools.config, row):
            row = await self._kept(row, f"{EVOLUTION}: {way}", evolve(self.tools, row, way))
        if row.instruction == start.instruction:
            return row
        as_it_was = start.after({"step": EVOLUTION, "evolved": digest(row.instruction)})
        return await self._kept(as_it_was, f"{EVOLUTION}: label", label(self.tools, row, EVOLUTION))

    async def _kept(self, before: Row, step: str, job: Awaitable[Row]) -> Row:
        """What ``job`` makes; ``before``, with a note, if a guard refuses it or no answer can be read."""
        try:
            return await job
        except Refused as refused:
            reason = refused.reason
        except RowFailed as error:
            if error.step == "endpoint":
                raise
            reason = error.reason
        return before.after({"step": step, "kept_as_it_was": reason})

    async def _answered(self, row: Row, result: Result) -> None:
        config, library = self.tools.config, self.tools.library
        try:
            tests, tests_from = await self.filters.tests_of(row)
            candidates = await respond(self.tools, row)
            verdict = await self.filters.judge(row, candidates, tests)
        except Refused as refused:
            result.refused.append(refused)
        except RowFailed as error:
            result.failed.append(Failed.of(row.id, error, row))
        else:
            result.sample = sample_of(config, library, row, verdict, tests_from), pair_of(row, verdict)


def summary(report: dict[str, Any], folder: Path) -> str:
    """The run in a few lines."""
    refused = sum(sum(counts.values()) for counts in report["refused"].values())
    failed = sum(sum(counts.values()) for counts in report["failed"].values())
    made = f"{report['sft_samples']} samples and {report['preference_pairs']} pairs"
    lines = [
        f"{made} from {report['instructions']} instructions of {report['seeds']} seeds; "
        f"{refused} refused, {failed} failed; cost {report['cost']:.4g}",
        f"{folder / SFT}",
    ]
    if failed:
        lines.append(f"failed rows are in {folder / 'failed.jsonl'}; run the same command again to try them again")
    return "\n".join(lines)


def run_or_explain(config: SynthesisConfig, folder: Path) -> str:
    """The whole run and its summary; an interrupted one says how to go on."""
    try:
        return summary(synthesize(config, folder), folder)
    except OSError as error:
        raise KaiyuanError(f"{folder}: {error.strerror or error}; mend that and run again to go on") from None

"""Step 4: what answers agree on, what tests prove, what the critic accepts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kaiyuan.errors import KaiyuanError
from kaiyuan.synthesis.llm import schemas
from kaiyuan.synthesis.llm.calls import Answer, Message, RowFailed
from kaiyuan.synthesis.llm.config import SynthesisConfig
from kaiyuan.synthesis.llm.equality import MathVerify, Same, largest_group, same_number, same_text
from kaiyuan.synthesis.llm.instruct import Tools, user
from kaiyuan.synthesis.llm.library import Library
from kaiyuan.synthesis.llm.reading import Unreadable, integer, read_answer, strings, together
from kaiyuan.synthesis.llm.respond import COMPARED, Candidate
from kaiyuan.synthesis.llm.rows import Refused, Row, note_of
from kaiyuan.synthesis.llm.sandbox import Sandbox, empty_solution, usable_tests

STEP = "filtering"


@dataclass(frozen=True)
class Verdict:
    """The response that filtering chose, with the numbers it was chosen by."""

    chosen: Candidate
    rejected: Candidate | None
    """One that came to something else, for a preference pair."""
    details: dict[str, Any] = field(default_factory=dict)
    notes: tuple[dict[str, Any], ...] = ()


class Filters:
    """The filters of a run, with the processes they need."""

    def __init__(self, tools: Tools) -> None:
        self.tools = tools
        self.sandbox = Sandbox(tools.config.sandbox)
        self._math = MathVerify() if MathVerify.installed() else None
        self._math_lock = asyncio.Lock()
        if self._math is None and tools.config.filters.require_math_verify:
            raise KaiyuanError("filters.require_math_verify: it is not installed: pip install 'kaiyuan[synthesis]'")

    @property
    def math_checker(self) -> str:
        return "math-verify" if self._math else "numbers and text"

    def close(self) -> None:
        if self._math is not None:
            self._math.close()

    async def tests_of(self, row: Row) -> tuple[list[str], list[dict[str, Any]]]:
        """Tests for a code task, and a note of where they come from; none for other kinds."""
        if row.kind != "code":
            return [], []
        config = self.tools.config
        try:
            await self.sandbox.check_setup()
        except KaiyuanError as error:
            raise RowFailed(STEP, str(error)) from None
        prompt = self.tools.library.prompt("tests", row.language, instruction=row.prompt)

        async def ask(sample: int) -> Answer:
            return await self.tools.asker.ask("judge", user(prompt), sample, schemas.TESTS)

        def read(value: dict[str, Any]) -> list[str]:
            tests = usable_tests(strings(value.get("tests"), "tests", 12))
            if len(tests) < config.filters.min_tests:
                raise Unreadable(f"{len(tests)} usable tests")
            return tests

        tests, answer = await read_answer(STEP, ask, read, config.client.format_tries)
        if (await self.sandbox.run(empty_solution(tests), tests)).passed:
            raise Refused(STEP, "tests that anything passes", row, tests=tests)
        return tests, [note_of(config, f"{STEP}: tests", "judge", answer, tests=len(tests))]

    async def judge(self, row: Row, candidates: Sequence[Candidate], tests: Sequence[str]) -> Verdict:
        """Choose and check a response; ``Refused`` if none is good enough."""
        faults = Counter(candidate.fault for candidate in candidates if candidate.fault)
        sound = [candidate for candidate in candidates if not candidate.fault]
        if not sound:
            raise Refused(STEP, f"response: {faults.most_common(1)[0][0]}", row, faults=dict(faults))
        details: dict[str, Any] = {"samples": len(candidates), **({"faults": dict(faults)} if faults else {})}
        if row.kind == "code":
            right = await self._passing(row, sound, tests, details)
        elif row.kind in COMPARED:
            right = await self._agreeing(row, sound, len(candidates), details)
        else:
            right = sound
        others = [candidate for candidate in sound if candidate not in right]
        notes = await self.critique(row, right[0], details) if self.tools.config.filters.critic else ()
        return Verdict(right[0], others[0] if others else None, details, notes)

    async def _passing(
        self, row: Row, sound: Sequence[Candidate], tests: Sequence[str], details: dict[str, Any]
    ) -> list[Candidate]:
        codes = list(dict.fromkeys(candidate.final for candidate in sound))
        outcomes = dict(
            zip(codes, await asyncio.gather(*(self.sandbox.run(code, tests) for code in codes)), strict=True)
        )
        right = [candidate for candidate in sound if outcomes[candidate.final].passed]
        details.update(tests=list(tests), passed=len(right), isolated=self.sandbox.isolated)
        if not right:
            raise Refused(STEP, "no response passes the tests", row, **details)
        return right

    async def _agreeing(
        self, row: Row, sound: Sequence[Candidate], asked: int, details: dict[str, Any]
    ) -> list[Candidate]:
        finals = [candidate.final for candidate in sound]
        if row.kind == "math":
            async with self._math_lock:
                same: Same = self._math.same if self._math else same_number
                group = await asyncio.to_thread(largest_group, finals, same)
        else:
            group = largest_group(finals, same_text)
        details.update(agreement=round(len(group) / asked, 4), final=finals[group[0]] if group else "")
        if len(group) <= self.tools.config.filters.agreement * asked:
            raise Refused(STEP, "no agreement", row, **details, finals=finals)
        return [sound[index] for index in group]

    async def critique(self, row: Row, candidate: Candidate, details: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        """Notes of the critiques; ``Refused`` unless more than half accept. Numbers go into ``details``."""
        config, criteria = self.tools.config, list(self.tools.library.criteria)
        messages = critique_messages(self.tools.library, row, candidate.text)
        schema = schemas.critique(criteria)

        async def ask(sample: int) -> Answer:
            return await self.tools.asker.ask("critic", messages, sample, schema)

        def read(value: dict[str, Any]) -> dict[str, Any]:
            return read_critique(value, criteria)

        tries = config.client.format_tries
        votes = range(config.filters.critic_votes)
        critiques = await together(*(read_answer(STEP, ask, read, tries, first=vote * tries) for vote in votes))
        details["critiques"] = [critique for critique, _ in critiques]
        accepted = sum(accepts(critique, config.filters.min_score) for critique, _ in critiques)
        if accepted * 2 <= len(critiques):
            raise Refused(STEP, "refused by the critic", row, **details, response=candidate.text)
        versions = self.tools.library.versions
        return tuple(
            note_of(config, f"{STEP}: critique", "critic", answer, rubric=versions["rubric"], verdict=critique)
            for critique, answer in critiques
        )


def critique_messages(library: Library, row: Row, response: str) -> list[Message]:
    criteria = "\n".join(f"- {name}: {texts[row.language]}" for name, texts in library.criteria.items())
    scores = "{" + ", ".join(f'"{name}": 1' for name in library.criteria) + "}"
    prompt = library.prompt(
        "critique", row.language, instruction=row.prompt, response=response, criteria=criteria, scores=scores
    )
    return user(prompt)


def read_critique(value: dict[str, Any], criteria: Sequence[str]) -> dict[str, Any]:
    """Scores, verdict and reason, checked; a critique that misses a criterion is none."""
    scores = value.get("scores")
    if not isinstance(scores, dict):
        raise Unreadable("scores: missing")
    verdict = value.get("verdict")
    if verdict not in ("accept", "refuse"):
        raise Unreadable('verdict: expected "accept" or "refuse"')
    reason = value.get("reason")
    return {
        "scores": {name: integer(scores.get(name), name, 1, 4) for name in criteria},
        "verdict": verdict,
        "reason": reason[:500] if isinstance(reason, str) else "",
    }


def accepts(critique: dict[str, Any], min_score: int) -> bool:
    return critique["verdict"] == "accept" and min(critique["scores"].values()) >= min_score


def expects_code(config: SynthesisConfig) -> bool:
    """Whether code to run is likely, so that the sandbox is tried before anything is paid for."""
    allowed = config.instructions.domains
    return not allowed or any(name.partition("/")[0] == "programming" for name in allowed)

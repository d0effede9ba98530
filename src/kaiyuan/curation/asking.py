"""Decisions by language models: many samples at once, each answer paid for once, each decision in the log.

The client is that of synthesis: limits, back-off, a breaker, and a journal of every answer under the hash of model,
messages, parameters and sample number (``kaiyuan.synthesis.llm``). Decisions are written some at a time; what a kill
loses of them comes back from the journal without asking.
"""

from __future__ import annotations

import asyncio
import heapq
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from kaiyuan.curation.balance import rank
from kaiyuan.curation.log import KEEP, NONE, Decision, DecisionLog, Standing, Tier, now, read_log, standings
from kaiyuan.curation.places import DECISIONS, JOURNAL
from kaiyuan.progress import Progress, quantity
from kaiyuan.synthesis.llm.calls import Answer, Call, Message, RowFailed
from kaiyuan.synthesis.llm.client import Asker, parameters_of
from kaiyuan.synthesis.llm.config import Asking
from kaiyuan.synthesis.llm.estimate import Estimate, cost_table
from kaiyuan.synthesis.llm.journal import Journal, records
from kaiyuan.synthesis.llm.meter import Meter
from kaiyuan.synthesis.llm.ordering import in_order
from kaiyuan.synthesis.llm.reading import read_answer, together
from kaiyuan.synthesis.llm.tokens import count_messages, token_counter

_TOGETHER = 200
"""Decisions that are written and synced at once."""


class Item(Protocol):
    """What is decided about: a sample, or a preference pair."""

    @property
    def hash(self) -> str: ...


T = TypeVar("T", bound=Item)


class ModelTier(ABC):
    """What is asked about an item, of whom, and how answers become a decision."""

    tier: ClassVar[Tier]
    doing: ClassVar[str]
    """For the progress line."""
    done: ClassVar[str]
    """For the report: items are ``done``."""
    usual_out: ClassVar[int]
    """Tokens of a usual answer, for estimates."""
    version: str
    """Of all that is asked but the item: prompt, rubric, taxonomy."""
    schema: dict[str, Any]
    votes: int = 1

    def __init__(self, config: Asking) -> None:
        self.config = config

    def passed_over(self, item: Any, standing: Standing) -> str:
        """Why nobody is asked about an item, "" if somebody is."""
        if standing.rules is None:
            return "not checked by the rules yet"
        if standing.rules.verdict != KEEP:
            return "refused by the rules"
        return f"{self.done} already" if self.is_known(item, standing) else ""

    @abstractmethod
    def is_known(self, item: Any, standing: Standing) -> bool:
        """Whether there is a decision that this one would only repeat."""

    @abstractmethod
    def role_of(self, item: Any) -> str:
        """The role to ask; ``RowFailed`` if none may be asked."""

    @abstractmethod
    def messages(self, item: Any) -> list[Message]: ...

    @abstractmethod
    def read(self, value: dict[str, Any]) -> dict[str, Any]:
        """An answer, checked; ``Unreadable`` if it is not in the form asked for."""

    @abstractmethod
    def verdict(self, found: Sequence[dict[str, Any]]) -> tuple[str, tuple[str, ...], dict[str, Any]]:
        """Verdict, reasons and details of the answers, one for each vote."""

    @abstractmethod
    def check_answer(self, item: Any, answer: Answer) -> None:
        """Raise ``RowFailed`` if the answer came from somebody who should not have been asked."""

    async def decide(self, asker: Asker, item: Any) -> Decision:
        """The decision; one of ``none`` with the reason for an item that gets no answer that can be used."""
        role = ""
        try:
            role = self.role_of(item)
            messages, tries = self.messages(item), self.config.client.format_tries

            async def ask(sample: int) -> Answer:
                answer = await asker.ask(role, messages, sample, self.schema)
                self.check_answer(item, answer)
                return answer

            votes = range(self.votes)
            answers = await together(
                *(read_answer(self.tier, ask, self.read, tries, first=vote * tries) for vote in votes)
            )
        except RowFailed as failed:
            return self._decision(item, role, NONE, (failed.reason,), {})
        verdict, reasons, details = self.verdict([value for value, _ in answers])
        return self._decision(item, role, verdict, reasons, {**details, "calls": [a.key[:16] for _, a in answers]})

    def _decision(
        self, item: Item, role: str, verdict: str, reasons: tuple[str, ...], details: dict[str, Any]
    ) -> Decision:
        by = self.config.model_of(role) if role else "nobody"
        return Decision(item.hash, self.tier, by, self.version, verdict, now(), reasons, details)


@dataclass
class Due:
    """Which items are to be decided about, and why not the others."""

    names: set[str] = field(default_factory=set)
    passed_over: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        return [f"{count:8,}  {reason}" for reason, count in self.passed_over.most_common()]


def due(tier: ModelTier, items: Iterable[Item], known: Mapping[str, Standing], limit: int) -> Due:
    """At most ``limit`` items (0 for all), chosen by their hashes."""
    found = Due()
    for item in items:
        if reason := tier.passed_over(item, known.get(item.hash, Standing())):
            found.passed_over[reason] += 1
        else:
            found.names.add(item.hash)
    if limit and len(found.names) > limit:
        found.passed_over["beyond the limit"] = len(found.names) - limit
        found.names = set(heapq.nsmallest(limit, found.names, key=lambda name: rank(name, 0)))
    return found


@dataclass
class Outcome:
    """What a run decided and used."""

    verdicts: Counter[str] = field(default_factory=Counter)
    isolated: Counter[str] = field(default_factory=Counter)
    meter: Meter = field(default_factory=Meter)

    def count(self, decision: Decision) -> None:
        if decision.verdict == NONE:
            self.isolated[decision.reasons[0]] += 1
        else:
            self.verdicts[decision.verdict] += 1


def run(tier: ModelTier, folder: Path, items: Callable[[], Iterable[T]], limit: int = 0) -> tuple[Outcome, Due]:
    """Ask about everything that is due and write the decisions. Killed and called again it goes on.

    ``items`` is called twice, so that they need not be in memory. Raises ``EndpointFailed`` where no answer will come;
    what was decided till then is in the log.
    """
    outcome = Outcome()
    with DecisionLog(folder / DECISIONS) as log, Journal(folder / JOURNAL) as journal:
        known = standings(log.decisions)
        work = due(tier, items(), known, limit)
        chosen = (item for item in items() if item.hash in work.names)
        if work.names:
            asyncio.run(_decide_all(tier, journal, _Writer(log, tier.tier, known), chosen, len(work.names), outcome))
    return outcome, work


async def _decide_all(
    tier: ModelTier, journal: Journal, writer: _Writer, items: Iterable[T], total: int, outcome: Outcome
) -> None:
    config = tier.config
    window = max(64, 4 * tier.votes * sum(endpoint.concurrency for endpoint in config.endpoints.values()))
    try:
        async with Asker(config, journal, outcome.meter) as asker:
            with Progress(tier.doing, total, "samples") as progress:
                async for decision in in_order(items, lambda _, item: tier.decide(asker, item), window):
                    writer.add(decision)
                    outcome.count(decision)
                    progress.update(
                        1, tokens=quantity(outcome.meter.tokens), cost=f"{outcome.meter.cost:.4g}",
                        isolated=outcome.isolated.total(),
                    )  # fmt: skip
    finally:
        writer.flush()


class _Writer:
    """Appends decisions to the log, some at a time; one that only repeats what the log says is left out."""

    def __init__(self, log: DecisionLog, tier: Tier, known: Mapping[str, Standing]) -> None:
        self.log, self.tier, self.known = log, tier, known
        self._waiting: list[Decision] = []

    def add(self, decision: Decision) -> None:
        before = getattr(self.known.get(decision.sample, Standing()), self.tier)
        if before is None or not before.says_the_same_as(decision):
            self._waiting.append(decision)
        if len(self._waiting) >= _TOGETHER:
            self.flush()

    def flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        self.log.append(waiting)


def describe(done: str, outcome: Outcome, work: Due) -> str:
    """A run in plain lines; what it did is ``done``."""
    verdicts = ", ".join(f"{name} {count:,}" for name, count in sorted(outcome.verdicts.items(), reverse=True))
    lines = [f"{outcome.verdicts.total():,} samples {done}" + (f": {verdicts}" if verdicts else "")]
    if outcome.isolated:
        lines.append(f"{outcome.isolated.total():,} isolated")
        lines += [f"{count:8,}  {reason}" for reason, count in outcome.isolated.most_common(20)]
    if work.passed_over:
        lines += [f"{work.passed_over.total():,} not asked about", *work.lines()]
    if not outcome.meter.roles:
        return "\n".join(lines)
    if outcome.isolated:
        lines.append("run again to try these again; raise client.format_tries first where answers are unreadable")
    usage = list(outcome.meter.roles.values())
    calls, earlier = sum(role.calls for role in usage), sum(role.earlier for role in usage)
    return "\n".join([
        *lines,
        f"{calls:,} calls, {earlier:,} answers from the journal, {quantity(outcome.meter.tokens)} tokens, "
        f"cost {outcome.meter.cost:.4g}",
    ])  # fmt: skip


def dry_run(tier: ModelTier, folder: Path, items: Callable[[], Iterable[T]], limit: int, tokenizer: str) -> str:
    """What ``run`` would ask and cost, prompts counted as they are. Nothing is sent and nothing is written."""
    known = standings(read_log(folder / DECISIONS))
    work = due(tier, items(), known, limit)
    paid = {record["key"] for record in records(folder / JOURNAL)} if (folder / JOURNAL).is_file() else set()
    count, roles, free = token_counter(tokenizer), defaultdict[str, Estimate](Estimate), 0
    unfit: Counter[str] = Counter()
    for item in items():
        if item.hash not in work.names:
            continue
        try:
            role = tier.role_of(item)
        except RowFailed as failed:
            unfit[failed.reason] += 1
            continue
        messages = tier.messages(item)
        keys = list(_keys(tier, role, messages))
        new = sum(key not in paid for key in keys)
        free += len(keys) - new
        most = parameters_of(tier.config, role, None)["max_tokens"]
        roles[role].add(new, count_messages(messages, count), tier.usual_out, most)
    lines = [
        f"{len(work.names) - unfit.total():,} samples to be {tier.done}; {free:,} answers are in the journal already",
        *(f"{number:8,}  {reason}" for reason, number in (unfit + work.passed_over).most_common()),
        "tokens " + (f"by the tokenizer in {tokenizer}" if tokenizer else "guessed from characters"),
    ]
    return "\n".join([*lines, "", *cost_table(tier.config, roles), "", "nothing was sent"])


def _keys(tier: ModelTier, role: str, messages: Sequence[Message]) -> Iterator[str]:
    """The addresses of the answers to a question's votes."""
    parameters = parameters_of(tier.config, role, tier.schema)
    for vote in range(tier.votes):
        call = Call(role, messages, parameters, vote * tier.config.client.format_tries)
        yield call.key(tier.config.model_of(role))

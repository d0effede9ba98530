"""What a run would ask and cost, before anything is sent: counts that follow from the config, tokens that are guessed.

Prompts of step 1 are counted as they are. What models will say is not known: "expected" takes the usual sizes below
and that nothing is refused, "at most" takes max_tokens for every answer.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kaiyuan.progress import quantity
from kaiyuan.synthesis.llm.calls import Message
from kaiyuan.synthesis.llm.client import parameters_of
from kaiyuan.synthesis.llm.config import Asking, SynthesisConfig
from kaiyuan.synthesis.llm.evolve import Coverage, evolution_messages, expansions
from kaiyuan.synthesis.llm.filtering import critique_messages
from kaiyuan.synthesis.llm.instruct import Task, tasks, user
from kaiyuan.synthesis.llm.journal import records
from kaiyuan.synthesis.llm.library import Library, load_library
from kaiyuan.synthesis.llm.meter import price
from kaiyuan.synthesis.llm.output import JOURNAL
from kaiyuan.synthesis.llm.respond import messages_of, samples_of
from kaiyuan.synthesis.llm.rows import Row
from kaiyuan.synthesis.llm.seeds import read_seeds
from kaiyuan.synthesis.llm.tokens import Counter as TokenCounter
from kaiyuan.synthesis.llm.tokens import count_messages, token_counter

INSTRUCTION, LABEL, TESTS, CRITIQUE = 60, 50, 150, 90
"""Usual tokens of answers; a response is taken for ``RESPONSE_SHARE`` of its max_tokens."""
RESPONSE_SHARE = 0.4
_RENDERED = 2000
_KINDS = {"mathematics": "math", "programming": "code", "logic": "objective", "humanities": "objective"}


@dataclass
class Estimate:
    """Of one role."""

    calls: float = 0.0
    tokens_in: float = 0.0
    tokens_out: float = 0.0
    most_out: float = 0.0

    def add(self, calls: float, prompt: float, answer: float, most: float) -> None:
        self.calls += calls
        self.tokens_in += calls * prompt
        self.tokens_out += calls * min(answer, most)
        self.most_out += calls * most


class Estimator:
    """Walks through the steps with rows that stand for those to come."""

    def __init__(self, config: SynthesisConfig, library: Library) -> None:
        self.config, self.library = config, library
        self.count: TokenCounter = token_counter(config.run.tokenizer)
        self.roles: defaultdict[str, Estimate] = defaultdict(Estimate)

    def ask(self, role: str, calls: float, messages: list[Message], answer: float) -> None:
        most = parameters_of(self.config, role, None)["max_tokens"]
        self.roles[role].add(calls, count_messages(messages, self.count), answer, most)

    def step1(self, work: list[Task]) -> list[tuple[Row, float]]:
        """Count the calls; a row for each kind of instruction to come, with how many it stands for."""
        per_call = self.config.instructions.per_call
        shown = work[:: max(1, len(work) // _RENDERED)]
        scale = len(work) / max(len(shown), 1)
        found: dict[tuple[str, str], tuple[Row, float]] = {}
        for task in shown:
            self.ask("instructor", scale, task.messages(self.config, self.library), INSTRUCTION * per_call + 10)
            row, number = found.get(self._place(task), (self._row(task), 0.0))
            found[self._place(task)] = (row, number + scale * per_call)
        return list(found.values())

    @staticmethod
    def _place(task: Task) -> tuple[str, str]:
        return task.template.id, task.seed.language

    def _row(self, task: Task) -> Row:
        context = task.seed.text[: self.config.instructions.seed_chars] if task.template.context else ""
        return _stand_in(task.template.topic, task.seed.language, context)

    def expansion(self, rows: list[tuple[Row, float]]) -> list[tuple[Row, float]]:
        coverage = Coverage()
        for row, number in rows:
            coverage.add(row)
            coverage.counts[row.topic, row.language] += round(number) - 1
        made: Counter[tuple[str, str]] = Counter()
        for task in expansions(self.config, self.library, coverage):
            per_call = self.config.instructions.per_call
            self.ask("evolver", 1, task.messages(self.config, self.library), INSTRUCTION * per_call + 10)
            made[task.topic, task.language] += per_call
        return [(_stand_in(topic, language, ""), float(number)) for (topic, language), number in made.items()]

    def rest(self, rows: list[tuple[Row, float]]) -> None:
        """Labels, evolution, responses and critiques of all rows."""
        evolution = self.config.evolution
        changed = 1 - (1 - evolution.clarity_share) * (1 - evolution.difficulty_share)
        for row, number in rows:
            prompt = self.library.prompt("label", row.language, topics=self.library.topic_list, instruction=row.prompt)
            self.ask("judge", number * (1 + changed), user(prompt), LABEL)
            for way, share in (("clarity", evolution.clarity_share), ("difficulty", evolution.difficulty_share)):
                messages = evolution_messages(self.config, self.library, row, way)
                self.ask("evolver", number * share, messages, INSTRUCTION * 1.5)
            self._answers(row, number)

    def _answers(self, row: Row, number: float) -> None:
        config = self.config
        if row.kind == "code":
            prompt = self.library.prompt("tests", row.language, instruction=row.prompt)
            self.ask("judge", number, user(prompt), TESTS)
        role = config.responder_of(row.topic)
        most = parameters_of(config, role, None)["max_tokens"]
        calls = number * samples_of(config, row.kind)
        self.ask(role, calls, messages_of(self.library, row), RESPONSE_SHARE * most)
        if config.filters.critic:
            messages = critique_messages(self.library, row, "")
            votes = number * config.filters.critic_votes
            self.ask("critic", votes, messages, CRITIQUE)
            self.roles["critic"].tokens_in += votes * RESPONSE_SHARE * most


def _stand_in(topic: str, language: str, context: str) -> Row:
    text = "字" * round(INSTRUCTION * 1.5) if language == "zh" else "word " * round(INSTRUCTION * 0.8)
    kind = _KINDS.get(topic.partition("/")[0], "open")
    return Row("", text, language, topic, "open" if context else kind, context=context)


def dry_run(config: SynthesisConfig, folder: Path) -> str:
    """The estimate as text. Nothing is sent and nothing is written."""
    library = load_library(config)
    seeds, skipped = read_seeds(config.seeds, config.run.languages)
    estimator = Estimator(config, library)
    work = list(tasks(config, library, seeds))
    rows = estimator.step1(work)
    rows += estimator.expansion(rows)
    estimator.rest(rows)
    left_out = f" ({sum(skipped.values())} left out: {_listed(skipped)})" if skipped else ""
    head = [
        f"{len(seeds)} seeds{left_out}, {len(work)} calls of step 1, {len(library.templates)} templates in 2 languages",
        f"about {sum(number for _, number in rows):.0f} instructions if none is refused; tokens "
        + (f"by the tokenizer in {config.run.tokenizer}" if config.run.tokenizer else "guessed from characters"),
    ]
    if (folder / JOURNAL).is_file():
        known = sum(1 for _ in records(folder / JOURNAL))
        head.append(f"the journal in {folder} holds {known} answers; what is among them costs nothing again")
    return "\n".join([*head, "", *cost_table(config, estimator.roles), "", "nothing was sent"])


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in counts.items())


def cost_table(config: Asking, roles: Mapping[str, Estimate]) -> list[str]:
    """Calls, tokens and money by role, and of all."""
    lines = [f"{'role':24} {'model':24} {'calls':>8} {'in':>8} {'out':>8} {'expected':>10} {'at most':>10}"]
    total, most = 0.0, 0.0
    for name, estimate in roles.items():
        endpoint = config.endpoint_of(config.role(name))
        cost = price(endpoint, estimate.tokens_in, estimate.tokens_out)
        highest = price(endpoint, estimate.tokens_in, estimate.most_out)
        total, most = total + cost, most + highest
        lines.append(f"{name[:24]:24} {endpoint.model[:24]:24} {estimate.calls:8.0f} {quantity(estimate.tokens_in):>8} "
                     f"{quantity(estimate.tokens_out):>8} {cost:10.4g} {highest:10.4g}")  # fmt: skip
    lines.append(
        f"{'all':24} {'':24} {sum(e.calls for e in roles.values()):8.0f} {'':8} {'':8} {total:10.4g} {most:10.4g}"
    )
    return lines

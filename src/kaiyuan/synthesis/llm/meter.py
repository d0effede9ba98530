"""What a run has used, by role: calls, tokens, money, tries that failed."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from kaiyuan.synthesis.llm.calls import Answer
from kaiyuan.synthesis.llm.config import Endpoint


@dataclass
class Usage:
    """Of one role. ``earlier`` counts answers that the journal had."""

    calls: int = 0
    earlier: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    cost_earlier: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        return {
            "calls": self.calls,
            "answers_from_journal": self.earlier,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "cost": round(self.cost, 6),
            "cost_of_journal": round(self.cost_earlier, 6),
            "failed_tries": dict(self.failures),
        }


def price(endpoint: Endpoint, tokens_in: float, tokens_out: float) -> float:
    return (tokens_in * endpoint.price_in + tokens_out * endpoint.price_out) / 1e6


class Meter:
    """Counts every answer's cost once, however many rows use it."""

    def __init__(self) -> None:
        self.roles: defaultdict[str, Usage] = defaultdict(Usage)
        self._counted: set[bytes] = set()

    def count(self, role: str, endpoint: Endpoint, answer: Answer) -> None:
        usage, key = self.roles[role], bytes.fromhex(answer.key)
        if key in self._counted:
            return
        self._counted.add(key)
        cost = price(endpoint, answer.tokens_in, answer.tokens_out)
        if answer.paid:
            usage.calls += 1
            usage.cost += cost
            usage.tokens_in += answer.tokens_in
            usage.tokens_out += answer.tokens_out
        else:
            usage.earlier += 1
            usage.cost_earlier += cost

    def failed(self, role: str, reason: str) -> None:
        """Count a failed try under the head of its reason, without what the server said."""
        self.roles[role].failures[reason.partition(":")[0].partition(" (")[0]] += 1

    @property
    def tokens(self) -> int:
        return sum(usage.tokens_in + usage.tokens_out for usage in self.roles.values())

    @property
    def cost(self) -> float:
        """Of this run and of what it took from the journal."""
        return sum(usage.cost + usage.cost_earlier for usage in self.roles.values())

    def as_json(self) -> dict[str, Any]:
        return {role: usage.as_json() for role, usage in sorted(self.roles.items())}

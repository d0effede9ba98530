"""Engines that answer by rule, to test how models are asked."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from types import SimpleNamespace

from kaiyuan.inference.engine import Completion
from kaiyuan.inference.params import SamplingParams
from kaiyuan.tokenizer import Tokenizer


class RuleEngine:
    """Answers every prompt with ``rule(text of the prompt)``, and keeps the prompts."""

    def __init__(self, tokenizer: Tokenizer, rule: Callable[[str], str], context: int = 100_000) -> None:
        self.tokenizer, self.rule = tokenizer, rule
        self.model = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=context))
        self.prompts: list[list[int]] = []
        self.batches: list[int] = []

    def generate(self, prompts: Sequence[list[int]], params: SamplingParams) -> list[Completion]:
        assert params.temperature == 0
        self.prompts += prompts
        self.batches.append(len(prompts))
        return [self._completion(self.tokenizer.decode(ids), params) for ids in prompts]

    def _completion(self, prompt: str, params: SamplingParams) -> Completion:
        """Ends before the first stop token, as every engine does."""
        ids = self.tokenizer.encode(self.rule(prompt))
        end = next((index for index, token in enumerate(ids) if token in params.stop_token_ids), len(ids))
        return Completion(ids[:end], self.tokenizer.decode(ids[:end]), "stop", [0.0] * end)


def last_number(text: str) -> str:
    """The last five-digit number of the prompt."""
    return (re.findall(r"\d{5}", text) or ["nothing"])[-1]

"""Generation with the shared KV cache: batches of prompts of any length, greedy or sampled, and token-by-token streams.

Shapes: B sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kaiyuan.errors import KaiyuanError
from kaiyuan.inference.sampling import SamplingParams, sample
from kaiyuan.model.cache import KVCache
from kaiyuan.model.transformer import Transformer

if TYPE_CHECKING:
    from kaiyuan.tokenizer import Tokenizer

Prompt = str | Sequence[int]


@dataclass(frozen=True)
class Completion:
    """What was generated for one prompt. The token that ended it is not part of it."""

    token_ids: list[int]
    text: str
    """Empty if the engine has no tokenizer."""
    finish_reason: str
    """``stop``: an end token; ``length``: ``max_tokens`` or the model's context was reached."""
    logprobs: list[float]
    """Natural log-probability of each token under the model, at temperature 1 and without restrictions."""


@dataclass
class _Sequence:
    """One completion under way."""

    index: int
    prompt: list[int]
    params: SamplingParams
    stops: frozenset[int]
    generator: torch.Generator
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str = ""

    def take(self, token: int, logprob: float) -> None:
        if token in self.stops:
            self.finish_reason = "stop"
            return
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if len(self.tokens) >= self.params.max_tokens:
            self.finish_reason = "length"


class Engine:
    """Generates with one model.

    ``model`` is a folder or a ``Transformer``; a folder brings its tokenizer, if it has one. Without a tokenizer
    prompts are lists of token ids. ``max_batch`` limits how many sequences are computed together.
    """

    def __init__(
        self,
        model: str | Path | Transformer,
        tokenizer: Tokenizer | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        max_batch: int = 64,
    ) -> None:
        if isinstance(model, Transformer):
            self.model, self.tokenizer = model, tokenizer
        else:
            self.model, self.tokenizer = _load(Path(model), dtype, device)
            self.tokenizer = tokenizer or self.tokenizer
        self.max_batch = max_batch

    def generate(
        self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None = None
    ) -> list[Completion]:
        """Complete every prompt; ``params`` for all of them or one for each. With ``n > 1`` a prompt has n results
        in a row.
        """
        if isinstance(prompts, str) or any(isinstance(prompt, int) for prompt in prompts):
            raise KaiyuanError("prompts come as a list: put a single one in brackets")
        settings = self._settings(params, len(prompts))
        sequences: list[_Sequence] = []
        for prompt, setting in zip(prompts, settings, strict=True):
            ids = self._ids(prompt, setting)
            for copy in range(setting.n):
                sequences.append(
                    _Sequence(len(sequences), ids, setting, self._stops(setting), _generator(setting, copy))
                )
        by_length = sorted(sequences, key=lambda sequence: len(sequence.prompt))
        for start in range(0, len(by_length), self.max_batch):
            for _ in self._run(by_length[start : start + self.max_batch]):
                pass
        return [self._completion(sequence) for sequence in sequences]

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[int]:
        """Yield the tokens of one completion as they are made. Closing the iterator stops the work."""
        setting = params or SamplingParams()
        sequence = _Sequence(0, self._ids(prompt, setting), setting, self._stops(setting), _generator(setting, 0))
        for made in self._run([sequence]):
            yield from made

    def _settings(
        self, params: SamplingParams | Sequence[SamplingParams] | None, count: int
    ) -> Sequence[SamplingParams]:
        if params is None or isinstance(params, SamplingParams):
            return [params or SamplingParams()] * count
        if len(params) != count:
            raise KaiyuanError(
                f"{count} prompts with {len(params)} sampling parameters: give one, or one for each prompt"
            )
        return params

    def _ids(self, prompt: Prompt, params: SamplingParams) -> list[int]:
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise KaiyuanError("this model has no tokenizer: give prompts as lists of token ids")
            prompt = self.tokenizer.encode(prompt)
        ids = [int(token) for token in prompt]
        vocabulary, context = self.model.config.vocab_size, self.model.config.max_position_embeddings
        if not ids:
            raise KaiyuanError("the prompt is empty: it needs at least one token")
        if min(ids) < 0 or max(ids) >= vocabulary:
            raise KaiyuanError(
                f"the prompt has token {max(ids) if min(ids) >= 0 else min(ids)}, ids go from 0 to {vocabulary - 1}"
            )
        if len(ids) >= context:
            raise KaiyuanError(f"the prompt has {len(ids)} tokens, the model's context is {context}")
        return ids

    def _stops(self, params: SamplingParams) -> frozenset[int]:
        ends: tuple[int, ...] = ()
        if self.tokenizer is not None and not params.ignore_eos:
            ends = tuple(self.tokenizer.end_ids)
        return frozenset((*ends, *params.stop_token_ids))

    @torch.inference_mode()
    def _run(self, sequences: list[_Sequence]) -> Iterator[list[int]]:
        """Complete ``sequences`` together; yields the tokens of every step, of those sequences that got one."""
        self.model.eval()
        context = self.model.config.max_position_embeddings
        capacity = min(max(len(s.prompt) + s.params.max_tokens for s in sequences), context)
        dtype = self.model.compute_dtype or self.model.embed.weight.dtype
        cache = KVCache(self.model.config, len(sequences), capacity, dtype, self.model.device)
        lengths = torch.tensor([len(s.prompt) for s in sequences], device=self.model.device)
        ids_BT = torch.zeros(len(sequences), int(lengths.max()), dtype=torch.int64)
        for row, sequence in enumerate(sequences):
            ids_BT[row, : len(sequence.prompt)] = torch.tensor(sequence.prompt)
        logits_BV = self._step(ids_BT, lengths, cache)
        while True:
            yield self._take(sequences, logits_BV, capacity)
            live = [row for row, sequence in enumerate(sequences) if not sequence.finish_reason]
            if not live:
                return
            if len(live) < len(sequences):
                sequences = [sequences[row] for row in live]
                cache.keep(torch.tensor(live, device=self.model.device))
            ids_BT = torch.tensor([[sequence.tokens[-1]] for sequence in sequences])
            logits_BV = self._step(
                ids_BT, torch.ones(len(sequences), dtype=torch.int64, device=self.model.device), cache
            )

    def _step(self, ids_BT: Tensor, lengths_B: Tensor, cache: KVCache) -> Tensor:
        """Run the model on new tokens; logits (B, V) after the last real one of each row."""
        x_BTD = self.model.features(ids_BT.to(self.model.device), cache=cache).x_BTD
        cache.advance(lengths_B)
        rows = torch.arange(len(ids_BT), device=self.model.device)
        return self.model.logits(x_BTD[rows, lengths_B - 1])

    def _take(self, sequences: list[_Sequence], logits_BV: Tensor, capacity: int) -> list[int]:
        tokens_B = sample(logits_BV, [s.params for s in sequences], [s.generator for s in sequences])
        logprobs_B = logits_BV.log_softmax(-1).gather(1, tokens_B[:, None]).squeeze(1)
        made = []
        for sequence, token, logprob in zip(sequences, tokens_B.tolist(), logprobs_B.tolist(), strict=True):
            before = len(sequence.tokens)
            sequence.take(token, logprob)
            made += sequence.tokens[before:]
            if not sequence.finish_reason and len(sequence.prompt) + len(sequence.tokens) >= capacity:
                sequence.finish_reason = "length"
        return made

    def _completion(self, sequence: _Sequence) -> Completion:
        text = "" if self.tokenizer is None else self.tokenizer.decode(sequence.tokens)
        return Completion(sequence.tokens, text, sequence.finish_reason, sequence.logprobs)


def _generator(params: SamplingParams, copy: int) -> torch.Generator:
    seed = secrets.randbits(62) if params.seed is None else params.seed + copy * 0x9E3779B97F4A7C1
    return torch.Generator().manual_seed(seed % 2**63)


def _load(folder: Path, dtype: torch.dtype, device: str | torch.device) -> tuple[Transformer, Any]:
    from kaiyuan.checkpoint import load_model
    from kaiyuan.tokenizer import has_tokenizer, load_tokenizer

    tokenizer = load_tokenizer(folder) if has_tokenizer(folder) else None
    return load_model(folder, dtype=dtype, device=device).eval(), tokenizer

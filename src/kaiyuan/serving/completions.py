"""Completions of plain prompts, the older interface: with echo and log-probabilities of the prompt for evaluations."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from kaiyuan.inference.outputs import Piece, TokenLogprob
from kaiyuan.serving.errors import ApiError
from kaiyuan.serving.generation import Generation, Job, usage_of_chunk
from kaiyuan.serving.interface import ServedEngine
from kaiyuan.serving.logprobs import CompletionLogprobs
from kaiyuan.serving.prepare import check_prompt, encode, grammar_of, sampling, tokenizer_of
from kaiyuan.serving.protocol import CompletionRequest
from kaiyuan.serving.settings import ServerSettings
from kaiyuan.tokenizer import Tokenizer

_DEFAULT_TOKENS = 16


async def plan_completion(
    body: CompletionRequest, engine: ServedEngine, settings: ServerSettings, tenant: str = ""
) -> list[Job]:
    """A job of ``tenant`` for each prompt. Raises ``ApiError`` for what the limits or the model forbid."""
    prompts = _prompts(body.prompt)
    if len(prompts) > settings.limits.prompts:
        raise ApiError(f"prompt: {len(prompts)} prompts, at most {settings.limits.prompts} are allowed", param="prompt")
    grammar = grammar_of(body, settings.limits)
    jobs = []
    for prompt in prompts:
        ids = await encode(tokenizer_of(engine, "prompt"), prompt) if isinstance(prompt, str) else prompt
        check_prompt(ids, engine, settings.limits, "prompt")
        wanted = _DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens
        more: dict[str, Any] = {"grammar": grammar, "logprobs": body.logprobs or 0}
        if body.echo and body.logprobs is not None:
            # One token at least: evaluations cut the last token off, whether or not the answer ended at once.
            more |= {"prompt_logprobs": True, "min_tokens": max(1, min(body.min_tokens or 0, wanted))}
        # The engine makes at least one token; it is not shown if none was asked for.
        room = engine.engine.context - len(ids)
        params = sampling(body, engine, settings, room=room, max_tokens=max(1, wanted), **more)
        jobs.append(Job(ids, params, tenant + (body.cache_salt or "")))
    return jobs


def _prompts(prompt: Any) -> list[Any]:
    return [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt


@dataclass
class _Choice:
    """One completion: its text and log-probabilities so far."""

    job: Job
    tokenizer: Tokenizer | None
    shape: CompletionLogprobs
    prompt_text: str
    """What ``echo`` puts in front."""
    begun: bool = False
    text: str = ""
    logprobs: dict[str, list[Any]] = field(default_factory=dict)
    finish_reason: str | None = None


class CompletionAnswer:
    """The answer to ``body``, made from what ``generation`` yields."""

    def __init__(self, body: CompletionRequest, jobs: list[Job], tokenizer: Tokenizer | None, model: str) -> None:
        self._body = body
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}", "object": "text_completion",
            "created": int(time.time()), "model": model,
        }  # fmt: skip
        self._choices = [
            _Choice(job, tokenizer, CompletionLogprobs(tokenizer), self._echo_text(job, tokenizer))
            for job in jobs
            for _ in range(job.params.n)
        ]

    def _echo_text(self, job: Job, tokenizer: Tokenizer | None) -> str:
        if not self._body.echo or tokenizer is None:
            return ""
        return tokenizer.decode(job.prompt, skip_special_tokens=False)

    async def whole(self, generation: Generation) -> dict[str, Any]:
        async with aclosing(generation.pieces()) as pieces:
            async for number, piece in pieces:
                self._take(number, piece)
        choices = [
            {
                "index": index,
                "text": choice.text,
                "logprobs": choice.logprobs if self._wants_logprobs else None,
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(self._choices)
        ]
        return {**self._head, "choices": choices, "usage": self._usage(generation)}

    async def chunks(self, generation: Generation) -> AsyncGenerator[dict[str, Any], None]:
        async with aclosing(generation.pieces()) as pieces:
            async for number, piece in pieces:
                choice = self._take(number, piece)
                if choice["text"] or choice["finish_reason"] or (choice["logprobs"] or {}).get("tokens"):
                    usage = usage_of_chunk(self._body.stream_options, generation.usage)
                    yield {**self._head, "choices": [choice], **usage}
        if self._with_usage:
            yield {**self._head, "choices": [], "usage": self._usage(generation)}

    def _take(self, number: int, piece: Piece) -> dict[str, Any]:
        """Add ``piece`` to its choice; returns what it brings, as a chunk's choice."""
        index = number * (self._body.n or 1) + piece.index
        choice = self._choices[index]
        shown = self._body.max_tokens != 0
        text, tokens = (piece.text, piece.tokens) if shown else ("", ())
        entries: list[TokenLogprob | int] = [*tokens]
        if not choice.begun and self._body.echo:
            text = choice.prompt_text + text
            entries = [choice.job.prompt[0], *piece.prompt_logprobs, *entries]
        choice.begun = True
        choice.text += text
        choice.finish_reason = piece.finish_reason if shown else piece.finish_reason and "length"
        logprobs = choice.shape.take(entries) if self._wants_logprobs else None
        for name, values in (logprobs or {}).items():
            choice.logprobs.setdefault(name, []).extend(values)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": choice.finish_reason}

    def _usage(self, generation: Generation) -> dict[str, Any]:
        if self._body.max_tokens == 0:
            generation.usage.completion_tokens = 0
        return generation.usage.as_json()

    @property
    def _wants_logprobs(self) -> bool:
        return self._body.logprobs is not None

    @property
    def _with_usage(self) -> bool:
        options = self._body.stream_options
        return options is not None and options.include_usage

"""Chat completions: the request's plan, and its answer as one reply or as a stream of chunks."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from kaiyuan.inference.outputs import Piece, TokenLogprob
from kaiyuan.inference.params import Grammar
from kaiyuan.serving.conversation import conversation
from kaiyuan.serving.errors import ApiError
from kaiyuan.serving.generation import Generation, Job, Usage, usage_of_chunk
from kaiyuan.serving.interface import ServedEngine
from kaiyuan.serving.logprobs import chat_logprobs
from kaiyuan.serving.prepare import (
    chat_prompt,
    check_messages,
    check_prompt,
    grammar_of,
    sampling,
    schema_grammar,
    tokenizer_of,
)
from kaiyuan.serving.protocol import ChatRequest, Function
from kaiyuan.serving.settings import Limits, ServerSettings
from kaiyuan.serving.tools import Arguments, CallBegins, CallParser, Event, Text, call_schema, describe
from kaiyuan.tokenizer import Tokenizer


@dataclass(frozen=True)
class Plan:
    """What to generate, and how to read it."""

    job: Job
    tokenizer: Tokenizer
    names: tuple[str, ...]
    """Functions that the model may call; empty: the answer is text."""
    forced: bool
    """The answer is one call and nothing else."""
    parallel: bool


async def plan_chat(body: ChatRequest, engine: ServedEngine, settings: ServerSettings, tenant: str = "") -> Plan:
    """What to do for ``tenant``. Raises ``ApiError`` for what the limits, the model or the messages' order forbid."""
    limits = settings.limits
    check_messages(body.messages, limits)
    tokenizer = tokenizer_of(engine, "messages")
    functions = _functions(body, limits)
    forced = bool(functions) and body.tool_choice not in (None, "auto")
    grammar = _grammar(body, functions, forced, limits)
    parallel = body.parallel_tool_calls is not False
    tools_text = describe(functions, parallel and not forced) if functions else ""
    ids = await chat_prompt(tokenizer, conversation(body.messages, tools_text))
    check_prompt(ids, engine, limits, "messages")
    room = engine.engine.context - len(ids)
    wanted = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    if wanted == 0:
        raise ApiError("max_tokens: a chat needs at least one token", param="max_tokens")
    if wanted is None:
        wanted = min(room, limits.max_tokens, settings.defaults.get("max_tokens", room))
    params = sampling(
        body, engine, settings,
        room=room,
        max_tokens=wanted,
        grammar=grammar,
        logprobs=body.top_logprobs or 0,
    )  # fmt: skip
    names = tuple(function.name for function in functions)
    return Plan(Job(ids, params, tenant + (body.cache_salt or "")), tokenizer, names, forced, parallel)


def _functions(body: ChatRequest, limits: Limits) -> list[Function]:
    """The functions that the model may call in this answer."""
    functions = [tool.function for tool in body.tools or ()]
    if len(functions) > limits.tools:
        raise ApiError(f"tools: {len(functions)}, at most {limits.tools} are allowed", param="tools")
    names = [function.name for function in functions]
    if len(set(names)) < len(names):
        raise ApiError("tools: two functions have the same name", param="tools")
    if body.tool_choice == "none":
        return []
    if isinstance(body.tool_choice, list):
        functions = [function for function in functions if function.name in body.tool_choice]
        if not functions:
            raise ApiError(f"tool_choice: there is no function {body.tool_choice[0][:80]!r} in tools",
                           param="tool_choice")  # fmt: skip
    return functions


def _grammar(body: ChatRequest, functions: list[Function], forced: bool, limits: Limits) -> Grammar | None:
    grammar = grammar_of(body, limits)
    if not functions:
        return grammar
    if grammar is not None:
        raise ApiError(
            "response_format: an answer in a fixed format cannot call tools; set tool_choice to none",
            param="response_format",
        )
    return schema_grammar(call_schema(functions), limits, "tools") if forced else None


@dataclass
class _Choice:
    """One of the ``n`` answers: what has come of it."""

    parser: CallParser | None
    waiting: list[TokenLogprob] = field(default_factory=list)
    """Tokens whose text the parser still holds back."""
    tokens: list[TokenLogprob] = field(default_factory=list)
    content: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None

    def take(self, piece: Piece) -> list[dict[str, Any]]:
        """The deltas that ``piece`` brings, OpenAI's shape."""
        if self.parser is None:
            events: list[Event] = [Text(piece.text)] if piece.text else []
        else:
            events = self.parser.feed(piece.text, last=piece.finish_reason is not None)
        if piece.finish_reason is not None:
            called = self.parser is not None and self.parser.calls and piece.finish_reason == "stop"
            self.finish_reason = "tool_calls" if called else piece.finish_reason
        self.tokens += piece.tokens
        self.waiting += piece.tokens
        return [self._delta(event) for event in events]

    def _delta(self, event: Event) -> dict[str, Any]:
        if isinstance(event, Text):
            self.content += event.text
            return {"content": event.text}
        if isinstance(event, CallBegins):
            function = {"name": event.name, "arguments": ""}
            self.calls.append({"id": event.id, "type": "function", "function": function})
            shown = {"index": event.index, "id": event.id, "type": "function", "function": dict(function)}
            return {"tool_calls": [shown]}
        assert isinstance(event, Arguments)
        self.calls[event.index]["function"]["arguments"] += event.text
        return {"tool_calls": [{"index": event.index, "function": {"arguments": event.text}}]}

    def message(self) -> dict[str, Any]:
        content = None if self.calls and not self.content else self.content
        message = {"role": "assistant", "content": content, "refusal": None}
        return {**message, "tool_calls": self.calls} if self.calls else message

    def take_waiting(self) -> list[TokenLogprob]:
        waiting, self.waiting = self.waiting, []
        return waiting


class ChatAnswer:
    """The answer to ``body``, made from what ``generation`` yields."""

    def __init__(self, body: ChatRequest, plan: Plan, model: str) -> None:
        self._body, self._plan, self._usage = body, plan, Usage()
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self._choices = [
            _Choice(CallParser(plan.names, forced=plan.forced, parallel=plan.parallel) if plan.names else None)
            for _ in range(plan.job.params.n)
        ]

    async def whole(self, generation: Generation) -> dict[str, Any]:
        async with aclosing(generation.pieces()) as pieces:
            async for _, piece in pieces:
                self._choices[piece.index].take(piece)
        choices = [
            {
                "index": index,
                "message": choice.message(),
                "logprobs": self._logprobs(choice.tokens),
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(self._choices)
        ]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": generation.usage.as_json()}

    async def chunks(self, generation: Generation) -> AsyncGenerator[dict[str, Any], None]:
        self._usage = generation.usage
        for index in range(len(self._choices)):
            yield self._chunk(index, {"role": "assistant", "content": ""})
        async with aclosing(generation.pieces()) as pieces:
            async for _, piece in pieces:
                for chunk in self._chunks_of(piece):
                    yield chunk
        if self._with_usage:
            yield {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": generation.usage.as_json()}

    def _chunks_of(self, piece: Piece) -> list[dict[str, Any]]:
        choice = self._choices[piece.index]
        chunks = [
            self._chunk(piece.index, delta, self._logprobs(choice.take_waiting())) for delta in choice.take(piece)
        ]
        if choice.finish_reason is not None:
            logprobs = self._logprobs(choice.take_waiting()) if choice.waiting else None
            chunks.append(self._chunk(piece.index, {}, logprobs, choice.finish_reason))
        return chunks

    def _chunk(
        self, index: int, delta: dict[str, Any], logprobs: Any = None, finish_reason: str | None = None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        return {**chunk, **usage_of_chunk(self._body.stream_options, self._usage)}

    @property
    def _with_usage(self) -> bool:
        options = self._body.stream_options
        return options is not None and options.include_usage

    def _logprobs(self, tokens: list[TokenLogprob]) -> dict[str, Any] | None:
        return chat_logprobs(self._plan.tokenizer, tokens) if self._body.logprobs else None

"""From a request that is well formed to what the engine gets: token ids and sampling parameters, within the limits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from kaiyuan.errors import KaiyuanError
from kaiyuan.inference.params import Grammar, SamplingParams
from kaiyuan.serving.body import nesting
from kaiyuan.serving.conversation import Turn
from kaiyuan.serving.errors import ApiError, draining, from_engine, queue_full
from kaiyuan.serving.heap import give_back
from kaiyuan.serving.interface import ServedEngine, vocabulary_of
from kaiyuan.serving.protocol import Message, SamplingFields
from kaiyuan.serving.settings import Limits, ServerSettings
from kaiyuan.tokenizer import Tokenizer
from kaiyuan.tokenizer.chat import render_chat

_SHORT_TEXT = 4096
"""Characters that are tokenized at once; longer texts go to a thread so that other requests are not held up."""
_HUGE_TEXT = 65_536
"""Characters from which the memory that tokenizing took is worth the milliseconds of giving it back."""


def check_model(settings: ServerSettings, model: str | None) -> None:
    """Raise ``ApiError`` unless ``model`` is the one that is served here."""
    if model is not None and model != settings.model_name:
        raise ApiError(
            f"the model {model[:200]!r} does not exist here; there is {settings.model_name!r}",
            404, param="model", code="model_not_found",
        )  # fmt: skip


def check_open(engine: ServedEngine, settings: ServerSettings, model: str | None) -> None:
    """Raise ``ApiError`` unless ``model`` is served here and there is room for a request."""
    check_model(settings, model)
    if engine.draining:
        raise draining()
    if engine.stats().waiting > settings.limits.max_waiting:
        raise queue_full()


def check_messages(messages: Sequence[Message], limits: Limits) -> None:
    if len(messages) > limits.messages:
        raise ApiError(f"messages: {len(messages)}, at most {limits.messages} are allowed", param="messages")


def tokenizer_of(engine: ServedEngine, param: str) -> Tokenizer:
    tokenizer = engine.engine.tokenizer
    if tokenizer is None:
        raise ApiError("this model has no tokenizer: send prompts as lists of token ids", param=param)
    return tokenizer


async def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    if len(text) <= _SHORT_TEXT:
        return tokenizer.encode(text)
    return await asyncio.to_thread(_encode, tokenizer, text)


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    ids = tokenizer.encode(text)
    if len(text) > _HUGE_TEXT:
        give_back()
    return ids


async def chat_prompt(tokenizer: Tokenizer, turns: Sequence[Turn], ask: bool = True) -> list[int]:
    """The ids of a conversation; with ``ask`` for an answer. Raises ``ApiError`` for turns out of order."""
    try:
        return await asyncio.to_thread(_render, tokenizer, turns, ask)
    except KaiyuanError as error:
        raise ApiError(str(error), param="messages") from None


def _render(tokenizer: Tokenizer, turns: Sequence[Turn], ask: bool) -> list[int]:
    ids = render_chat(tokenizer, turns, ask)
    if sum(len(turn["content"]) for turn in turns) > _HUGE_TEXT:
        give_back()
    return ids


def check_prompt(ids: Sequence[int], engine: ServedEngine, limits: Limits, param: str) -> None:
    """Raise ``ApiError`` for a prompt that is empty, too long, or has ids that the model does not know."""
    longest = engine.engine.context - 1
    if limits.prompt_tokens is not None:
        longest = min(longest, limits.prompt_tokens)
    if not ids:
        raise ApiError("the prompt is empty: it needs at least one token", param=param)
    if len(ids) > longest:
        raise ApiError(
            f"the prompt has {len(ids)} tokens, at most {longest} fit", param=param, code="context_length_exceeded"
        )
    if max(ids) >= vocabulary_of(engine):
        raise ApiError(
            f"the prompt has token {max(ids)}, ids go from 0 to {vocabulary_of(engine) - 1}", param=param
        )  # fmt: skip


def sampling(
    body: SamplingFields, engine: ServedEngine, settings: ServerSettings, *, room: int, max_tokens: int, **more: Any
) -> SamplingParams:
    """The sampling parameters of ``body``. Answers end with the context: ``room`` tokens are left in it.

    Raises ``ApiError`` naming the field that is beyond the limits.
    """
    _check_limits(body, engine, settings.limits, max_tokens)
    chosen = {
        name: value
        for name in (
            "temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
            "seed", "n", "ignore_eos",
        )
        if (value := getattr(body, name)) is not None
    }  # fmt: skip
    if body.top_k is not None:
        chosen["top_k"] = min(max(body.top_k, 0), vocabulary_of(engine))
    biases = {int(id): bias for id, bias in (body.logit_bias or {}).items()}
    tokens = min(max_tokens, room)
    values = {
        **settings.defaults,
        **chosen,
        "max_tokens": tokens,
        "min_tokens": min(body.min_tokens or 0, tokens),
        "stop": tuple(body.stop or ()),
        "stop_token_ids": tuple(body.stop_token_ids or ()),
        "logit_bias": biases,
        **more,
    }
    try:
        return SamplingParams(**values)
    except KaiyuanError as error:
        raise from_engine(error) from None


def _check_limits(body: SamplingFields, engine: ServedEngine, limits: Limits, max_tokens: int) -> None:
    def at_most(limit: int, found: int, param: str, what: str) -> None:
        if found > limit:
            raise ApiError(f"{param}: {found} {what}, at most {limit} are allowed", param=param)

    stops = body.stop or []
    at_most(limits.max_tokens, max_tokens, "max_tokens", "tokens")
    at_most(limits.n, body.n or 1, "n", "completions")
    at_most(limits.stops, len(stops), "stop", "texts")
    at_most(limits.stop_characters, max(map(len, stops), default=0), "stop", "characters")
    at_most(limits.stops, len(body.stop_token_ids or ()), "stop_token_ids", "ids")
    at_most(limits.logit_bias, len(body.logit_bias or ()), "logit_bias", "entries")
    if (body.min_tokens or 0) > max_tokens:
        raise ApiError("min_tokens: more than max_tokens", param="min_tokens")
    if stops:
        tokenizer_of(engine, "stop")
    _check_ids(body, vocabulary_of(engine))


def _check_ids(body: SamplingFields, vocabulary: int) -> None:
    for id in body.stop_token_ids or ():
        if not 0 <= id < vocabulary:
            raise ApiError(f"stop_token_ids: {id} is no token, ids go from 0 to {vocabulary - 1}",
                           param="stop_token_ids")  # fmt: skip
    for text in body.logit_bias or ():
        if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < vocabulary):
            raise ApiError(
                f"logit_bias: {text[:40]!r} is no token id, ids go from 0 to {vocabulary - 1}", param="logit_bias"
            )


def grammar_of(body: SamplingFields, limits: Limits) -> Grammar | None:
    """The language that ``response_format`` or ``structured_outputs`` asks for."""
    wanted = body.response_format
    outputs = body.structured_outputs
    if outputs is not None and (outputs.definition is not None or outputs.regex is not None):
        if wanted is not None and wanted.type != "text":
            raise ApiError("structured_outputs: give it or response_format, not both", param="structured_outputs")
        if outputs.regex is None:
            return schema_grammar(outputs.definition, limits, "structured_outputs")
        return _regex_grammar(outputs.regex, outputs.definition is not None, limits)
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object" or wanted.json_schema is None:
        return Grammar("json")
    return schema_grammar(wanted.json_schema.definition, limits, "response_format")


def _regex_grammar(regex: str, also_schema: bool, limits: Limits) -> Grammar:
    if also_schema:
        raise ApiError("structured_outputs: give json or regex, not both", param="structured_outputs")
    if len(regex) > limits.regex_characters:
        raise ApiError(
            f"structured_outputs: the regex has {len(regex)} characters, at most {limits.regex_characters} are allowed",
            param="structured_outputs",
        )
    return Grammar("regex", regex)


def schema_grammar(schema: Any, limits: Limits, param: str) -> Grammar:
    """``schema`` as a grammar; an ``ApiError`` if it is too large or too deep."""
    text = json.dumps(schema, ensure_ascii=False)
    if len(text.encode()) > limits.schema_bytes:
        raise ApiError(f"{param}: the schema is larger than {limits.schema_bytes} bytes", param=param)
    if nesting(text) > limits.schema_depth:
        raise ApiError(f"{param}: the schema is nested deeper than {limits.schema_depth} levels", param=param)
    return Grammar("json_schema", text)

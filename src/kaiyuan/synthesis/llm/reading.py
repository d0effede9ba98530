"""Reading JSON out of what a model said. Whatever it holds is data: checked for its form, never trusted, never run."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from kaiyuan.synthesis.llm.calls import Answer, RowFailed

T = TypeVar("T")
_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)
_THINKING = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_LONGEST, _STARTS = 200_000, 50


class Unreadable(Exception):
    """The answer is not in the form asked for."""


def without_thinking(text: str) -> str:
    """``text`` without the reasoning that some models put before their answer."""
    return _THINKING.sub("", text)


def json_object(text: str) -> dict[str, Any]:
    """The last whole JSON object in ``text`` that is not inside of another; ``Unreadable`` if there is none."""
    text = without_thinking(text)[:_LONGEST]
    fenced = _FENCE.findall(text)
    found = _last_object(fenced[-1]) if fenced else None
    found = found if found is not None else _last_object(text)
    if found is None:
        raise Unreadable("no JSON object in the answer")
    return found


def _last_object(text: str) -> dict[str, Any] | None:
    decoder, found, start = json.JSONDecoder(strict=False), None, 0
    for _ in range(_STARTS):
        start = text.find("{", start)
        if start < 0:
            break
        try:
            value, start = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start += 1
            continue
        found = value if isinstance(value, dict) else found
    return found


def string(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Unreadable(f"{name}: expected a text")
    return value.encode("utf-8", "replace").decode().replace("\0", "").strip()


def strings(value: Any, name: str, most: int) -> list[str]:
    if not isinstance(value, list) or not value:
        raise Unreadable(f"{name}: expected a list of texts")
    return [string(item, name) for item in value[:most]]


def integer(value: Any, name: str, lowest: int, highest: int) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        raise Unreadable(f"{name}: expected a whole number from {lowest} to {highest}")
    return value


async def together(*jobs: Coroutine[Any, Any, T]) -> list[T]:
    """All results. Every job is waited for, so no paid answer is lost; then the first failure, in order, is raised."""
    results = await asyncio.gather(*jobs, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


async def read_answer(
    step: str, ask: Callable[[int], Awaitable[Answer]], read: Callable[[dict[str, Any]], T], tries: int, first: int = 0
) -> tuple[T, Answer]:
    """Ask, and ask for another sample while the answer cannot be read; ``RowFailed`` after ``tries`` of them."""
    problem = ""
    for sample in range(first, first + tries):
        answer = await ask(sample)
        try:
            if answer.finish == "length":
                raise Unreadable("cut off at max_tokens")
            return read(json_object(answer.text)), answer
        except Unreadable as error:
            problem = str(error)
    raise RowFailed(step, f"unreadable answer: {problem} ({tries} samples)")

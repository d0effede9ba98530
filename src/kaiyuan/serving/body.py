"""The request's body: read with limits, strict JSON, then checked against its model."""

from __future__ import annotations

import asyncio
import json
import math
import re
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from kaiyuan.serving.errors import ApiError
from kaiyuan.serving.settings import Limits

if TYPE_CHECKING:
    from starlette.requests import Request

Model = TypeVar("Model", bound=BaseModel)

_SHORT_BODY = 64 << 10
"""Bytes that are parsed at once; longer bodies go to a thread so that streams under way are not held up."""
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
_NAMED = re.compile(r"(\w+) (?:is not supported|needs)\b")
"""Messages about a whole object that begin with the field at fault."""
_JSON_TYPE = re.compile(r"application/(?:[\w.+-]+\+)?json\s*(?:;.*)?", re.IGNORECASE)


async def read_request(request: Request, model: type[Model], limits: Limits) -> Model:
    """The body as ``model``. Raises ``ApiError`` for a body that is too large, slow, not JSON, or does not fit."""
    kind = request.headers.get("content-type", "")
    if not _JSON_TYPE.fullmatch(kind.strip()):
        raise ApiError(f"the body must be JSON: send Content-Type: application/json, not {kind[:80]!r}")
    body = await _read(request, limits)
    if len(body) <= _SHORT_BODY:
        return validate(parse_json(body, limits.json_depth), model)
    return await asyncio.to_thread(lambda: validate(parse_json(body, limits.json_depth), model))


async def _read(request: Request, limits: Limits) -> bytes:
    from starlette.requests import ClientDisconnect

    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.body_bytes:
                    raise too_large(limits.body_bytes)
    except TimeoutError:
        raise ApiError("the request's body took too long to arrive", 408) from None
    except ClientDisconnect:
        raise ApiError("the client has gone", 499) from None
    return bytes(body)


def too_large(limit: int) -> ApiError:
    return ApiError(f"the request's body is larger than {limit} bytes", 413, headers={"connection": "close"})


def parse_json(body: bytes, depth: int) -> Any:
    """The value of strict UTF-8 JSON: no NaN, no infinity, at most ``depth`` brackets in each other, no half surrogate
    pairs. Raises ``ApiError``.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ApiError(f"the body is not UTF-8: {error.reason} at byte {error.start}") from None
    if nesting(text) > depth:
        raise ApiError(f"the body's JSON is nested deeper than {depth} levels")
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise ApiError(f"the body is not valid JSON: {error.msg} (line {error.lineno} column {error.colno})") from None
    except ValueError as error:
        raise ApiError(f"the body is not valid JSON: {error}") from None
    if "\\u" in text:
        _refuse_half_pairs(value)
    return value


def nesting(text: str) -> int:
    """How deep the brackets of JSON ``text`` go, without recursion."""
    depth = deepest = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        mark = match[0][0]
        if mark in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif mark in "]}":
            depth -= 1
    return deepest


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _refuse_half_pairs(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise ApiError("the body has half of a surrogate pair (\\ud800 to \\udfff alone), which is no text") from None


def validate(value: Any, model: type[Model]) -> Model:
    """``value`` as ``model``; an ``ApiError`` names the first field that does not fit."""
    try:
        return model.model_validate(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        param = _path(first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        named = _NAMED.match(message)
        whole = ".".join(filter(None, (param, named[1]))) if named else param
        raise ApiError(f"{param}: {message}" if param else message, param=whole or None) from None


def _path(location: tuple[int | str, ...]) -> str:
    """``messages[0].content`` for ("messages", 0, "content")."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")

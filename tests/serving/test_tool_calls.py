"""Calls of functions: read from text cut anywhere, and through OpenAI's client."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_engine import FakeEngine
from hypothesis import given
from hypothesis import strategies as st
from openai import BadRequestError, OpenAI
from openai.types.chat import ChatCompletion

from kaiyuan.serving.protocol import Function
from kaiyuan.serving.tools import Arguments, CallBegins, CallParser, Text, call_schema

ASK: list[Any] = [{"role": "user", "content": "What is 1 + 2?"}]
ADD: Any = {
    "type": "function",
    "function": {"name": "add", "description": "Sum", "parameters": {"properties": {"a": {"type": "integer"}}}},
}
NOW: Any = {"type": "function", "function": {"name": "now"}}
CALL = '<tool_call>{"name": "add", "arguments": {"a": 1, "b": "}</tool_call>\\""}}</tool_call>'
PIECES = [
    CALL, '<tool_call>\n{"arguments": {"x": [1]}, "name": "now"}\n</tool_call>', "Text ", "  \n", "<tool_call>",
    "<tool", "</tool_call>", '<tool_call>{"name": "rm", "arguments": {}}</tool_call>', '{"name": "add", "arguments": ',
    "}", "{", '<tool_call>{"name": "now", "arguments": {}}',
]  # fmt: skip


def read(chunks: list[str], **how: Any) -> tuple[str, list[tuple[str, str]]]:
    """The text, and name and arguments of each call."""
    parser = CallParser(["add", "now"], **how)
    text, calls = "", []
    for index, chunk in enumerate(chunks):
        for event in parser.feed(chunk, last=index == len(chunks) - 1):
            if isinstance(event, Text):
                text += event.text
            elif isinstance(event, CallBegins):
                calls.append((event.name, ""))
            elif isinstance(event, Arguments):
                calls[event.index] = (calls[event.index][0], calls[event.index][1] + event.text)
    return text, calls


@given(st.lists(st.sampled_from(PIECES), max_size=6).map("".join), st.data(), st.booleans(), st.booleans())
def test_where_the_text_is_cut_does_not_matter(text: str, data: st.DataObject, forced: bool, parallel: bool) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(chunks, forced=forced, parallel=parallel) == read([text], forced=forced, parallel=parallel)
    assert read([*text, ""], forced=forced, parallel=parallel) == read([text], forced=forced, parallel=parallel)


def test_what_is_a_call_and_what_is_not() -> None:
    arguments = '{"a": 1, "b": "}</tool_call>\\""}'
    assert read([f"Sure. {CALL}\n{CALL} "]) == ("Sure.", [("add", arguments)] * 2)
    assert read([f"{CALL}{CALL}"], parallel=False) == ("", [("add", arguments)])
    assert read(["a < b <tool_call"]) == ("a < b <tool_call", [])
    unknown = '<tool_call>{"name": "rm", "arguments": {}}</tool_call>'
    assert read([unknown]) == (unknown, [])
    assert read(['<tool_call>{"arguments": {"x": 1}, "name": "now"}</tool_call>']) == ("", [("now", '{"x": 1}')])
    assert read(['<tool_call>{"name": "now", "arguments": {}}'])[1] == [("now", "{}")]
    assert read(['{"name": "add", "arguments": {"a": 1}}'], forced=True) == ("", [("add", '{"a": 1}')])
    deep = "<tool_call>" + "[" * 100_000 + "</tool_call>"
    assert read([deep]) == (deep, [])


def test_a_call_through_the_client(openai: OpenAI, engine: FakeEngine) -> None:
    engine.answer = f"Let me see.\n{CALL}"
    reply = openai.chat.completions.create(model="tiny", messages=ASK, tools=[ADD, NOW])
    ChatCompletion.model_validate(reply.model_dump(), strict=True)
    (choice,) = reply.choices
    assert (choice.message.content, choice.finish_reason) == ("Let me see.", "tool_calls")
    (call,) = choice.message.tool_calls or ()
    assert call.type == "function"
    assert call.function.name == "add"
    assert json.loads(call.function.arguments) == {"a": 1, "b": '}</tool_call>"'}
    prompt = engine.engine.tokenizer.decode(engine.requests[0][0])
    assert '"name": "add"' in prompt
    assert "<tool_call>" in prompt


def test_a_streamed_call_is_the_same(openai: OpenAI, engine: FakeEngine) -> None:
    engine.answer = f"Yes {CALL} {CALL}"
    content, calls, reason = "", {}, None
    for chunk in openai.chat.completions.create(model="tiny", messages=ASK, tools=[ADD], stream=True):
        choice = chunk.choices[0]
        content += choice.delta.content or ""
        reason = choice.finish_reason or reason
        for call in choice.delta.tool_calls or ():
            entry = calls.setdefault(call.index, {"id": call.id, "arguments": "", "pieces": 0})
            assert call.function is not None
            entry["arguments"] += call.function.arguments or ""
            entry["pieces"] += 1
    assert (content, reason) == ("Yes", "tool_calls")
    assert [json.loads(call["arguments"])["a"] for call in calls.values()] == [1, 1]
    assert all(call["pieces"] > 2 for call in calls.values()), "arguments come as they are made"
    assert len({call["id"] for call in calls.values()}) == 2


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}])
def test_a_forced_call_has_a_grammar(openai: OpenAI, engine: FakeEngine, choice: Any) -> None:
    engine.answer = '{"name": "add", "arguments": {"a": 5}}'
    reply = openai.chat.completions.create(model="tiny", messages=ASK, tools=[ADD, NOW], tool_choice=choice)
    (call,) = reply.choices[0].message.tool_calls or ()
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("add", '{"a": 5}')
    assert reply.choices[0].message.content is None
    grammar = engine.requests[0][1].grammar
    assert grammar is not None
    assert grammar.kind == "json_schema"
    assert ('"now"' in grammar.definition) == (choice == "required")


def test_no_tools_are_shown_when_none_may_be_called(openai: OpenAI, engine: FakeEngine) -> None:
    engine.answer = CALL
    reply = openai.chat.completions.create(model="tiny", messages=ASK, tools=[ADD], tool_choice="none")
    assert reply.choices[0].message.content == CALL
    assert "add" not in engine.engine.tokenizer.decode(engine.requests[0][0])


def test_wrong_tools_are_refused(openai: OpenAI) -> None:
    named: Any = {"type": "function", "function": {"name": "nope"}}
    formatted: Any = {"type": "json_object"}
    for param, fields in (
        ("tool_choice", {"tools": [ADD], "tool_choice": named}),
        ("tool_choice", {"tool_choice": "required"}),
        ("tools", {"tools": [ADD, ADD]}),
        ("response_format", {"tools": [ADD], "response_format": formatted}),
        ("tools[0].function.name", {"tools": [{"type": "function", "function": {"name": "a b"}}]}),
        ("functions", {"functions": [{"name": "f"}]}),
    ):
        with pytest.raises(BadRequestError) as error:
            openai.chat.completions.create(model="tiny", messages=ASK, **fields)  # type: ignore[call-overload]
        assert error.value.param == param


def test_definitions_of_parameters_are_found_in_the_calls_schema() -> None:
    tree = {
        "type": "object",
        "properties": {"root": {"$ref": "#/$defs/node"}, "self": {"$ref": "#"}},
        "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}},
    }
    schema = call_schema([Function(name="a", parameters=tree), Function(name="b", parameters=tree)])

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [found for item in value.values() for found in references(item)]
        return [found for item in value for found in references(item)] if isinstance(value, list) else []

    assert {reference.removeprefix("#/$defs/") for reference in references(schema)} == set(schema["$defs"])

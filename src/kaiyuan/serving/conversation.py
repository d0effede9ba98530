"""OpenAI's messages as the conversation that the chat format knows: one system message, then user and assistant."""

from __future__ import annotations

import json
from collections.abc import Sequence

from kaiyuan.serving.protocol import Message, ToolCall
from kaiyuan.serving.tools import CLOSE, OPEN

Turn = dict[str, str]


def conversation(messages: Sequence[Message], tools_text: str = "") -> list[Turn]:
    """``messages`` in the three roles of the chat format, which checks their order.

    System messages at the beginning are joined, and so are user messages and tools' results that follow each other.
    ``tools_text`` is put behind the system message.
    """
    turns: list[Turn] = []
    for message in messages:
        turn = _turn(message)
        if turns and turn["role"] == turns[-1]["role"] != "assistant":
            turns[-1]["content"] += "\n\n" + turn["content"]
        else:
            turns.append(turn)
    if tools_text:
        _add_to_system(turns, tools_text)
    return turns


def _turn(message: Message) -> Turn:
    content = message.content or ""
    if message.role in ("system", "developer"):
        return {"role": "system", "content": content}
    if message.role == "tool":
        return {"role": "user", "content": f"<tool_response>{content}</tool_response>"}
    calls = [_call(call) for call in message.tool_calls or ()]
    return {"role": message.role, "content": "\n".join(filter(None, [content, *calls]))}


def _call(call: ToolCall) -> str:
    """A call as the model would have written it; arguments that are not JSON are kept as they are."""
    name = json.dumps(call.function.name, ensure_ascii=False)
    return f'{OPEN}{{"name": {name}, "arguments": {call.function.arguments or "{}"}}}{CLOSE}'


def _add_to_system(turns: list[Turn], text: str) -> None:
    if turns[0]["role"] == "system":
        turns[0]["content"] = "\n\n".join(filter(None, [turns[0]["content"], text]))
    else:
        turns.insert(0, {"role": "system", "content": text})

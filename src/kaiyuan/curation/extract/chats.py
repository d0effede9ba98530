"""Records of conversations in the usual forms: OpenAI messages, ShareGPT, Alpaca, and plain pairs of fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kaiyuan.curation.sample import Message

_ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
    "bing": "assistant", "bard": "assistant", "用户": "user", "人类": "user", "助手": "assistant", "系统": "system",
}  # fmt: skip
_PAIRS = (
    ("instruction", "output"), ("instruction", "response"), ("prompt", "response"), ("prompt", "completion"),
    ("question", "answer"), ("query", "response"), ("input", "output"), ("问题", "回答"), ("问题", "答案"),
)  # fmt: skip
_TURNS = ("messages", "conversations", "conversation", "dialogue")


class NoChat(Exception):
    """A record that is no conversation; the text says why, in a few words to count by."""


def conversation(record: Mapping[str, Any]) -> list[Message] | None:
    """The messages of ``record``; None if it has none of the known forms, ``NoChat`` if it is a damaged one."""
    for name in _TURNS:
        if isinstance(record.get(name), list):
            return _answered(_turns(record, record[name]))
    for asked, answered in _PAIRS:
        if isinstance(record.get(asked), str) and isinstance(record.get(answered), str):
            return _pair(record, asked, answered)
    return None


def _turns(record: Mapping[str, Any], items: list[Any]) -> list[Message]:
    messages = [message for item in items if (message := _turn(item)) is not None]
    system = record.get("system") or record.get("system_prompt")
    if isinstance(system, str) and system.strip() and not (messages and messages[0]["role"] == "system"):
        messages.insert(0, {"role": "system", "content": system.strip()})
    return messages


def _turn(item: Any) -> Message | None:
    """One turn; None for one without text. Calls of tools have a form of their own, which is not read here."""
    if not isinstance(item, Mapping):
        raise NoChat("a turn is no object")
    if item.get("tool_calls") or item.get("function_call"):
        raise NoChat("calls of tools")
    role = _ROLES.get(str(item.get("role") or item.get("from") or "").strip().lower())
    if role is None:
        raise NoChat("unknown role")
    text = _text(item.get("content", item.get("value")))
    return {"role": role, "content": text} if text else None


def _text(content: Any) -> str:
    """The text of a content: a string, or OpenAI's parts, of which all must be text."""
    if isinstance(content, list):
        if not all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
            raise NoChat("parts that are no text")
        content = "\n".join(str(part.get("text", "")) for part in content)
    if content is None:
        return ""
    if not isinstance(content, str):
        raise NoChat("a content is no text")
    return content.strip()


def _pair(record: Mapping[str, Any], asked: str, answered: str) -> list[Message]:
    """Alpaca's record, with its ``input`` below the instruction and, where there is one, its ``history`` before it."""
    question = record[asked].strip()
    material = record.get("input") if asked == "instruction" else record.get("context")
    if isinstance(material, str) and material.strip():
        question = f"{question}\n\n{material.strip()}"
    messages: list[Message] = []
    if isinstance(record.get("system"), str) and record["system"].strip():
        messages.append({"role": "system", "content": record["system"].strip()})
    for turn in record.get("history") or ():
        if not isinstance(turn, list) or len(turn) != 2 or not all(isinstance(text, str) for text in turn):
            raise NoChat("a history that is no list of pairs")
        messages += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    return [*messages, {"role": "user", "content": question},
            {"role": "assistant", "content": record[answered].strip()}]  # fmt: skip


def _answered(messages: list[Message]) -> list[Message]:
    """Without turns before the first question, or behind the last answer; turns of one role in a row become one."""
    joined: list[Message] = []
    for message in messages:
        if joined and joined[-1]["role"] == message["role"]:
            joined[-1] = {"role": message["role"], "content": f"{joined[-1]['content']}\n\n{message['content']}"}
        else:
            joined.append(message)
    first = next((number for number, message in enumerate(joined) if message["role"] == "user"), len(joined))
    head = [message for message in joined[:first] if message["role"] == "system"][:1]
    tail = joined[first:]
    while tail and tail[-1]["role"] != "assistant":
        tail.pop()
    return [*head, *tail]

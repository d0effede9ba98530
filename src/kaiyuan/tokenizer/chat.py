"""Conversations in Hunyuan-Large's chat format, as ids.

    <|startoftext|>SYSTEM<|extra_4|>USER<|extra_0|>ANSWER<|eos|><|startoftext|>USER<|extra_0|>

``<|startoftext|>`` begins every user's turn but one that follows the system message, whose ``<|startoftext|>`` serves
both. ``<|extra_0|>`` ends the user's message and asks for the answer at once, so nothing more is added to get one.

The ids are built here, specials by id and messages by ``Tokenizer.encode``: no text can forge a turn. ``CHAT_TEMPLATE``
is the same for those who read Jinja (transformers, vLLM), where text can.

One difference to the release: an empty system message is no system message. The release's template writes two
``<|startoftext|>`` then, which no model has been trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kaiyuan.errors import DataError
from kaiyuan.tokenizer.special import SYSTEM_END, USER_END

if TYPE_CHECKING:
    from kaiyuan.tokenizer.tokenizer import Tokenizer

Message = Mapping[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}"""

CHAT_TEMPLATE = (
    "{%- set ns = namespace(begun=false) -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}"
    "{%- if message['content'] -%}"
    "{{- '<|startoftext|>' + message['content'] + '<|extra_4|>' -}}"
    "{%- set ns.begun = true -%}"
    "{%- endif -%}"
    "{%- elif message['role'] == 'user' -%}"
    "{{- ('' if ns.begun else '<|startoftext|>') + message['content'] + '<|extra_0|>' -}}"
    "{%- set ns.begun = false -%}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{{- message['content'] + '<|eos|>' -}}"
    "{%- else -%}"
    "{{- raise_exception('unknown role ' + message['role']) -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
)


@dataclass(frozen=True)
class ChatTokens:
    """A conversation for training."""

    ids: list[int]
    trained_mask: list[bool]
    """As long as ``ids``: true for the tokens of the answers and the ``<|eos|>`` that ends each of them."""


def render_chat(tokenizer: Tokenizer, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
    """The ids of ``messages``. With ``add_generation_prompt`` they are for an answer: the last must be the user's.

    Raises ``DataError`` naming the index of the first message that is out of place.
    """
    _check(messages)
    if add_generation_prompt and messages[-1]["role"] != "user":
        raise DataError(f"messages[{len(messages) - 1}]: the last message must be the user's, to be answered")
    return [id for ids, _ in _parts(tokenizer, messages) for id in ids]


def render_training(tokenizer: Tokenizer, messages: Sequence[Message]) -> ChatTokens:
    """The ids of ``messages`` and which of them are trained on. Raises ``DataError`` as ``render_chat`` does, and if
    there is no answer to train on.
    """
    _check(messages)
    parts = list(_parts(tokenizer, messages))
    mask = [trained for ids, trained in parts for _ in ids]
    if not any(mask):
        raise DataError("no assistant message: the conversation has nothing to train on")
    return ChatTokens([id for ids, _ in parts for id in ids], mask)


def _parts(tokenizer: Tokenizer, messages: Sequence[Message]) -> Iterator[tuple[list[int], bool]]:
    """Pieces of the conversation's ids, each with whether it is trained on."""
    begun = False
    for message in messages:
        role, text = message["role"], tokenizer.encode(message["content"])
        if role == "assistant":
            yield [*text, tokenizer.eos_id], True
        elif role == "user":
            yield [*([] if begun else [tokenizer.bos_id]), *text, tokenizer.special_id(USER_END)], False
            begun = False
        elif text:
            yield [tokenizer.bos_id, *text, tokenizer.special_id(SYSTEM_END)], False
            begun = True


def _check(messages: Sequence[Message]) -> None:
    """Raise ``DataError`` unless there is at most one system message, then user and assistant in turns."""
    if not messages:
        raise DataError("the conversation has no messages")
    previous = ""
    for index, message in enumerate(messages):
        problem = _problem(message, previous)
        if problem:
            raise DataError(f"messages[{index}]: {problem}")
        previous = message["role"]


def _problem(message: object, previous: str) -> str:
    """What is wrong with ``message`` behind one of the role ``previous`` ("" for the first); "" if nothing is."""
    if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
        return 'expected {"role": ..., "content": ...}'
    role, content = message["role"], message["content"]
    if role not in ("system", "user", "assistant"):
        return f"unknown role {role!r}: expected system, user or assistant"
    if not isinstance(content, str):
        return f"content must be a string, not {type(content).__name__}"
    if role == "system" and previous:
        return "a system message can only be the first"
    if role == "user" and previous == "user":
        return "two user messages in a row: join them, or put the assistant's answer between"
    if role == "assistant" and previous != "user":
        return "an assistant message must follow a user message"
    return ""

"""Chat in the terminal, or in a pipe: the answer appears as it is made."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TextIO

from kaiyuan.errors import KaiyuanError
from kaiyuan.inference import Engine, SamplingParams
from kaiyuan.progress import say
from kaiyuan.tokenizer.chat import render_chat

Message = dict[str, str]


def chat(folder: Path, params: SamplingParams, system: str = "") -> None:
    """Read questions from standard input until its end and answer each, remembering the conversation.

    On a terminal there is a prompt and Ctrl-C stops the answer only. In a pipe all of the input is one question.
    """
    engine = Engine(folder)
    if engine.tokenizer is None:
        raise KaiyuanError(f"{folder}: this model has no tokenizer, so it cannot chat")
    history: list[Message] = [{"role": "system", "content": system}] if system else []
    for question in _questions(sys.stdin):
        history.append({"role": "user", "content": question})
        answer = respond(engine, history, params, sys.stdout)
        if answer:
            history.append({"role": "assistant", "content": answer})
        else:
            history.pop()


def _questions(stream: TextIO) -> Iterator[str]:
    if not stream.isatty():
        text = stream.read().strip()
        if text:
            yield text
        return
    import readline  # noqa: F401  (line editing and history for input())

    print("Ctrl-C stops the answer, Ctrl-D leaves.")
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            continue
        if text:
            yield text


def respond(engine: Engine, history: list[Message], params: SamplingParams, out: TextIO) -> str:
    """Write the answer to ``history`` as it is made; returns all of it. Forgets the oldest turns that do not fit."""
    assert engine.tokenizer is not None
    prompt = render_chat(engine.tokenizer, history)
    room = engine.context
    while len(prompt) + params.max_tokens > room and len(history) > 2:
        first = 1 if history[0]["role"] == "system" else 0
        if len(history) <= first + 1:
            break
        del history[first : first + 2]
        say("the conversation is longer than the model's context: the oldest turn is forgotten")
        prompt = render_chat(engine.tokenizer, history)
    text = []
    with _interruptible() as stopped:
        for piece in engine.stream(prompt, params):
            text.append(piece.text)
            out.write(piece.text)
            out.flush()
            if stopped:
                break
    out.write("\n")
    out.flush()
    return "".join(text)


@contextmanager
def _interruptible() -> Iterator[list[bool]]:
    """A list that gets an element when Ctrl-C is pressed, in place of the exception."""
    stopped: list[bool] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.append(True)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)

"""How a model is asked: a chat model by its template, a base model in the plain form that its training text has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from kaiyuan.inference.engine import Engine
    from kaiyuan.tokenizer import Tokenizer

Form = Literal["chat", "plain"]
PLAIN = {"en": "Q: {}\nA:", "zh": "问：{}\n答："}
"""The form of answered questions in the generated part of the corpus; a base model goes on with the answer."""
_BATCH_TOKENS = 16_384


def question_ids(tokenizer: Tokenizer, question: str, language: str, form: Form = "chat", text: str = "") -> list[int]:
    """The prompt's tokens: ``question`` about ``text``, if there is one, as the user's turn or in the plain form."""
    if form == "chat":
        from kaiyuan.tokenizer.chat import render_chat

        content = f"{text}\n\n{question}" if text else question
        return render_chat(tokenizer, [{"role": "user", "content": content}])
    asked = PLAIN.get(language, PLAIN["en"]).format(question)
    return [tokenizer.document_end_id, *tokenizer.encode(f"{text}\n\n{asked}" if text else asked)]


def greedy_answers(engine: Engine, prompts: Sequence[list[int]], max_tokens: int, form: Form = "chat") -> list[str]:
    """The most likely answer to every prompt; of a plain one its first line, since nothing else ends it.

    Prompts of similar length are computed together, as many as make a bounded number of tokens.
    """
    from kaiyuan.inference.params import SamplingParams

    stops = line_ends(engine.tokenizer) if form == "plain" and engine.tokenizer is not None else ()
    params = SamplingParams(temperature=0, max_tokens=max_tokens, stop_token_ids=stops)
    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    while order:
        taken = _how_many([len(prompts[index]) + max_tokens for index in order])
        batch, order = order[:taken], order[taken:]
        for index, completion in zip(batch, engine.generate([prompts[i] for i in batch], params), strict=True):
            answers[index] = completion.text.strip()
    return answers


def line_ends(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Every token that has a line break in it."""
    return tuple(token for token in range(tokenizer.vocab_size) if b"\n" in tokenizer.decode_bytes([token]))


def _how_many(lengths: Sequence[int]) -> int:
    """How many of the first of these ascending lengths go into one batch, padded to its longest."""
    fitting = [count for count, length in enumerate(lengths, 1) if count * length <= _BATCH_TOKENS]
    return max(fitting, default=1)

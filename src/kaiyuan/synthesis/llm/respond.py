"""Step 3: answers by the model that the topic's routing names, several where answers can be compared."""

from __future__ import annotations

from dataclasses import dataclass

from kaiyuan.synthesis.llm.calls import Answer, Message
from kaiyuan.synthesis.llm.config import SynthesisConfig
from kaiyuan.synthesis.llm.equality import final_answer
from kaiyuan.synthesis.llm.guards import fault_of_answer
from kaiyuan.synthesis.llm.instruct import Tools
from kaiyuan.synthesis.llm.library import Library
from kaiyuan.synthesis.llm.reading import together, without_thinking
from kaiyuan.synthesis.llm.rows import Row
from kaiyuan.synthesis.llm.sandbox import python_code

STEP = "responses"
COMPARED = ("math", "objective", "code")


@dataclass(frozen=True)
class Candidate:
    """One response. ``final`` is what is compared: a final answer, or the code of it."""

    answer: Answer
    text: str
    final: str
    fault: str


def samples_of(config: SynthesisConfig, kind: str) -> int:
    return config.responses.samples if kind in COMPARED else 1


def messages_of(library: Library, row: Row) -> list[Message]:
    wish = str(library.prompts["respond"][f"{row.kind}_{row.language}"])
    return [{"role": "system", "content": wish}, {"role": "user", "content": row.prompt}]


async def respond(tools: Tools, row: Row) -> list[Candidate]:
    """All samples; a sample that fails at the endpoint fails the row, since what is left could not be judged."""
    role, messages = tools.config.responder_of(row.topic), messages_of(tools.library, row)
    count = samples_of(tools.config, row.kind)
    answers = await together(*(tools.asker.ask(role, messages, sample) for sample in range(count)))
    return [_candidate(tools, row, answer) for answer in answers]


def _candidate(tools: Tools, row: Row, answer: Answer) -> Candidate:
    text = without_thinking(answer.text).strip()
    fault = fault_of_answer(text, answer.finish, row.language, tools.config.responses.max_chars, row.translates)
    final = ""
    if row.kind == "code":
        final = python_code(text)
    elif row.kind in COMPARED:
        final = final_answer(text)
    if not fault and row.kind in COMPARED and not final:
        fault = "no code block" if row.kind == "code" else "no final answer"
    return Candidate(answer, text, final, fault)

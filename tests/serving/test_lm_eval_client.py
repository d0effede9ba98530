"""EleutherAI's lm-eval against the server: the scores, greedy flags and answers are the model's own.

lm-eval runs as a command, from an environment of its own (``make test-lm-eval``) or beside this Python.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from live_server import MODEL, serving
from tiny_folder import CONTEXT, write_tiny_folder
from tokenizer_texts import training_texts

import kaiyuan
from kaiyuan.inference import Engine, SamplingParams
from kaiyuan.inference.async_engine import AsyncEngine
from kaiyuan.tokenizer import Tokenizer, render_chat

VENV = Path(os.environ.get("LM_EVAL_VENV", Path(__file__).parents[2] / ".venv-lm-eval"))
PLACES = (VENV / "bin", Path(sys.executable).parent)
LM_EVAL = shutil.which("lm_eval", path=os.pathsep.join(map(str, PLACES)))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(LM_EVAL is None, reason="lm-eval is not installed (make test-lm-eval)"),
]
LONGEST = CONTEXT - 1
"""Tokens of a prompt: lm-eval leaves room for the one token that it has generated and cuts off."""
CONTEXTS = ["What is 17 + 25?", "The quick brown fox jumps over", "天空是什么颜色的？", "It is ", "Once upon a time"]
ANSWER_TOKENS = 24
KEY = "a-key-of-the-test"
Rows = list[dict[str, Any]]


@dataclass
class Ran:
    """What lm-eval wrote down."""

    metrics: dict[str, dict[str, Any]]
    """By task and metric."""
    samples: dict[str, list[dict[str, Any]]]
    """What was asked and answered, by task."""


class Reference:
    """What the model itself says, without server or engine."""

    def __init__(self, folder: Path) -> None:
        self.model = kaiyuan.load_model(folder).eval()
        self.tokenizer: Tokenizer = kaiyuan.load_tokenizer(folder)

    def scores(self, ids: list[int]) -> torch.Tensor:
        """Log-probabilities (T, V) of what follows each of ``ids``."""
        with torch.no_grad():
            return self.model(torch.tensor([ids]))[0].log_softmax(-1)

    def last(self, ids: list[int], count: int) -> tuple[float, bool]:
        """Log-probability of the last ``count`` of ``ids``, and whether each is the likeliest."""
        ids = ids[-LONGEST:]
        scores, ends = self.scores(ids)[-count - 1 : -1], torch.tensor(ids[-count:])
        total = scores.gather(1, ends[:, None]).double().sum().item()
        return total, bool((scores.argmax(-1) == ends).all())

    def continuation(self, context: str, continuation: str) -> tuple[float, bool]:
        """As lm-eval defines it: both are tokenized together, and spaces that end the context belong to the answer."""
        whole = self.tokenizer.encode(context + continuation)
        return self.last(whole, len(whole) - len(self.tokenizer.encode(context.rstrip())))

    def rolling(self, text: str) -> float:
        """Every token of ``text`` once, after a begin token; windows but the first reach back as far as they can."""
        ids = [self.tokenizer.special_ids[self.tokenizer.names.bos], *self.tokenizer.encode(text)]
        step, total = LONGEST - 1, 0.0
        for start in range(0, len(ids) - 1, step):
            end = min(start + step, len(ids) - 1)
            total += self.last(ids[max(0, end - step) : end + 1], end - start)[0]
        return total

    def likeliest(self, context: str) -> str | None:
        """The likeliest next token, if it can be written as text."""
        ids = self.tokenizer.encode(context)
        best = int(self.scores(ids)[-1].argmax())
        text = self.tokenizer.decode([best])
        return text if self.tokenizer.encode(context + text) == [*ids, best] else None


@pytest.fixture(scope="module")
def folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("served") / MODEL, tokenizer)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder)


@pytest.fixture(scope="module")
def answers(folder: Path) -> Callable[[list[list[int]]], list[str]]:
    """What the engine answers without a server, greedily."""
    engine = Engine(folder)

    def ask(prompts: list[list[int]]) -> list[str]:
        outputs = engine.generate(prompts, SamplingParams(temperature=0, max_tokens=ANSWER_TOKENS))
        return [output.text for output in outputs]

    return ask


class Tasks:
    """Tasks as files; ``run`` has lm-eval do some of them."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder, self.home = folder, home
        self.outputs = 0

    def add(self, name: str, output_type: str, rows: Rows, metric: str, **settings: Any) -> None:
        data = self.home / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        task = {
            "task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test", "output_type": output_type, "doc_to_text": "{{context}}", "target_delimiter": "",
            "metric_list": [{"metric": metric}], **settings,
        }  # fmt: skip
        (self.home / f"{name}.yaml").write_text(json.dumps(task))  # JSON is YAML

    def run(self, address: str, tasks: list[str], *options: str, chat: bool = False, **model_args: Any) -> Ran:
        route = "chat/completions" if chat else "completions"
        model = {"model": MODEL, "base_url": f"{address}/v1/{route}", **model_args}
        self.outputs += 1
        out = self.home / f"out-{self.outputs}"
        command = [
            LM_EVAL, "run", "--model", "local-chat-completions" if chat else "local-completions",
            "--model_args", *(f"{key}={value}" for key, value in model.items()), "--tasks", *tasks,
            "--include_path", self.home, "--output_path", out, "--log_samples", *options,
        ]  # fmt: skip
        done = subprocess.run(
            list(map(str, command)), env=self.environment(), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-4000:]
        (results,) = out.rglob("results_*.json")
        metrics = json.loads(results.read_text())["results"]
        return Ran(metrics, {task: samples(out, task) for task in tasks})

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(self.home / "hf")}
        return kept | offline | {"OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1", "OPENAI_API_KEY": KEY}


def samples(out: Path, task: str) -> list[dict[str, Any]]:
    (file,) = out.rglob(f"samples_{task}_*.jsonl")
    with file.open() as lines:
        return sorted(map(json.loads, lines), key=lambda sample: sample["doc_id"])


@pytest.fixture(scope="module")
def choice_rows(reference: Reference) -> Rows:
    return [
        {
            "context": context,
            "choices": [reference.likeliest(context) or " 42", " blue and green", "蓝色的"],
            "answer": 0,
        }
        for context in CONTEXTS
    ]


@pytest.fixture(scope="module")
def written_rows(folder: Path, reference: Reference, answers: Any) -> tuple[Rows, str]:
    """Questions with the engine's own answers, and the text that ends them."""
    whole = answers([reference.tokenizer.encode(context) for context in CONTEXTS])
    until = next(character for character in whole[0][3:] if character.isalnum())
    assert until in whole[0]
    rows = [{"context": context, "answer": text.split(until)[0]} for context, text in zip(CONTEXTS, whole, strict=True)]
    return rows, until


@pytest.fixture(scope="module")
def long_text() -> str:
    return " ".join(training_texts(3))[:6000]


@pytest.fixture(scope="module")
def tasks(
    folder: Path, choice_rows: Rows, written_rows: tuple[Rows, str], long_text: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Tasks:  # fmt: skip
    made = Tasks(folder, tmp_path_factory.mktemp("lm_eval"))
    choices = {"doc_to_choice": "choices", "doc_to_target": "answer"}
    made.add("tiny_choices", "multiple_choice", choice_rows, "acc", **choices)
    too_long = [{"context": long_text.strip(), "choices": [" yes", " no, never"], "answer": 0}]
    made.add("tiny_too_long", "multiple_choice", too_long, "acc", **choices)
    rows, until = written_rows
    stop = {"until": [until], "max_gen_toks": ANSWER_TOKENS, "temperature": 0}
    made.add("tiny_written", "generate_until", rows, "exact_match", doc_to_target="{{answer}}", generation_kwargs=stop)
    texts = [{"text": "To be, or not to be: 你好，世界。"}, {"text": long_text}]
    rolling = {"doc_to_text": "", "doc_to_target": "{{text}}"}
    made.add("tiny_rolling", "loglikelihood_rolling", texts, "bits_per_byte", **rolling)
    return made


def check_choices(ran: Ran, task: str, reference: Reference) -> list[bool]:
    """That every choice has the model's score and flag; returns the flags."""
    flags = []
    for sample in ran.samples[task]:
        for asked, answer in zip(sample["arguments"].values(), sample["filtered_resps"], strict=True):
            score, greedy = reference.continuation(asked["arg_0"], asked["arg_1"])
            assert float(answer[0]) == pytest.approx(score, abs=1e-3), asked
            assert answer[1] == str(greedy), asked
            flags.append(greedy)
    return flags


def check_written(ran: Ran, rows: Rows) -> None:
    assert [sample["filtered_resps"][0] for sample in ran.samples["tiny_written"]] == [row["answer"] for row in rows]
    assert ran.metrics["tiny_written"]["exact_match,none"] == 1


def test_prompts_as_token_ids(
    tasks: Tasks, folder: Path, reference: Reference, written_rows: tuple[Rows, str], long_text: str
) -> None:
    """lm-eval's default, in batches: its tokenizer is the folder's, without this package."""
    names = ["tiny_choices", "tiny_too_long", "tiny_written", "tiny_rolling"]
    with serving(AsyncEngine(Engine(folder))) as address:
        ran = tasks.run(address, names, "--batch_size", "2", tokenizer=folder, max_length=CONTEXT)
    flags = check_choices(ran, "tiny_choices", reference)
    assert True in flags
    assert False in flags
    check_choices(ran, "tiny_too_long", reference)
    assert len(reference.tokenizer.encode(long_text)) > 2 * CONTEXT
    check_written(ran, written_rows[0])
    for sample in ran.samples["tiny_rolling"]:
        assert float(sample["filtered_resps"][0]) == pytest.approx(reference.rolling(sample["doc"]["text"]), abs=1e-3)


def test_prompts_as_text_at_once_with_a_key(
    tasks: Tasks, folder: Path, reference: Reference, written_rows: tuple[Rows, str]
) -> None:
    how = {"tokenizer": folder, "max_length": CONTEXT, "tokenized_requests": False, "num_concurrent": 4}
    with serving(AsyncEngine(Engine(folder)), api_keys=(KEY,)) as address:
        ran = tasks.run(address, ["tiny_choices", "tiny_written"], **how)
    check_choices(ran, "tiny_choices", reference)
    check_written(ran, written_rows[0])


def test_chats(tasks: Tasks, folder: Path, tokenizer: Tokenizer, written_rows: tuple[Rows, str], answers: Any) -> None:
    """``local-chat-completions``: the server's template, and no tokenizer on lm-eval's side."""
    with serving(AsyncEngine(Engine(folder))) as address:
        ran = tasks.run(address, ["tiny_written"], "--apply_chat_template", chat=True)
    prompts = [render_chat(tokenizer, [{"role": "user", "content": context}]) for context in CONTEXTS]
    expected = [text.split(written_rows[1])[0] for text in answers(prompts)]
    assert [sample["filtered_resps"][0] for sample in ran.samples["tiny_written"]] == expected

"""Simon Willison's ``llm`` command against the server, as a user runs it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine
from live_server import MODEL, eventually, serving
from tiny_folder import CONTEXT, write_tiny_folder

from kaiyuan.inference import Engine, SamplingParams
from kaiyuan.inference.async_engine import AsyncEngine
from kaiyuan.inference.params import Grammar
from kaiyuan.tokenizer import Tokenizer, render_chat

LLM = shutil.which("llm", path=str(Path(sys.executable).parent))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(LLM is None, reason="the llm command is not installed (pip install llm)"),
]
GREEDY = ("-o", "temperature", "0", "-o", "max_tokens", "8")
KEY = "a-key-of-the-test"


def _hears_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Home:
    """``llm`` with settings of its own, and models of the server at ``address``."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        here = {"model_name": MODEL, "api_base": f"{address}/v1"}
        models = [
            {**here, "model_id": "chat", "supports_schema": True, "supports_tools": True, "vision": True},
            {**here, "model_id": "text", "completion": True},
            {**here, "model_id": "keyed", "api_key_name": "kaiyuan"},
            {**here, "model_id": "unknown", "model_name": "another"},
        ]
        folder.mkdir(exist_ok=True)
        (folder / "extra-openai-models.yaml").write_text(json.dumps(models))  # JSON is YAML

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in ("OPENAI_API_KEY", "LLM_RAISE_ERRORS")}
        return kept | {"LLM_USER_PATH": str(self.folder), "PYTHONUTF8": "1", "NO_PROXY": "127.0.0.1"}

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """As from a terminal: a shell that runs the tests in the background has them ignore Ctrl-C."""
        return subprocess.Popen(
            [str(LLM), *words], env=self.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, preexec_fn=_hears_ctrl_c,
        )  # fmt: skip

    def __call__(self, *words: str, typed: str = "") -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        done = subprocess.run(
            [str(LLM), *words], env=self.environment(), input=typed.encode(), capture_output=True, timeout=60
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def says(self, *words: str, typed: str = "") -> str:
        code, out, err = self(*words, typed=typed)
        assert code == 0, err
        return out.removesuffix("\n")


@pytest.fixture(scope="module")
def real(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, Engine]]:
    """``llm`` for a tiny model, and an engine with that model for what it should say."""
    home = tmp_path_factory.mktemp("real")
    folder = write_tiny_folder(home / MODEL, tokenizer)
    with serving(AsyncEngine(Engine(folder))) as address:
        yield Home(home / "llm", address), Engine(folder)


@pytest.fixture
def fake(shared: tuple[FakeEngine, str], engine: FakeEngine, tmp_path: Path) -> Home:
    return Home(tmp_path / "llm", shared[1])


def said(engine: Engine, prompt: list[int], **changes: Any) -> str:
    params = SamplingParams(**{"temperature": 0, "max_tokens": 8, **changes})
    return engine.generate([prompt], params)[0].text


def prompt_of(engine: FakeEngine, index: int = -1) -> str:
    """What the model was given, with its special tokens."""
    return str(engine.engine.tokenizer.decode(engine.requests[index][0], skip_special_tokens=False))


def chat_text(tokenizer: Tokenizer, *turns: tuple[str, str]) -> str:
    ids = render_chat(tokenizer, [{"role": role, "content": content} for role, content in turns])
    return tokenizer.decode(ids, skip_special_tokens=False)


def test_chats_say_what_the_engine_says(real: tuple[Home, Engine], tokenizer: Tokenizer) -> None:
    llm, engine = real
    prompt = render_chat(
        tokenizer, [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi 你好"}]
    )
    expected = said(engine, prompt)
    assert llm.says("-m", "chat", "Hi 你好", "-s", "Be brief.", *GREEDY, "--no-stream") == expected
    code, out, err = llm("-m", "chat", "-s", "Be brief.", *GREEDY, "--usage", typed="Hi 你好")
    assert (code, out.removesuffix("\n")) == (0, expected)
    assert f"{len(prompt)} input, 8 output" in err


def test_completions_say_what_the_engine_says(real: tuple[Home, Engine], tokenizer: Tokenizer) -> None:
    llm, engine = real
    expected = said(engine, tokenizer.encode("Once upon a time"))
    assert llm.says("-m", "text", "Once upon a time", *GREEDY, "--no-stream") == expected
    assert llm.says("-m", "text", "Once upon a time", *GREEDY, "-o", "logprobs", "2") == expected
    logged = json.loads(llm.says("logs", "-n", "1", "--json"))[0]["response_json"]
    assert sum(len(entry["top_logprobs"]) for entry in logged["logprobs"]) == 8
    assert logged["usage"]["completion_tokens"] == 8


def test_answers_hold_a_schema(real: tuple[Home, Engine], tokenizer: Tokenizer) -> None:
    pytest.importorskip("llguidance")
    llm, engine = real
    # JSON may have white space without end, and an untrained model likes it.
    spaces = {id: -100.0 for id in range(tokenizer.vocab_size) if set(" \t\r\n") & set(tokenizer.decode([id]))}
    schema = json.dumps({"type": "object", "properties": {"c": {"enum": ["red", "green"]}}, "required": ["c"],
                         "additionalProperties": False})  # fmt: skip
    options = ("-o", "temperature", "0", "-o", "max_tokens", "60", "-o", "logit_bias", json.dumps(spaces))
    out = llm.says("-m", "chat", "A colour?", "--schema", schema, *options)
    assert json.loads(out)["c"] in ("red", "green")
    prompt = render_chat(tokenizer, [{"role": "user", "content": "A colour?"}])
    grammar = Grammar("json_schema", schema)
    assert out == said(engine, prompt, max_tokens=60, logit_bias=spaces, grammar=grammar)


def test_a_conversation_goes_on(fake: Home, engine: FakeEngine, tokenizer: Tokenizer) -> None:
    engine.answer = "Hello!"
    assert fake.says("-m", "chat", "One", "-s", "Be brief.") == "Hello!"
    engine.answer = "Again."
    assert fake.says("-c", "Two") == "Again."
    turns = [("system", "Be brief."), ("user", "One"), ("assistant", "Hello!"), ("user", "Two")]
    assert prompt_of(engine) == chat_text(tokenizer, *turns)


def test_options_arrive(fake: Home, engine: FakeEngine) -> None:
    options = {"temperature": 0.5, "max_tokens": 3, "top_p": 0.9, "seed": 7, "stop": "!", "presence_penalty": 0.25}
    words = [word for name, value in options.items() for word in ("-o", name, str(value))]
    fake.says("-m", "chat", "Hi", *words)
    params = engine.requests[-1][1]
    assert {name: getattr(params, name) for name in options} == {**options, "stop": ("!",)}


def test_functions_are_called(fake: Home, engine: FakeEngine, tokenizer: Tokenizer) -> None:
    def answer(prompt: list[int], params: SamplingParams, index: int) -> str:
        if "<tool_response>" in tokenizer.decode(prompt):
            return "It is 42."
        return '<tool_call>{"name": "add", "arguments": {"a": 17, "b": 25}}</tool_call>'

    engine.answer = answer
    add = 'def add(a: int, b: int) -> int:\n    "Sum"\n    return a + b\n'
    for how in ((), ("--no-stream",)):
        engine.requests.clear()
        assert fake.says("-m", "chat", "17 + 25?", "--functions", add, *how).splitlines()[-1] == "It is 42."
        assert '"description": "Sum"' in prompt_of(engine, 0)
        assert "<tool_response>42</tool_response>" in prompt_of(engine)


def test_text_comes_as_it_is_made_and_ctrl_c_ends_it(fake: Home, engine: FakeEngine) -> None:
    engine.answer, engine.delay = "word " * 200, 0.05
    with fake.start("-m", "chat", "Hi") as running:
        assert running.stdout is not None
        assert running.stdout.read(4) == b"word"
        assert len(engine.open) == 1
        running.send_signal(signal.SIGINT)
        running.wait(10)
    assert eventually(lambda: engine.aborted == 1 and not engine.open)


@pytest.mark.parametrize(
    ("words", "typed", "message"),
    [
        (("-m", "unknown", "Hi"), "", f"the model 'another' does not exist here; there is '{MODEL}'"),
        (("-m", "chat"), "word " * CONTEXT, f"tokens, at most {CONTEXT - 1} fit"),
        (("-m", "text", "--no-stream"), "word " * CONTEXT, f"tokens, at most {CONTEXT - 1} fit"),
        (("-m", "chat", "Hi", "-o", "max_tokens", "99999"), "", "max_tokens: 99999 tokens, at most 32768 are allowed"),
        (("-m", "chat", "Hi", "--at", "https://a.example/b.png", "image/png"), "", "this model reads text only"),
    ],
)
def test_errors_are_one_line(real: tuple[Home, Engine], words: tuple[str, ...], typed: str, message: str) -> None:
    code, out, err = real[0](*words, typed=typed)
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1, err
    assert err.startswith("Error: Error code: 40")
    assert message in err


def test_a_key_is_asked_for(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with serving(FakeEngine(tokenizer), api_keys=(KEY,)) as address:
        llm = Home(tmp_path / "llm", address)
        code, _, err = llm("-m", "chat", "Hi")
        assert code == 1
        assert err.startswith("Error: Error code: 401 - ")
        assert len(err.splitlines()) == 1
        llm.says("keys", "set", "kaiyuan", "--value", KEY)
        assert llm.says("-m", "keyed", "Hi") == "Hello, world!"

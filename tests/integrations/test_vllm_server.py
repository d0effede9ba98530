"""``vllm serve FOLDER`` as a user starts it, asked by OpenAI's own client: the answers are those of our engine."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
from vllm_models import LARGE, random_model
from vllm_process import DEFAULTS

import kaiyuan
from kaiyuan.tokenizer import Tokenizer, load_tokenizer, render_chat, train_tokenizer

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (make test-vllm)"),
]
OPTIONS = (
    "--served-model-name", "tiny", "--dtype", "float32", "--max-model-len", "256", "--enforce-eager",
    "--kv-cache-memory-bytes", "64M",
)  # fmt: skip
ASK: list[Any] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where is the cat? 猫在哪里？"},
]
GREEDY = kaiyuan.SamplingParams(temperature=0, max_tokens=16, logprobs=2)


def command(folder: Path) -> list[str]:
    """The console command, or what it runs where the package has another name and it refuses to."""
    try:
        version("vllm")
    except PackageNotFoundError:
        return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    return [str(Path(sys.executable).with_name("vllm")), "serve", str(folder)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [f"The cat number {i} is on the mat in room {i * 7}. 猫在垫子上。" for i in range(200)]
    tokenizer = train_tokenizer(texts, 300)
    folder = tmp_path_factory.mktemp("served")
    kaiyuan.save_model(random_model(LARGE.replace(vocab_size=tokenizer.vocab_size)), folder)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    log = folder / "log"
    where = ["--host", "127.0.0.1", "--port", str(port)]
    environment = {**DEFAULTS, **os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command(folder), *where, *OPTIONS], stdout=output, stderr=output, env=environment, start_new_session=True
        )
    try:
        end = time.monotonic() + 300
        while not answers(f"{address}/health"):
            assert process.poll() is None and time.monotonic() < end, log.read_text(errors="replace")[-3000:]
            time.sleep(0.5)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="module")
def client(server: str) -> Any:
    from openai import OpenAI

    return OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(folder)


def whole(text: str) -> str:
    """vLLM leaves out a character that is not finished when the answer ends; we show that there is one."""
    return text.rstrip("\N{REPLACEMENT CHARACTER}")


def test_completions_are_those_of_our_engine(client: Any, folder: Path) -> None:
    prompts = ["The cat", "猫在垫子上。The mat is"]
    expected = kaiyuan.Engine(folder).generate(prompts, GREEDY)
    reply = client.completions.create(model="tiny", prompt=prompts, temperature=0, max_tokens=16, logprobs=2)
    assert [choice.text for choice in reply.choices] == [whole(ours.text) for ours in expected]
    for ours, choice in zip(expected, reply.choices, strict=True):
        assert choice.logprobs.token_logprobs == pytest.approx(ours.logprobs, abs=2e-4)


def test_a_streamed_chat_is_that_of_our_engine(client: Any, folder: Path, tokenizer: Tokenizer) -> None:
    prompt = render_chat(tokenizer, ASK)
    (ours,) = kaiyuan.Engine(folder).generate([prompt], GREEDY)
    stream = client.chat.completions.create(
        model="tiny", messages=ASK, temperature=0, max_tokens=16, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = stream
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole(ours.text)
    assert chunks[-1].choices[0].finish_reason == ours.finish_reason
    assert last.usage.prompt_tokens == len(prompt)


def test_the_folders_chat_template_gives_our_prompt(server: str, tokenizer: Tokenizer) -> None:
    body = json.dumps({"messages": ASK}).encode()
    request = urllib.request.Request(f"{server}/tokenize", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as reply:
        assert json.load(reply)["tokens"] == render_chat(tokenizer, ASK)

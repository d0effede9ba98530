"""The client and the pipeline against the project's own server, with a tiny model that talks nonsense."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_folder
from grading import checked, judges, solved
from live_server import MODEL, serving
from llm_config import config, write_seeds
from tokenizer_texts import training_texts

from kaiyuan.curation import asking
from kaiyuan.curation.critique import Critique
from kaiyuan.curation.judges import Judges
from kaiyuan.curation.sample import Sample
from kaiyuan.files import read_jsonl
from kaiyuan.inference import Engine
from kaiyuan.inference.async_engine import AsyncEngine
from kaiyuan.synthesis.llm import schemas
from kaiyuan.synthesis.llm.client import Asker
from kaiyuan.synthesis.llm.config import SynthesisConfig
from kaiyuan.synthesis.llm.journal import Journal
from kaiyuan.synthesis.llm.meter import Meter
from kaiyuan.synthesis.llm.run import synthesize
from kaiyuan.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_folder, "CONTEXT", 4096)
        folder = tiny_folder.write_tiny_folder(
            tmp_path_factory.mktemp("tiny"), train_tokenizer(training_texts(20), 900)
        )
    with serving(AsyncEngine(Engine(folder))) as address:
        yield f"{address}/v1"


def of_one_model(url: str, folder: Path, **endpoint: Any) -> SynthesisConfig:
    """Every role played by the one model there is, which no config may ask for."""
    made = config(url, write_seeds(folder / "seeds.jsonl", 4), endpoint={"timeout": 60.0, **endpoint})
    endpoints = {name: item.model_copy(update={"model": MODEL}) for name, item in made.endpoints.items()}
    return made.model_copy(update={"endpoints": endpoints})


def test_answers_usage_seeds_and_schemas(url: str, tmp_path: Path) -> None:
    made = of_one_model(url, tmp_path, max_tokens=200, structured="json_schema")
    question = [{"role": "user", "content": "Is this clear?"}]
    meter = Meter()

    async def run() -> tuple[list[str], str]:
        with Journal(tmp_path / "journal.jsonl") as journal:
            async with Asker(made, journal, meter) as asker:
                free = [(await asker.ask("responders.default", question, sample)).text for sample in (0, 1, 0)]
                held = await asker.ask("judge", question, 0, schemas.label(["logic/puzzles", "writing/stories"]))
                return free, held.text

    free, held = asyncio.run(run())
    assert free[0] == free[2] != free[1], "samples differ by their seed"
    usage = meter.roles["responders.default"]
    assert usage.calls == 2 and usage.tokens_in > 10 and 0 < usage.tokens_out <= 400 and not usage.failures
    if held.rstrip().endswith("}"):  # a model of noise may fill its 200 tokens with a string
        assert json.loads(held)["topic"] in ("logic/puzzles", "writing/stories")
    assert held.lstrip().startswith("{")


def test_the_pipeline_survives_a_model_of_noise(url: str, tmp_path: Path) -> None:
    made = of_one_model(url, tmp_path, max_tokens=16)
    report = synthesize(made, tmp_path / "out")
    failed = list(read_jsonl(tmp_path / "out/failed.jsonl"))
    assert report["sft_samples"] == 0 and len(failed) == 4
    assert all("unreadable answer" in row["reason"] for row in failed)
    assert report["usage"]["instructor"]["calls"] >= 4


def test_critiques_of_a_model_of_noise_are_isolated(url: str, tmp_path: Path) -> None:
    made = Judges.model_validate(judges(url, endpoint={"timeout": 60.0, "max_tokens": 16, "structured": "json_schema"}))
    endpoints = {name: item.model_copy(update={"model": MODEL}) for name, item in made.endpoints.items()}
    samples = [*solved(3), *solved(4, author=MODEL)[3:]]
    folder = checked(tmp_path, samples)

    def items() -> Iterator[Sample]:
        return iter(samples)

    outcome, _ = asking.run(Critique(made.model_copy(update={"endpoints": endpoints})), folder, items)
    assert outcome.isolated == {
        "unreadable answer: cut off at max_tokens (2 samples)": 3, f"written by {MODEL}; no critic is left": 1,
    }  # fmt: skip
    assert outcome.meter.roles["critics.0"].calls == 6

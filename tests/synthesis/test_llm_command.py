"""The command, from a config to a model that was fine-tuned on what it made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_models import FakeModels, Rates, listening
from llm_config import as_toml, values, write_seeds
from typer.testing import CliRunner

from kaiyuan.cli import app
from kaiyuan.errors import DataError
from kaiyuan.files import read_json, read_jsonl
from kaiyuan.recipe import load_recipe
from kaiyuan.run import execute
from kaiyuan.synthesis.stage import further_samples
from tiny_run import write_recipe


def command(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["synthesize-llm", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.slow
def test_what_the_command_makes_is_what_sft_trains_on(tmp_path: Path) -> None:
    models, out = FakeModels(Rates(wrong=0.2)), tmp_path / "llm"
    path = tmp_path / "synthesis.toml"
    with listening(models) as url:
        path.write_text(as_toml(values(url, write_seeds(tmp_path / "seeds.jsonl", 12))))
        assert "instructor" in command(str(path), "--dry-run") and not models.served
        made = command(str(path), "--out", str(out))
    rows = list(read_jsonl(out / "sft.jsonl"))
    assert len(rows) > 10 and made.startswith(f"{len(rows)} samples and ")
    recipe, run = write_recipe(tmp_path), tmp_path / "run"
    changes = [f"synthesis.files={json.dumps([str(out / 'sft.jsonl')])}", "synthesis.samples=60",
               "synthesis.preferences=20", "pretrain.tokens=2000", "sft.sequence_length=512"]  # fmt: skip
    for stage in ("corpus", "tokenizer", "synthesis", "pretrain", "extend", "sft"):
        execute(load_recipe(recipe, changes), run, only=stage)
    samples = list(read_jsonl(run / "synthesis/sft.jsonl"))
    kept = {row["key"]: row["messages"] for row in samples if row["key"].startswith("llm:")}
    assert kept == {row["key"]: row["messages"] for row in rows}
    assert read_json(run / "synthesis/report.json")["samples_of_files"] == len(rows)
    assert len(samples) == 60 + 10 + len(rows)
    steps = [row["loss"] for row in read_jsonl(run / "sft/metrics.jsonl") if "loss" in row]
    assert steps and (run / "sft/model/model.safetensors").exists()


def test_samples_of_others_are_checked(tmp_path: Path) -> None:
    turn = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
    path = tmp_path / "chat.jsonl"
    good = [turn, [{"role": "system", "content": "Be brief."}, *turn, *turn]]
    path.write_text("\n".join(json.dumps({"messages": messages, "more": 1}) for messages in good))
    assert [row["messages"] for row in further_samples(path)] == good
    answers = [{"role": "assistant", "content": text} for text in ("", 7)]
    for bad in ([], turn[:1], turn[1:], [turn[0], turn[0]], [turn[0], answers[0]], [turn[0], answers[1]], "Hi", [[]]):
        path.write_text(json.dumps({"messages": turn}) + "\n" + json.dumps({"messages": bad}))
        with pytest.raises(DataError, match=r"chat\.jsonl: row 2: messages must be"):
            list(further_samples(path))
    path.write_text('{"text": "no chat"}\n')
    with pytest.raises(DataError, match="row 1"):
        list(further_samples(path))

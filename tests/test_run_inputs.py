"""A finished stage is due again when a file that it reads has changed, and not when it has only been moved in time."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kaiyuan.errors import KaiyuanError
from kaiyuan.files import read_jsonl, write_json
from kaiyuan.recipe import load_recipe
from kaiyuan.run import Stage, execute
from tiny_run import write_recipe


def samples(path: Path, answer: str) -> Path:
    messages = [{"role": "user", "content": "Where is the mill?"}, {"role": "assistant", "content": answer}]
    path.write_text(json.dumps({"messages": messages}) + "\n")
    os.utime(path, (1, 1))  # the same size at the same time: only the content is another
    return path


def test_other_content_of_a_file_makes_the_stages_that_read_it_due(tmp_path: Path) -> None:
    path, run = write_recipe(tmp_path), tmp_path / "run"
    chat, exam = samples(tmp_path / "chat.jsonl", "At the river."), tmp_path / "exam.txt"
    exam.write_text("How many millers does it take to grind a stone of flour in one long day?")
    recipe = load_recipe(path, [f"synthesis.files=['{chat}']", f"corpus.decontaminate=['{exam}']"])
    for _ in range(2):
        execute(recipe, run, only="corpus")
        execute(recipe, run, only="synthesis")
    first = (run / "synthesis" / "manifest.json").stat().st_mtime_ns
    samples(chat, "In the woods.")
    execute(recipe, run, only="corpus")
    with pytest.raises(KaiyuanError, match=r"made from has changed \(.*chat\.jsonl\)"):
        execute(recipe, run, only="synthesis")
    assert (run / "synthesis" / "manifest.json").stat().st_mtime_ns == first
    execute(recipe, run, only="synthesis", overwrite=True)
    said = [row["messages"][1]["content"] for row in read_jsonl(run / "synthesis" / "sft.jsonl")]
    assert "In the woods." in said and "At the river." not in said
    exam.write_text("Who was the miller?")
    with pytest.raises(KaiyuanError, match=r"changed \(.*exam\.txt\)"):
        execute(recipe, run, only="corpus")


def test_sources_that_change_are_read_again_and_those_that_are_gone_are_not_missed(tmp_path: Path) -> None:
    path, run, text = write_recipe(tmp_path), tmp_path / "run", tmp_path / "text.jsonl"
    source = f'corpus.files=[{{path="{text}", identity="content"}}]'
    recipe = load_recipe(path, [source])
    execute(recipe, run, only="corpus")
    os.utime(text, (1, 1))
    execute(recipe, run, only="corpus")
    lines = text.read_text().splitlines()
    text.write_text("\n".join(lines[1:]) + "\n")
    with pytest.raises(KaiyuanError, match=r"changed \(.*text\.jsonl\)"):
        execute(recipe, run, only="corpus")
    execute(recipe, run, only="corpus", overwrite=True)
    assert json.loads((run / "corpus" / "report.json").read_text())["documents"]["read"] == len(lines) - 1
    text.unlink()
    execute(recipe, run, only="corpus")


def test_what_the_run_is_evaluated_with_makes_the_corpus_due_that_must_not_hold_it(tmp_path: Path) -> None:
    path, run = write_recipe(tmp_path), tmp_path / "run"
    own = ["corpus.decontaminate=['problems', 'prompts']", "corpus.statements=0"]
    execute(load_recipe(path, own), run, only="corpus")
    harmless = ("synthesis.samples=160", "synthesis.recall_samples=5", "evaluation.max_tokens=7")
    execute(load_recipe(path, [*own, *harmless]), run, only="corpus")
    for change, what in (
        ("synthesis.held_out=31", "problems"),
        ("synthesis.kinds=['addition', 'sorting']", "problems"),
        ("evaluation.prompts=['Who was the miller?']", "prompts"),
    ):
        with pytest.raises(KaiyuanError, match=rf"made from has changed \({what} of the evaluation\)"):
            execute(load_recipe(path, [*own, change]), run, only="corpus")


def test_the_share_of_facts_held_out_matters_to_a_corpus_with_statements_alone(tmp_path: Path) -> None:
    path, run, other = write_recipe(tmp_path), tmp_path / "run", "synthesis.held_out_share=0.3"
    execute(load_recipe(path), run, only="corpus")
    with pytest.raises(KaiyuanError, match=r"changed \(synthesis\.held_out_share\)"):
        execute(load_recipe(path, [other]), run, only="corpus")
    execute(load_recipe(path, ["corpus.statements=0"]), run, only="corpus", overwrite=True)
    execute(load_recipe(path, ["corpus.statements=0", other]), run, only="corpus")


def test_a_tokenizer_to_take_over_is_known_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    for name in ("tokenizer.json", "qwen.tiktoken", "model.safetensors"):
        (tmp_path / "tokenizer" / name).write_text("")
    recipe = load_recipe(write_recipe(tmp_path), [f"tokenizer.path='{tmp_path / 'tokenizer'}'"])
    assert [path.name for path in recipe.files(["tokenizer"])] == ["qwen.tiktoken", "tokenizer.json"]


def test_a_mixture_may_change_while_a_run_is_stopped_and_makes_it_due_when_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixture, run = tmp_path / "mixture.toml", tmp_path / "run"
    mixture.write_text("web = 1.0\n")
    recipe = load_recipe(write_recipe(tmp_path), [f"pretrain.mixture_file='{mixture}'"])
    write_json(run / "tokenizer" / "manifest.json", {"fingerprint": "x"})
    interrupted = iter((True, False, False))

    def work(context):  # type: ignore[no-untyped-def]
        kept = context.folder / "kept"
        kept.write_text(f"{kept.read_text() if kept.exists() else ''}{mixture.read_text()}")
        if next(interrupted):
            raise KeyboardInterrupt
        return {}

    monkeypatch.setattr(Stage, "load", lambda self: work)
    with pytest.raises(KeyboardInterrupt):
        execute(recipe, run, only="pretrain")
    mixture.write_text("web = 2.0\n")
    for _ in range(2):
        execute(recipe, run, only="pretrain")
    assert (run / "pretrain" / "kept").read_text() == "web = 1.0\nweb = 2.0\n"
    mixture.write_text("web = 3.0\n")
    with pytest.raises(KaiyuanError, match=r"changed \(.*mixture\.toml\)"):
        execute(recipe, run, only="pretrain")

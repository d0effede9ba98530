from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from held_out_texts import CHINESE, ENGLISH

from kaiyuan.checkpoint import save_model
from kaiyuan.evaluation import stage as evaluation_stage
from kaiyuan.evaluation.stage import run, within
from kaiyuan.evaluation.suite import Suite, evaluate_model
from kaiyuan.files import read_json, write_jsonl
from kaiyuan.model.transformer import Transformer
from kaiyuan.recipe import Recipe
from kaiyuan.run import StageContext, stage
from kaiyuan.synthesis.problems import generate_problems
from kaiyuan.tokenizer import Tokenizer

DOCUMENTS = [{"id": str(number), "text": text, "language": language, "label": "books", "source": "s", "title": ""}
             for number, (text, language) in enumerate([(ENGLISH, "en"), (CHINESE, "zh")])]  # fmt: skip


@pytest.fixture
def context(tmp_path: Path, model: Transformer, tokenizer: Tokenizer) -> StageContext:
    """A run with a corpus, held-out problems and three models, of which two can be chatted with."""
    for name in ("train", "heldout"):
        write_jsonl(tmp_path / "corpus" / f"{name}.jsonl", DOCUMENTS)
    write_jsonl(tmp_path / "synthesis" / "heldout.jsonl", map(asdict, generate_problems(12, seed=1)))
    for name in ("pretrain", "sft", "dpo"):
        save_model(model, tmp_path / name / "model")
        tokenizer.save(tmp_path / name / "model")
    recipe = Recipe.model_validate({
        "run": {"name": "test"},
        "evaluation": {"context": 64, "max_tokens": 4, "needle_lengths": [128, 512], "needle_depths": [0.0, 1.0],
                       "needle_samples": 1, "prompts": ["Hello?", "你好？"]},
    })  # fmt: skip
    folder = tmp_path / "evaluation.partial"
    folder.mkdir()
    return StageContext(recipe, tmp_path, folder, stage("evaluation"))


def test_every_checkpoint_is_measured(context: StageContext) -> None:
    report = run(context)
    results = read_json(context.folder / "results.json")
    assert set(results) == {"compression", "stages"}
    assert set(results["stages"]) == set(report["stages"]) == {"pretrain", "sft", "dpo"}
    assert {language: row["bytes"] for language, row in results["compression"].items()} == {
        "en": len(ENGLISH), "zh": len(CHINESE.encode("utf-8")),
    }  # fmt: skip
    for name, result in results["stages"].items():
        assert set(result["bits_per_byte"]) == {"en", "zh"}
        assert result["tasks"]["count"] == len(result["tasks"]["answers"]) == 12
        assert [row["prompt"] for row in result["samples"]] == ["Hello?", "你好？"]
        assert result["form"] == ("plain" if name == "pretrain" else "chat")
        needle = result["needle"]
        if name == "sft":
            assert needle is None, "the needle test is for base models and the last one"
            continue
        assert needle["accuracy"][1] == [None, None], "512 tokens are more than this model's context"
        assert needle["count"] == 2
    assert [path.name for path in context.folder.iterdir()] == ["results.json"]


def test_an_interrupted_evaluation_goes_on_and_ends_the_same(
    context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(context), (context.folder / "results.json").read_text(encoding="utf-8")
    (context.folder / "results.json").unlink()
    measured, calls = evaluation_stage.evaluate_model, []

    def failing(model: Path, *arguments: object, **more: object) -> object:
        calls.append(model.parent.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measured(model, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluation_stage, "evaluate_model", failing)
    with pytest.raises(KeyboardInterrupt):
        run(context)
    assert (run(context), (context.folder / "results.json").read_text(encoding="utf-8")) == whole
    assert calls == ["pretrain", "sft", "sft", "dpo"]


def test_a_model_in_memory_gives_what_its_folder_gives(
    context: StageContext, model: Transformer, tokenizer: Tokenizer
) -> None:
    suite = Suite(DOCUMENTS, generate_problems(5, seed=2), context=32, max_tokens=4)
    found = evaluate_model(model, suite, tokenizer)
    expected = evaluate_model(context.run / "sft" / "model", suite)
    mine, theirs = leaves(found), leaves(expected)
    assert list(mine) == list(theirs)
    for place, value in mine.items():  # where weights lie in memory may change the last bit of a product
        assert value == (pytest.approx(theirs[place], rel=1e-5) if isinstance(value, float) else theirs[place]), place
    assert found["needle"] is None


def leaves(value: Any, place: str = "") -> dict[str, Any]:
    """Every number, text and None of nested dicts and lists, by where it stands."""
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: leaf for name, item in inner for key, leaf in leaves(item, f"{place}/{name}").items()}
    return {place: value}


def test_a_context_beyond_the_models_own_is_cut(model: Transformer, tokenizer: Tokenizer) -> None:
    rates = [
        evaluate_model(model, Suite(DOCUMENTS, [], context=context), tokenizer)["bits_per_byte"]
        for context in (256, 4096)
    ]
    assert rates[0] == rates[1]


def test_held_out_text_is_limited_by_language() -> None:
    rows = [{"text": "x" * size, "language": language}
            for size, language in ((90, "en"), (20, "en"), (10, "en"), (300, "zh"), (5, "zh"))]  # fmt: skip
    assert [len(row["text"]) for row in within(rows, 100)] == [90, 10, 300]

"""A dry run: what would go, by filter and language, with examples; and nothing written."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import pytest
from rich.console import Console
from test_pipeline import chinese, english

from kaiyuan.cli import main
from kaiyuan.corpus.dry_run import dry_run, sampled
from kaiyuan.corpus.sources import Source
from kaiyuan.corpus.work import plan
from kaiyuan.recipe import load_recipe

RECIPE = """
[run]
name = "test"
[corpus]
demo = false
workers = 1
files = ["{folder}/in"]
decontaminate = ["{folder}/exam.txt"]
[corpus.rules]
web = ["c4"]
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    rng = random.Random(3)
    question = "Which of the twelve bridges of the old town was built before the mill burned down in the great fire?"
    texts = [english(rng) for _ in range(20)] + [chinese(rng) for _ in range(20)]
    texts += [
        texts[0] + " The end.",
        english(rng) + " {x}",
        f"{english(rng)} {question}",
        "Kurz.",
        chinese(rng)[:30] * 30,
    ]
    (tmp_path / "in").mkdir()
    for number in range(3):
        rows = [json.dumps({"text": text}) for text in texts[number::3]]
        (tmp_path / "in" / f"{number}.jsonl").write_text("\n".join(rows))
    (tmp_path / "exam.txt").write_text(question)
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(folder=tmp_path))
    return path


def shown(path: Path, **options: int) -> str:
    console = Console(file=io.StringIO(), width=100, highlight=False)
    dry_run(load_recipe(path), console=console, **options)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_what_goes_is_shown_by_filter_and_language_with_examples(recipe: Path) -> None:
    before = sorted(recipe.parent.rglob("*"))
    text = shown(recipe)
    cells = {row[0]: row[1:] for line in text.splitlines() if (row := [cell.strip() for cell in line.split("│")[1:-1]])}
    assert cells["contamination"][:2] == ["1", "2.2%"]
    assert cells["near-duplicate"][0] == cells["c4.curly_bracket"][0] == "1"
    assert cells["language"][0] == cells["repeated lines"][0] == "1"
    assert "100% of" in text
    assert "#0" in text
    assert "1.jsonl" in text
    assert "45 documents looked at, 40 would stay (88.9%); nothing was written" in text
    assert sorted(recipe.parent.rglob("*")) == before


def test_the_command(recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recipe.parent)
    with pytest.raises(SystemExit) as ended:
        main(["corpus", str(recipe), "--dry-run", "--sample", "20", "--examples", "0"])
    assert ended.value.code == 0
    assert "documents looked at" in capsys.readouterr().out
    assert not (recipe.parent / "runs").exists()


def test_a_sample_is_of_every_source_and_of_all_its_parts(recipe: Path) -> None:
    source = Source(path=str(recipe.parent / "in"))
    other = Source(path=str(recipe.parent / "in" / "0.jsonl"), limit=1)
    units = sampled(plan([source, other], unit_bytes=500), 32)
    assert len({unit.origin for unit in units}) == len(units)
    mine = [unit for unit in units if unit.source.limit == 1]
    assert len(units) > len(mine) >= 4
    assert sum(unit.source.limit for unit in units) <= 40
    names = {part.name for unit in units for part in unit.parts}
    assert names == {"0.jsonl", "1.jsonl", "2.jsonl"}

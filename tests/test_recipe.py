"""Recipes: strict, all problems at once, changes on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from kaiyuan.errors import ConfigError
from kaiyuan.recipe import load_recipe
from tiny_run import write_recipe

RECIPES = Path(__file__).parent.parent / "recipes"


@pytest.mark.parametrize("name", ["demo.toml", "h100.toml", "large.toml"])
def test_shipped_recipes_load(name: str) -> None:
    recipe = load_recipe(RECIPES / name)
    assert recipe.pretrain is not None
    assert sum(recipe.pretrain.mixture.values()) == pytest.approx(1.0)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    text = (
        recipe.read_text()
        .replace("lr = 0.003", "lr = -1.0\nlearning_rate = 2")
        .replace("samples = 150", 'samples = "x"')
    )
    recipe.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(recipe)
    message = str(caught.value)
    assert str(recipe) in message
    for problem in ("pretrain.lr: -1.0", "pretrain.learning_rate: no such setting", "synthesis.samples: 'x'"):
        assert problem in message


def test_changes_on_the_command_line(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path), ["pretrain.lr=0.5", "run.name=other", "corpus.languages=['zh']"])
    assert recipe.pretrain is not None and recipe.pretrain.lr == 0.5
    assert recipe.run.name == "other"
    assert recipe.corpus.languages == ["zh"]


@pytest.mark.parametrize("change", ["pretrain.lr", "lr=1", "pretrain.=1", "run.name.more=1"])
def test_malformed_changes_are_explained(tmp_path: Path, change: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        load_recipe(write_recipe(tmp_path), [change])


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_recipe(tmp_path / "absent.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[run\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_recipe(broken)


def test_the_model_of_a_recipe_is_checked_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="num_kv_heads"):
        load_recipe(write_recipe(tmp_path), ["model.overrides.num_kv_heads=5"])

"""Configs that are refused, the library of prompts, seeds, and the dry run."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fake_models import FakeModels, listening
from llm_config import as_toml, config, values, write_seeds
from pydantic import ValidationError

from kaiyuan.errors import ConfigError, DataError
from kaiyuan.synthesis.llm.command import synthesize_llm
from kaiyuan.synthesis.llm.config import Seeds, load_config, model_identity
from kaiyuan.synthesis.llm.evolve import Coverage, expansions, thin_topics
from kaiyuan.synthesis.llm.instruct import tasks
from kaiyuan.synthesis.llm.library import fill, load_library
from kaiyuan.synthesis.llm.rows import Row
from kaiyuan.synthesis.llm.seeds import read_seeds

URL = "http://127.0.0.1:9/v1"


def written(tmp_path: Path, made: dict[str, Any]) -> Path:
    path = tmp_path / "synthesis.toml"
    path.write_text(as_toml(made), encoding="utf-8")
    return path


def test_a_config_is_read_and_its_paths_are_beside_it(tmp_path: Path) -> None:
    write_seeds(tmp_path / "seeds.jsonl", 2)
    made = load_config(written(tmp_path, {**values(URL, Path("seeds.jsonl")), "run": {"name": "x"}}))
    assert made.seeds[0].path == str(tmp_path / "seeds.jsonl")
    assert made.endpoints["critic"].price_out == 2.0


@pytest.mark.parametrize("model", ["solver", "Solver", "some-lab/solver", "solver:free"])
@pytest.mark.parametrize("role", ["critic", "judge"])
def test_no_model_judges_itself(tmp_path: Path, model: str, role: str) -> None:
    made = values(URL, Path("seeds.jsonl"))
    made["endpoints"][role]["model"] = model
    with pytest.raises(ConfigError, match=rf"roles.{role}: {model} also answers as roles.responders.default"):
        load_config(written(tmp_path, made))


def test_names_of_models() -> None:
    assert model_identity("Qwen/Qwen2.5-72B-Instruct") == model_identity("qwen2.5-72b-instruct:free")
    assert model_identity("qwen2.5-72b") != model_identity("qwen2.5-7b")


def test_all_problems_are_told_and_no_secret_among_them(tmp_path: Path) -> None:
    made = values(URL, Path("seeds.jsonl"), filters={"min_score": 5})
    made["roles"]["critic"]["endpoint"] = "nobody"
    made["endpoints"]["judge"] |= {"api_key_env": "sk-secret-1", "base_url": "http://me:sk-secret-2@host/v1"}
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, made))
    text = str(caught.value)
    assert "min_score" in text and "name of an environment variable" in text and "no user, password" in text
    assert "secret" not in text
    del made["endpoints"]["judge"], made["filters"]
    with pytest.raises(ConfigError, match=r"there is no endpoints.nobody"):
        load_config(written(tmp_path, made))


def test_unknown_topics_and_missing_files_are_told(tmp_path: Path) -> None:
    made = config(URL, tmp_path, instructions={"domains": ["alchemy"]}, evolution={"expand_topics": ["logic/tarot"]})
    with pytest.raises(ConfigError, match=r"'alchemy' is no topic[^$]*'logic/tarot' is no topic"):
        load_library(made)
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(DataError, match="no such file"):
        read_seeds([Seeds(path=str(tmp_path / "none.jsonl"), source="qa")], ["en"])
    with pytest.raises(ValidationError, match=r"responders\.default: missing"):
        config(URL, tmp_path, roles={"responders": {}})


def test_the_library_is_broad_and_in_both_languages(tmp_path: Path) -> None:
    library = load_library(config(URL, tmp_path))
    assert len(library.templates) >= 40 and len(library.topics) >= 40
    assert {template.domain for template in library.templates} == {topic.partition("/")[0] for topic in library.topics}
    sources = Counter(source for template in library.templates for source in template.sources)
    assert set(sources) == {"document", "qa", "code", "book"} and min(sources.values()) >= 10
    bilingual = [template.texts for template in library.templates] + [topic.names for topic in library.topics.values()]
    for texts in bilingual:
        assert set(texts) == {"en", "zh"} and texts["en"].isascii() and not texts["zh"].isascii()
    for name in ("generate", "expand", "clarity", "difficulty", "label", "tests", "critique"):
        assert set(library.prompts[name]) == {"en", "zh"}
    texts_en = [template.texts["en"] for template in library.templates]
    assert len(set(texts_en)) == len(texts_en)


def test_places_are_filled_once() -> None:
    assert fill("{{a}} {{b}}", a="{{b}}", b="{{a}} {b}") == "{{b}} {{a}} {b}"


def test_every_seed_gets_different_templates_that_fit(tmp_path: Path) -> None:
    made = config(URL, write_seeds(tmp_path / "seeds.jsonl", 50), instructions={"calls_per_seed": 3})
    library = load_library(made)
    seeds, _ = read_seeds(made.seeds, ["en"])
    work = list(tasks(made, library, seeds))
    assert len(work) == 150 and len({(task.seed.id, task.template.id) for task in work}) == 150
    assert all("document" in task.template.sources for task in work)
    assert len({task.template.id for task in work}) > 25
    assert [task.template.id for task in tasks(made, library, seeds[::-1])][-3:] == [
        task.template.id for task in work[:3]
    ]
    only = config(URL, tmp_path, instructions={"domains": ["mathematics", "logic/puzzles"]})
    assert {task.template.domain for task in tasks(only, library, seeds)} == {"mathematics", "logic"}


def test_seeds_are_cleaned_counted_and_chosen_by_hash(tmp_path: Path) -> None:
    lines = ['{"text": "one two three four five six"}', "{", '{"text": 3}', '{"text": "short"}', "",
             '{"text": "one two three four five six", "id": 9}',
             '{"text": "这是一段足够长的中文文本。", "answer": "是"}',
             '{"text": "un deux trois quatre cinq", "language": "fr"}',
             '{"text": "a\\u0000b \\ud800 c d e f g", "id": 7}']  # fmt: skip
    path = tmp_path / "seeds.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    seeds, skipped = read_seeds([Seeds(path=str(tmp_path), source="qa")], ["en", "zh"])
    assert [(seed.id, seed.language) for seed in seeds] == [
        ("seeds.jsonl:1", "en"),
        ("seeds.jsonl:7", "zh"),
        ("7", "en"),
    ]
    assert seeds[2].text == "ab ? c d e f g" and seeds[1].answer == "是"
    assert skipped == {"not JSON": 1, "no text": 1, "too short": 1, "language fr": 1, "text occurs twice": 1}
    some = [
        read_seeds([Seeds(path=str(write_seeds(path, count)), source="qa", limit=5)], ["en"])[0] for count in (30, 30)
    ]
    assert some[0] == some[1] and len(some[0]) == 5


def test_thin_topics_are_raised_evenly(tmp_path: Path) -> None:
    made = config(URL, tmp_path, evolution={"expansion": 0.5, "expand_topics": ["logic"]})
    library = load_library(made)
    counts = Counter({("logic/puzzles", "en"): 30, ("logic/causes", "en"): 5, ("mathematics/algebra", "en"): 65})
    wanted = thin_topics(made, library, counts)
    assert sum(wanted.values()) == 50
    after = {
        topic: counts[topic, "en"] + wanted.get((topic, "en"), 0)
        for topic in library.topics
        if topic.startswith("logic")
    }
    assert after.pop("logic/puzzles") == 30 and max(after.values()) - min(after.values()) <= 1
    assert all(language == "en" for _, language in wanted)
    everywhere = thin_topics(config(URL, tmp_path, evolution={"expansion": 0.31}), library, counts)
    assert sum(everywhere.values()) == 31 and set(everywhere.values()) == {1}
    assert thin_topics(config(URL, tmp_path, evolution={"expansion": 0.0}), library, counts) == {}


def test_expansion_shows_what_is_there(tmp_path: Path) -> None:
    made = config(URL, tmp_path, evolution={"expansion": 1.0, "expand_topics": ["logic/puzzles"]})
    library, coverage = load_library(made), Coverage()
    for number in range(6):
        coverage.add(Row(str(number), f"Puzzle number {number}", "en", "logic/puzzles"))
    made_of = list(expansions(made, library, coverage))
    assert len(made_of) == 3
    text = made_of[0].messages(made, library)[0]["content"]
    assert text.count("- Puzzle number") == 4 and "ordering and arrangement puzzles" in text
    assert len({task.messages(made, library)[0]["content"] for task in made_of}) == 3


def test_a_dry_run_sends_nothing_and_writes_nothing(tmp_path: Path) -> None:
    app = FakeModels()
    with listening(app) as url:
        write_seeds(tmp_path / "seeds.jsonl", 20)
        path = written(tmp_path, values(url, Path("seeds.jsonl")))
        text = synthesize_llm(path, tmp_path / "out", dry_run=True)
    assert not app.tries and not (tmp_path / "out").exists()
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line and not line[0].isdigit()}
    assert rows["instructor"][2] == "20" and rows["nothing"]
    costs = [float(rows[name][-2]) for name in ("instructor", "evolver", "judge", "responders.default", "critic")]
    assert sum(costs) == pytest.approx(float(rows["all"][-2]), rel=0.01)
    assert float(rows["all"][-1]) > float(rows["all"][-2]) > 0


def test_a_dry_run_is_near_what_is_then_used(tmp_path: Path) -> None:
    """With nothing refused and answers of the usual size, counts are exact and prompt tokens near."""
    app = FakeModels(kinds=("open",))
    with listening(app) as url:
        write_seeds(tmp_path / "seeds.jsonl", 30)
        made = values(url, Path("seeds.jsonl"), evolution={"expansion": 0, "clarity_share": 0, "difficulty_share": 0},
                      instructions={"domains": ["writing"]})  # fmt: skip
        path = written(tmp_path, made)
        text = synthesize_llm(path, tmp_path / "out", dry_run=True)
        synthesize_llm(path, tmp_path / "out")
    used = json.loads((tmp_path / "out/report.json").read_text())["usage"]
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line}
    for name in ("instructor", "judge", "critic", "responders.default"):
        assert int(lines[name][2]) == used[name]["calls"], name
    assert "journal" not in text and "journal" in synthesize_llm(path, tmp_path / "out", dry_run=True)


def test_the_example_of_the_manual_can_be_used(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "synthesis-llm.md"
    (example,) = re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "first.toml").write_text(example, encoding="utf-8")
    (tmp_path / "seeds").mkdir()
    write_seeds(tmp_path / "seeds/web.jsonl", 20)
    text = synthesize_llm(tmp_path / "first.toml", tmp_path / "out", dry_run=True)
    assert "20 seeds, 20 calls of step 1, 50 templates" in text and "responders.mathematics" in text
    library = load_library(load_config(tmp_path / "first.toml"))
    assert f"{len(library.topics)} topics" in page.read_text(encoding="utf-8")

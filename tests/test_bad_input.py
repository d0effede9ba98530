"""What a new user gets wrong: each mistake is one message that says what, where and what to do, never a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_models import TINY, build

from kaiyuan.checkpoint import save_model
from kaiyuan.cli import main
from tiny_run import write_recipe

DEEP, BYTES = b"[" * 100_000, b'{"messages": "\xff\xfe"}\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe, a model, and damaged files; commands are run in it."""
    monkeypatch.chdir(tmp_path)
    write_recipe(tmp_path)
    save_model(build(TINY), tmp_path / "model")
    save_model(build(TINY), tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"x" * 100)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name, content in (("deep", DEEP), ("bytes", BYTES), ("list", b"[1]\n"), ("none", b"")):
        (tmp_path / f"{name}.jsonl").write_bytes(content)
    (tmp_path / "labels.toml").write_text('[labels]\nfile = "bytes.jsonl"\n')
    (tmp_path / "sweep.toml").write_text('[sweep]\nsizes = ["1z"]\n')
    return tmp_path


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("run none.toml", "none.toml: no such file"),
        ("run empty", "empty: a folder; give a TOML file"),
        ("run tiny.toml --set pretrain.lrr=1", "pretrain.lrr: no such setting"),
        ("run tiny.toml --set model.preset=1z", "tiny.toml: [model]: no preset '1z'; there are: hunyuan-large"),
        ("run tiny.toml --out file", "file: File exists"),
        ("corpus tiny.toml --set corpus.files=['none.jsonl']", "no document is left to train on, of 0"),
        ("corpus tiny.toml --set corpus.decontaminate=['none.jsonl']", "none.jsonl: no items in it"),
        ("corpus tiny.toml --set corpus.decontaminate=['bytes.jsonl']", "bytes.jsonl:1: not UTF-8 text"),
        ("train-scorer labels.toml --out out", "bytes.jsonl:1: not UTF-8 text"),
        ("scale sweep.toml --out out", "sweep: sizes: no preset '1z'"),
        ("curate extract data empty", "empty: no file in this folder can be read"),
        ("curate extract data list.jsonl", "list.jsonl: no candidates in it (left out: no object 1)"),
        ("curate pairs data bytes.jsonl", "bytes.jsonl:1: not UTF-8 text"),
        ("curate pairs data deep.jsonl", "deep.jsonl:1: not valid JSON: nested too deeply"),
        ("curate pairs data list.jsonl", "list.jsonl: no pairs in it (left out: not an object 1)"),
        ("curate check empty", "empty: has no candidates.jsonl; make one with kaiyuan curate extract"),
        ("curate check file", "file"),
        ("review empty", "empty: has no candidates.jsonl"),
        ("report empty", "empty: not a run folder"),
        ("chat none", "none: no such folder"),
        ("chat empty", "empty: neither a model folder (config.json) nor a run folder"),
        ("chat damaged", "model.safetensors: truncated or not a safetensors file"),
        ("serve model --device cudaa", "device 'cudaa': cannot be used"),
        ("convert model file", "file"),
        ("inspect empty", "empty: neither a model folder"),
        ("plan empty", "empty/config.json: no such file"),
    ],
)
def test_a_mistake_is_one_message(folder: Path, line: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    said = [row for row in capsys.readouterr().err.splitlines() if row.startswith(("kaiyuan: ", "  - "))]
    assert ended.value.code == 1
    assert len(said) <= 2 and says in "\n".join(said)


def test_a_slip_does_not_cost_the_candidates_that_are_there(folder: Path) -> None:
    messages = [{"role": "user", "content": "Where is the mill?"}, {"role": "assistant", "content": "At the river."}]
    (folder / "chat.jsonl").write_text(json.dumps({"messages": messages}))
    with pytest.raises(SystemExit):
        main(["curate", "extract", "data", "list.jsonl"])
    assert not (folder / "data" / "candidates.jsonl").exists()
    for source, code in (("chat.jsonl", 0), ("empty", 1)):
        with pytest.raises(SystemExit) as ended:
            main(["curate", "extract", "data", source])
        assert ended.value.code == code
        assert "At the river." in (folder / "data" / "candidates.jsonl").read_text()


@pytest.mark.parametrize(
    "command", ["check", "grade --config judges.toml", "label --config judges.toml", "teach --out y"]
)
def test_a_folder_that_is_not_there_is_not_made(folder: Path, command: str) -> None:
    (folder / "j.toml").write_text(
        '[endpoints.a]\nbase_url = "http://127.0.0.1:9"\nmodel = "m"\n[[critics]]\nendpoint = "a"\n'
        '[labeller]\nendpoint = "a"\n'
    )
    name, *options = command.split()
    with pytest.raises(SystemExit):
        main(["curate", name, "none", *options])
    assert not (folder / "none").exists()


def test_inspect_ends_with_an_error_where_loading_would(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, code in (("model", 0), ("damaged", 1)):
        with pytest.raises(SystemExit) as ended:
            main(["inspect", name])
        assert ended.value.code == code
    assert "problem: model.safetensors" in capsys.readouterr().out


def test_the_folder_of_a_stage_stands_for_its_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "sft").mkdir()
    (folder / "model").rename(folder / "sft" / "model")
    for name in ("sft", "."):
        with pytest.raises(SystemExit) as ended:
            main(["inspect", name])
        assert ended.value.code == 0
    assert capsys.readouterr().out.count("no problems found") == 2


def test_debug_shows_where(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAIYUAN_DEBUG", "1")
    with pytest.raises(FileExistsError):
        main(["run", "tiny.toml", "--out", "file"])

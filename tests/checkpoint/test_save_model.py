"""What is written: the released names, the same bytes every time, and never half a model."""

from __future__ import annotations

import filecmp
import json
from pathlib import Path

import folders
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_models import TINY, build

from kaiyuan.checkpoint import convert, load_model, names, save_model, save_state
from kaiyuan.checkpoint import writer as writer_module
from kaiyuan.errors import CheckpointError, ConfigError
from kaiyuan.model import presets
from kaiyuan.model.config import ModelConfig
from kaiyuan.model.transformer import Transformer


def same_bytes(a: Path, b: Path) -> bool:
    return filecmp.cmp(a, b, shallow=False)


def test_the_golden_folders_come_back_byte_for_byte(golden: Path, tmp_path: Path) -> None:
    save_model(load_model(golden), tmp_path / "again")
    assert same_bytes(tmp_path / "again" / "model.safetensors", golden / "model.safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saving_loading_and_saving_gives_the_same_bytes(dtype: torch.dtype, tmp_path: Path) -> None:
    save_model(build(TINY), tmp_path / "a", dtype=dtype)
    save_model(load_model(tmp_path / "a", dtype=dtype), tmp_path / "b")
    for name in ("model.safetensors", "config.json"):
        assert same_bytes(tmp_path / "a" / name, tmp_path / "b" / name)
    with safe_open(tmp_path / "a" / "model.safetensors", "pt") as handle:
        assert handle.metadata() == {"format": "pt"}


@pytest.mark.parametrize("name", [name for name in presets.names() if name != "hunyuan-large-instruct"])
def test_the_layout_covers_the_model_exactly(name: str) -> None:
    """Every element of every parameter is written once: pieces have the region's shape, and do not overlap."""
    config = ModelConfig.preset(name, num_layers=3) if name != "hunyuan-a13b" else ModelConfig.preset(
        name, num_layers=2, moe_intermediate_size=3072, num_shared_experts=1, top_k=8
    )  # fmt: skip
    with torch.device("meta"):
        state = Transformer(config).state_dict()
    layout = names.layout(config)
    assert set(layout) == set(state)
    for ours, pieces in layout.items():
        assert sum(torch.Size(piece.shape).numel() for piece in pieces) == state[ours].numel(), ours
        assert all(state[ours][piece.index].shape == piece.shape for piece in pieces), ours
        assert len({str(piece.index) for piece in pieces}) == len(pieces)


def test_hunyuan_large_has_the_released_number_of_tensors() -> None:
    released = names.released_tensors(ModelConfig.preset("hunyuan-large"))
    assert len(released) == 3778
    assert released["model.layers.62.self_attn.k_proj.weight"] == (640, 6400)
    assert "model.layers.63.self_attn.k_proj.weight" not in released
    assert released["model.layers.63.mlp.experts.15.down_proj.weight"] == (6400, 18304)


def test_large_files_are_split_and_indexed(tiny_model: Transformer, tiny_folder: Path, tmp_path: Path) -> None:
    limit = 20_000
    save_model(tiny_model, tmp_path / "split", max_shard_bytes=limit)
    index = json.loads((tmp_path / "split" / "model.safetensors.index.json").read_text())
    files = sorted((tmp_path / "split").glob("*.safetensors"))
    assert len(files) > 3
    assert [file.name for file in files] == [
        f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)
    ]
    whole, total = load_file(tiny_folder / "model.safetensors"), 0
    for file in files:
        part = load_file(file)
        size = sum(tensor.nbytes for tensor in part.values())
        total += size
        assert size <= limit or len(part) == 1
        for name, tensor in part.items():
            assert index["weight_map"].pop(name) == file.name
            assert torch.equal(tensor, whole.pop(name))
    assert not whole and not index["weight_map"]
    assert index["metadata"]["total_size"] == total


def test_dtype_converts_all_but_the_routers(tiny_model: Transformer, tmp_path: Path) -> None:
    save_model(tiny_model, tmp_path, dtype=torch.bfloat16)
    stored = load_file(tmp_path / "model.safetensors")
    kept = {name for name, tensor in stored.items() if tensor.dtype == torch.float32}
    assert kept == {f"model.layers.{i}.mlp.gate.wg.weight" for i in range(4)}
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"
    expected = tiny_model.state_dict()["norm.weight"].bfloat16()
    assert torch.equal(stored["model.norm.weight"], expected)


def test_other_files_stay_and_stale_weights_go(tiny_model: Transformer, tmp_path: Path) -> None:
    save_model(tiny_model, tmp_path, max_shard_bytes=20_000)
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "sub").mkdir()
    save_model(tiny_model, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors", "tokenizer.json", "sub"}
    save_model(tiny_model, tmp_path, max_shard_bytes=20_000)
    assert not (tmp_path / "model.safetensors").exists()
    load_model(tmp_path)


def test_an_interrupted_save_leaves_the_old_model(
    tiny_model: Transformer, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in tiny_folder.iterdir()}
    calls = []

    def fail_late(*args: object, **options: object) -> None:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        Path(args[1]).write_bytes(b"half")

    monkeypatch.setattr(writer_module, "save_file", fail_late)
    with pytest.raises(KeyboardInterrupt):
        save_model(tiny_model, tiny_folder, max_shard_bytes=20_000)
    assert {path.name: path.read_bytes() for path in tiny_folder.iterdir()} == before


def test_a_save_interrupted_while_renaming_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models of one shape have shards of the same names: a mixture of them would load without complaint."""
    save_model(build(TINY, seed=0), tmp_path, max_shard_bytes=20_000)
    rename = Path.replace

    def fail_on_the_second(self: Path, target: Path) -> Path:
        if "00002-of" in str(target):
            raise OSError("disk gone")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", fail_on_the_second)
    with pytest.raises(OSError, match="disk gone"):
        save_model(build(TINY, seed=1), tmp_path, max_shard_bytes=20_000)
    monkeypatch.undo()
    with pytest.raises((CheckpointError, ConfigError)):
        load_model(tmp_path)
    assert not list(tmp_path.glob(".*.tmp"))
    save_model(build(TINY, seed=1), tmp_path)
    load_model(tmp_path)


def test_a_state_that_does_not_fit_is_refused_before_anything_is_written(tiny_folder: Path) -> None:
    state = dict(load_model(tiny_folder).state_dict())
    before = (tiny_folder / "config.json").read_bytes()
    state["extra"] = torch.ones(1)
    state["norm.weight"] = torch.ones(7)
    state["embed.weight"] = state["embed.weight"].long()
    del state["layers.1.moe_norm.weight"]
    with pytest.raises(CheckpointError) as caught:
        save_state(state, TINY, tiny_folder)
    problems = ["extra: surplus", "norm.weight: has shape [7]", "embed.weight: holds", "1.moe_norm.weight: missing"]
    assert all(problem in str(caught.value) for problem in problems)
    with pytest.raises(CheckpointError, match="max_shard_bytes: 0"):
        save_model(load_model(tiny_folder), tiny_folder, max_shard_bytes=0)
    with pytest.raises(ConfigError, match="vocab_size"):
        save_model(load_model(tiny_folder), tiny_folder, extra={"vocab_size": 1})
    assert (tiny_folder / "config.json").read_bytes() == before
    load_model(tiny_folder)


@pytest.mark.parametrize("form", folders.FORMS)
def test_convert_gives_what_saving_the_loaded_model_gives(form: str, tiny_folder: Path, tmp_path: Path) -> None:
    source = folders.forms(tiny_folder, tmp_path)[form]()
    convert(source, tmp_path / "converted")
    assert same_bytes(tmp_path / "converted" / "model.safetensors", tiny_folder / "model.safetensors")


def test_convert_to_shards_of_another_dtype(tiny_folder: Path, tmp_path: Path) -> None:
    source = folders.shard(tiny_folder, tmp_path / "bin", suffix="bin", index=True)
    for name in ("tokenizer.json", "hy.tiktoken", "LICENSE", "generation_config.json", "tokenization_hy.py"):
        (source / name).write_text(name)
    for name in ("optimizer.pt", ".hidden.json"):
        (source / name).write_text(name)
    raw = json.loads((source / "config.json").read_text()) | {"eos_token_id": 7}
    (source / "config.json").write_text(json.dumps(raw))
    convert(source, tmp_path / "to", dtype=torch.bfloat16, max_shard_bytes=20_000)
    save_model(load_model(tiny_folder), tmp_path / "expected", dtype=torch.bfloat16, max_shard_bytes=20_000)
    expected = sorted(path.name for path in (tmp_path / "expected").iterdir() if path.name != "config.json")
    copied = ["LICENSE", "generation_config.json", "hy.tiktoken", "tokenization_hy.py", "tokenizer.json"]
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == sorted([*expected, *copied, "config.json"])
    for name in expected:
        assert same_bytes(tmp_path / "to" / name, tmp_path / "expected" / name), name
    assert json.loads((tmp_path / "to" / "config.json").read_text()) == raw | {"torch_dtype": "bfloat16"}


def test_convert_refuses_damage_and_writes_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is the folder to convert"):
        convert(tiny_folder, tiny_folder)
    folders.edit(tiny_folder, lambda tensors: tensors["model.norm.weight"].fill_(float("nan")))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight: holds NaN"):
        convert(tiny_folder, tmp_path / "to")
    assert not [path for path in (tmp_path / "to").glob("*") if path.is_file()]
    folders.edit(tiny_folder, lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight: missing"):
        convert(tiny_folder, tmp_path / "to")


def test_convert_refuses_a_head_that_is_not_tied(tiny_folder: Path, tmp_path: Path) -> None:
    folders.edit(tiny_folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] * 2}))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight: differs"):
        convert(tiny_folder, tmp_path / "to")

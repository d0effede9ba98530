"""What ``inspect_folder`` says of folders, from headers alone."""

from __future__ import annotations

import json
from pathlib import Path

import folders
import pytest
import torch
from safetensors.torch import save_file
from tiny_models import TINY

from kaiyuan.checkpoint import describe, inspect_folder, save_model, write_config
from kaiyuan.errors import CheckpointError
from kaiyuan.model.config import ModelConfig
from kaiyuan.model.transformer import Transformer


def test_a_sound_folder(tiny_folder: Path, tiny_model: Transformer) -> None:
    (tiny_folder / "tokenizer.json").write_text("{}")
    report = inspect_folder(tiny_folder)
    assert report["problems"] == [] and report["notes"] == []
    assert (report["form"], report["preset"], report["tokenizer"]) == ("hunyuan", None, ["tokenizer.json"])
    parameters = sum(parameter.numel() for parameter in tiny_model.parameters())
    assert report["parameters"]["total"] == parameters == sum(report["dtypes"].values())
    assert list(report["dtypes"]) == ["float32"]
    size = (tiny_folder / "model.safetensors").stat().st_size
    assert report["files"] == [{"name": "model.safetensors", "bytes": size, "tensors": 4 * 22 + 2 * 2 + 2}]
    assert report["kv_bytes_per_token"]["ours"] == 2 * 2 * 2 * 8 * 2
    assert report["kv_bytes_per_token"]["share_of_mha"] == 0.25
    assert report["config"] == TINY.model_dump(mode="json")
    json.dumps(report)


def test_presets_are_recognised(tmp_path: Path) -> None:
    write_config(ModelConfig.preset("hunyuan-large-instruct"), tmp_path)
    assert inspect_folder(tmp_path)["preset"] == "hunyuan-large-instruct"
    write_config(ModelConfig.preset("10m", vocab_size=5000, max_position_embeddings=99), tmp_path)
    assert inspect_folder(tmp_path)["preset"] == "10m"
    write_config(ModelConfig.preset("10m", num_layers=6), tmp_path)
    assert inspect_folder(tmp_path)["preset"] is None


def test_a_config_alone_describes_a_model_nobody_could_build_here(tmp_path: Path) -> None:
    write_config(ModelConfig.preset("hunyuan-large"), tmp_path)
    text = describe(tmp_path)
    assert "389B total, 51.3B active" in text
    assert "81,920 bytes a token in bfloat16, 5% of MHA's" in text
    assert "problem: " in text and "no weights" in text


def test_weights_alone(tiny_folder: Path) -> None:
    (tiny_folder / "config.json").write_text('{"model_type": "llama"}')
    report = inspect_folder(tiny_folder)
    assert len(report["problems"]) == 1 and "model_type: 'llama'" in report["problems"][0]
    assert report["files"][0]["name"] == "model.safetensors"
    assert "llama" in describe(tiny_folder)


def test_an_empty_folder_and_none(tmp_path: Path) -> None:
    assert len(inspect_folder(tmp_path)["problems"]) == 2
    assert describe(tmp_path).count("problem: ") == 2
    with pytest.raises(CheckpointError, match="no such folder"):
        inspect_folder(tmp_path / "absent")


@pytest.mark.parametrize(("form", "note"), [
    ("fused", "fused tensors"), ("stacked experts", "8 fused tensors"), ("biases", "72 biases"),
    ("repeated head", "an output head beside the embedding"),
])  # fmt: skip
def test_oddities_are_noted(form: str, note: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder = folders.forms(tiny_folder, tmp_path)[form]()
    report = inspect_folder(folder)
    assert report["problems"] == []
    assert any(note in line for line in report["notes"])
    assert note in describe(folder)


def test_bin_files_beside_safetensors_are_noted(tiny_folder: Path, tiny_model: Transformer, tmp_path: Path) -> None:
    folder = folders.shard(tiny_folder, tmp_path / "both", suffix="bin", index=True)
    save_model(tiny_model, folder)
    assert any("pytorch_model.bin.index.json and its like" in note for note in inspect_folder(folder)["notes"])
    assert len(list(folder.glob("*.bin"))) == 3


def test_sharded_folders_of_mixed_dtypes(tiny_folder: Path, tmp_path: Path) -> None:
    tensors, _ = folders.read(tiny_folder)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.bfloat16)
    save_file(tensors, tiny_folder / "model.safetensors")
    folder = folders.shard(tiny_folder, tmp_path / "shards", suffix="bin", index=False)
    report = inspect_folder(folder)
    assert report["dtypes"]["bfloat16"] == 32 and report["problems"] == []
    assert [file["name"] for file in report["files"]] == [f"pytorch_model-0000{i}-of-00003.bin" for i in (1, 2, 3)]
    (folder / "pytorch_model-00002-of-00003.bin").unlink()
    assert "problem: pytorch_model-00002-of-00003.bin: missing shard" in describe(folder)

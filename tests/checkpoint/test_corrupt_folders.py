"""Every way a model folder can be broken gets one clear error that names the tensor or file; nothing is ever run."""

from __future__ import annotations

import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folders
import pytest
import torch
from folders import Tensors

from kaiyuan.checkpoint import describe, inspect_folder, load_model
from kaiyuan.checkpoint import reader as reader_module
from kaiyuan.errors import CheckpointError, KaiyuanError

DOWN = "model.layers.2.mlp.experts.3.down_proj.weight"
NORM = "model.layers.1.self_attn.key_layernorm.weight"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    return str(caught.value)


def put(name: str, make: Callable[[Tensors], torch.Tensor]) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[name] = make(tensors)

    return change


def poke(name: str, value: float) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[name].view(-1)[-1] = value

    return change


DAMAGE: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "missing": (lambda tensors: tensors.pop(DOWN), f"{DOWN}: missing"),
    "surplus": (put("model.extra.weight", lambda t: torch.ones(2)), "model.extra.weight: surplus"),
    "keys in a layer without": (
        put("model.layers.1.self_attn.k_proj.weight", lambda t: torch.ones(16, 32)),
        "model.layers.1.self_attn.k_proj.weight: surplus",
    ),
    "surplus layer": (put("model.layers.4.input_layernorm.weight", lambda t: torch.ones(32)), "model.layers.4."),
    "bias of a norm": (put("model.norm.bias", lambda t: torch.ones(32)), "model.norm.bias: surplus"),
    "transposed": (put(DOWN, lambda t: t[DOWN].T), f"{DOWN}: has shape [20, 32], the model needs [32, 20]"),
    "too long": (put(NORM, lambda t: torch.ones(9)), f"{NORM}: has shape [9], the model needs [8]"),
    "scalar": (put(NORM, lambda t: torch.tensor(1.0)), f"{NORM}: has shape [], the model needs [8]"),
    "integers": (put(NORM, lambda t: torch.ones(8, dtype=torch.int64)), f"{NORM}: holds i64, not one of"),
    "float8": (put(NORM, lambda t: t[NORM].to(torch.float8_e4m3fn)), f"{NORM}: holds f8_e4m3, not one of"),
    "NaN": (poke(DOWN, float("nan")), f"{DOWN}: holds NaN or infinite"),
    "infinity": (poke(NORM, float("-inf")), f"{NORM}: holds NaN or infinite"),
    "another head": (put(HEAD, lambda t: t[EMBEDDING] + 1e-3), f"{HEAD}: differs from {EMBEDDING}"),
    "small head": (put(HEAD, lambda t: t[EMBEDDING][:5].clone()), f"{HEAD}: has shape [5, 32], the model needs [48, "),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_tensors(damage: str, tiny_folder: Path) -> None:
    change, message = DAMAGE[damage]
    folders.edit(tiny_folder, change)
    assert message in refusal(tiny_folder)


def test_all_problems_are_listed_at_once(tiny_folder: Path) -> None:
    distinct = ["missing", "surplus", "bias of a norm", "too long", "small head"]
    for key in distinct:
        folders.edit(tiny_folder, DAMAGE[key][0])
    message = refusal(tiny_folder)
    assert all(DAMAGE[key][1] in message for key in distinct)
    assert len(message.split("\n")) == 1 + len(distinct)


def test_all_damaged_values_are_listed_at_once(tiny_folder: Path) -> None:
    for key in ("NaN", "infinity", "another head"):
        folders.edit(tiny_folder, DAMAGE[key][0])
    message = refusal(tiny_folder)
    assert all(DAMAGE[key][1] in message for key in ("NaN", "infinity", "another head"))


def test_values_too_large_for_the_dtype_asked_for(tiny_folder: Path) -> None:
    folders.edit(tiny_folder, poke(DOWN, 1e6))
    load_model(tiny_folder)
    with pytest.raises(CheckpointError, match=f"{DOWN}: too large for float16"):
        load_model(tiny_folder, dtype=torch.float16)


def test_a_part_of_a_fused_tensor_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    tensors, config = folders.read(tiny_folder)
    fused = folders.stack(tensors)
    fused["model.layers.2.mlp.experts.down_proj"][3, 0, 0] = float("nan")
    message = refusal(folders.write(fused, config, tmp_path / "fused"))
    assert f"{DOWN} (part of model.layers.2.mlp.experts.down_proj): holds NaN" in message


def test_a_tensor_stored_alone_and_fused(tiny_folder: Path, tmp_path: Path) -> None:
    tensors, config = folders.read(tiny_folder)
    both = folders.stack(tensors) | {DOWN: tensors[DOWN]}
    message = refusal(folders.write(both, config, tmp_path / "both"))
    assert f"{DOWN}: stored twice, alone and in model.layers.2.mlp.experts.down_proj" in message


def test_nothing_is_read_before_names_and_shapes_are_right(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders.edit(tiny_folder, DAMAGE["missing"][0])
    monkeypatch.setattr(reader_module, "TensorReader", lambda storage: pytest.fail("weights were read"))
    assert f"{DOWN}: missing" in refusal(tiny_folder)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("index", [True, False])
def test_missing_and_truncated_shards(suffix: str, index: bool, tiny_folder: Path, tmp_path: Path) -> None:
    folder = folders.shard(tiny_folder, tmp_path / "shards", suffix=suffix, index=index, count=4)
    first, second, third, _ = sorted(folder.glob(f"*.{suffix}"))
    second.unlink()
    third.write_bytes(third.read_bytes()[:-200])
    message = refusal(folder)
    assert f"{second.name}: missing shard" in message
    assert f"{third.name}: truncated or not a" in message
    assert first.name not in message
    assert len(message.split("\n")) == 3  # naming each tensor that the lost files held would only hide the cause


@pytest.mark.parametrize("content", [b"", b"\x80", b"x" * 1000, b"PK\x03\x04" + b"\0" * 50])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_files_of_rubbish(name: str, content: bytes, tiny_folder: Path) -> None:
    (tiny_folder / "model.safetensors").unlink()
    (tiny_folder / name).write_bytes(content)
    message = refusal(tiny_folder)
    assert f"{name}: truncated or not a" in message and ": missing" not in message


@pytest.mark.parametrize("cut", range(0, 100, 9))
def test_a_bin_file_cut_anywhere(cut: int, tiny_folder: Path, tmp_path: Path) -> None:
    folder = folders.shard(tiny_folder, tmp_path / "bin", suffix="bin", index=False, count=1)
    content = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(content[: len(content) * cut // 100])
    assert "pytorch_model.bin: truncated or not a" in refusal(folder)


def reindex(folder: Path, change: Callable[[dict[str, str]], Any]) -> None:
    path = folder / "model.safetensors.index.json"
    body = json.loads(path.read_text())
    change(body["weight_map"])
    path.write_text(json.dumps(body))


@pytest.mark.parametrize("place", ["../outside.safetensors", "/etc/passwd", "sub/a.safetensors", "..", "", "a\\b", 7])
def test_an_index_cannot_lead_out_of_the_folder(place: Any, tiny_folder: Path, tmp_path: Path) -> None:
    folder = folders.shard(tiny_folder, tmp_path / "shards", suffix="safetensors", index=True)
    (tmp_path / "outside.safetensors").write_bytes((tiny_folder / "model.safetensors").read_bytes())
    reindex(folder, lambda weight_map: weight_map.update({NORM: place}))
    message = refusal(folder)
    assert f"{NORM} lies in {place!r}, which is no plain file name" in message


def test_an_index_that_errs(tiny_folder: Path, tmp_path: Path) -> None:
    folder = folders.shard(tiny_folder, tmp_path / "shards", suffix="safetensors", index=True)
    files = sorted(path.name for path in folder.glob("*.safetensors"))

    def mislead(weight_map: dict[str, str]) -> None:
        weight_map[NORM] = files[files.index(weight_map[NORM]) - 1]
        weight_map["ghost"] = files[0]

    reindex(folder, mislead)
    message = refusal(folder)
    assert f"{NORM}: not in " in message and "ghost: not in " in message


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "[" * 10**5, "1" * 5000])
def test_an_index_that_is_none(text: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder = folders.shard(tiny_folder, tmp_path / "shards", suffix="safetensors", index=True)
    (folder / "model.safetensors.index.json").write_text(text)
    assert "model.safetensors.index.json" in refusal(folder)
    assert "model.safetensors.index.json:" in describe(folder)


def test_a_tensor_in_two_shards(tiny_folder: Path, tmp_path: Path) -> None:
    folder = folders.shard(tiny_folder, tmp_path / "shards", suffix="bin", index=False, count=2)
    parts = {path: torch.load(path) for path in sorted(folder.glob("*.bin"))}
    for path, part in parts.items():
        torch.save(part | {NORM: torch.ones(8)}, path)
    assert f"{NORM}: stored twice, in pytorch_model-00001-of-00002.bin and in" in refusal(folder)


def test_two_models_in_one_folder(tiny_folder: Path, tmp_path: Path) -> None:
    folder = folders.shard(tiny_folder, tmp_path / "shards", suffix="safetensors", index=True)
    (folder / "model.safetensors").write_bytes((tiny_folder / "model.safetensors").read_bytes())
    assert "does not name model.safetensors, which lies beside it" in refusal(folder)
    (folder / "model.safetensors.index.json").unlink()
    assert "model.safetensors: lies beside shards (model-00001-of-00003.safetensors)" in refusal(folder)


def test_shards_of_different_sets(tiny_folder: Path, tmp_path: Path) -> None:
    folder = folders.shard(tiny_folder, tmp_path / "shards", suffix="bin", index=False, count=2)
    content = (folder / "pytorch_model-00001-of-00002.bin").read_bytes()
    (folder / "pytorch_model-00003-of-00003.bin").write_bytes(content)
    assert "pytorch_model-00003-of-00003.bin: not one of 2 shards" in refusal(folder)


class Hostile:
    """Unpickling this creates a file."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.witness),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_refused_and_not_run(zipped: bool, tiny_folder: Path, tmp_path: Path) -> None:
    tensors, _ = folders.read(tiny_folder)
    witness = tmp_path / "it-ran"
    (tiny_folder / "model.safetensors").unlink()
    torch.save(
        tensors | {"hook": Hostile(witness)},
        tiny_folder / "pytorch_model.bin",
        _use_new_zipfile_serialization=zipped,
    )
    message = refusal(tiny_folder)
    assert "pytorch_model.bin: refused: it holds more than tensors (it asks for posix.mkdir)" in message
    assert "weights_only" not in message  # no advice to load it all the same
    assert inspect_folder(tiny_folder)["problems"]
    assert not witness.exists()
    pickle.loads(pickle.dumps(Hostile(witness)))
    assert witness.exists(), "the pickle would have run, had it been loaded"


@pytest.mark.parametrize("content", [
    [1, 2], {"model": {"nested": torch.ones(1)}}, {1: torch.ones(1)}, {"step": 7},
    {NORM: torch.ones(8).to_sparse()}, {NORM: torch.ones(8, device="meta")},
])  # fmt: skip
def test_a_bin_file_of_something_else(content: Any, tiny_folder: Path) -> None:
    (tiny_folder / "model.safetensors").unlink()
    torch.save(content, tiny_folder / "pytorch_model.bin")
    message = refusal(tiny_folder)
    assert "not a dictionary of tensors" in message or "not a plain tensor" in message


@pytest.mark.parametrize("form", ["as it is", "sharded safetensors", "single bin", "old bin"])
def test_flipped_bytes_end_in_a_model_or_in_one_clear_error(form: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder = folders.forms(tiny_folder, tmp_path)[form]()
    for seed in range(40):
        random_ = random.Random(seed)
        file = random_.choice(sorted(folder.iterdir()))
        content = file.read_bytes()
        damaged = bytearray(content)
        for _ in range(random_.choice([1, 3])):
            start, end = random_.choice([(0, 3000), (0, len(content)), (len(content) - 3000, len(content))])
            damaged[random_.randrange(max(start, 0), min(end, len(content)))] = random_.randrange(256)
        file.write_bytes(damaged)
        try:
            load_model(folder)
        except KaiyuanError as error:
            assert file.name in str(error) or "model." in str(error)
        describe(folder)
        file.write_bytes(content)
    load_model(folder)


def test_no_folder_and_no_weights(tiny_folder: Path, tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "absent")
    (tiny_folder / "model.safetensors").unlink()
    assert "no weights (model.safetensors" in refusal(tiny_folder)


SHOWN_BY_HEADERS = [key for key, (_, text) in DAMAGE.items() if "NaN" not in text and "differs" not in text]


@pytest.mark.parametrize("damage", SHOWN_BY_HEADERS)
def test_inspect_finds_what_loading_would(damage: str, tiny_folder: Path) -> None:
    folders.edit(tiny_folder, DAMAGE[damage][0])
    problems = inspect_folder(tiny_folder)["problems"]
    assert len(problems) >= 1 and any(DAMAGE[damage][1] in problem for problem in problems)

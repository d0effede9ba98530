"""Quantised weights: coding, folders that keep codes, AutoFP8's form, and layers that compute with codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import TINY, build

from kaiyuan import Engine, SamplingParams, load_model, save_model
from kaiyuan.checkpoint import convert, inspect_folder
from kaiyuan.errors import KaiyuanError
from kaiyuan.inference.engine import Transformer
from kaiyuan.model.quantization import SCHEMES, Scheme, coded_product, dequantize, quantize, quantize_model

CONFIG = TINY.replace(hidden_size=64, head_dim=32, num_attention_heads=4, intermediate_size=128, init_std=0.2)
WORST: dict[Scheme, float] = {"int8": 0.5 / 127, "int4": 0.5 / 7, "fp8": 2**-4}
"""Largest error of a weight, relative to the largest weight that shares its scale."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_model(build(CONFIG), path)
    return path


@pytest.mark.parametrize("scheme", SCHEMES)
def test_codes_stand_for_nearly_the_same_weights_and_are_stable(scheme: Scheme) -> None:
    weight = torch.randn(3, 40, 128, generator=torch.Generator().manual_seed(1)) * torch.logspace(-4, 2, 40)[:, None]
    codes, scale = quantize(weight, scheme)
    decoded = dequantize(codes, scale)
    largest = weight.unflatten(-1, (-1, 64)).abs().amax(-1, keepdim=True) if scheme == "int4" else None
    bound = weight.abs().amax(-1, keepdim=True) if largest is None else largest.expand(-1, -1, -1, 64).flatten(-2)
    assert bool(((decoded - weight).abs() <= WORST[scheme] * bound * 1.001).all())
    again, scale_again = quantize(decoded, scheme)
    assert torch.equal(again.view(torch.uint8), codes.view(torch.uint8))
    torch.testing.assert_close(scale_again, scale)
    zero, _ = quantize(torch.zeros(2, 64), scheme)
    assert float(dequantize(zero, quantize(torch.zeros(2, 64), scheme)[1]).abs().sum()) == 0


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_products_with_codes_equal_products_with_what_they_stand_for(
    scheme: Scheme, dtype: torch.dtype, rows: int
) -> None:
    generator = torch.Generator().manual_seed(2)
    codes, scale = quantize(torch.randn(48, 128, generator=generator), scheme)
    x = torch.randn(rows, 128, generator=generator).to(dtype)
    expected = x.float() @ dequantize(codes, scale).T
    found = coded_product(x, codes, scale).float()
    assert float((found - expected).norm() / expected.norm()) < (1e-5 if dtype == torch.float32 else 8e-3)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_quantised_folder_is_small_and_loads_as_floats_and_as_codes(
    folder: Path, tmp_path: Path, scheme: Scheme
) -> None:
    convert(folder, tmp_path / "coded", quantize=scheme)
    stored = load_file(tmp_path / "coded" / "model.safetensors")
    assert json.loads((tmp_path / "coded" / "config.json").read_text())["quantization_config"]["scheme"] == scheme
    matrices = sum(
        tensor.numel() for name, tensor in load_file(folder / "model.safetensors").items() if "_proj" in name
    )
    coded = sum(tensor.nbytes for name, tensor in stored.items() if "_proj" in name and "_scale" not in name)
    assert coded == matrices * (0.5 if scheme == "int4" else 1)
    assert inspect_folder(tmp_path / "coded")["problems"] == []
    floats = load_model(tmp_path / "coded")
    expected = quantize_model(load_model(folder), scheme)
    ids = torch.randint(48, (2, 30), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.testing.assert_close(floats(ids), expected(ids), rtol=1e-4, atol=1e-4)
        off = (floats(ids) - load_model(folder)(ids)).abs().mean()
    assert 0 < float(off) < {"int8": 0.1, "fp8": 0.25, "int4": 0.8}[scheme]
    params = SamplingParams(temperature=0, max_tokens=10)
    engine = Engine(tmp_path / "coded")
    assert not any(name.endswith("gate_up.weight") for name, _ in engine.model.named_parameters()), "codes stay codes"
    assert engine.generate([[1, 2]], params)[0].token_ids == Engine(expected).generate([[1, 2]], params)[0].token_ids
    convert(tmp_path / "coded", tmp_path / "back", dtype=torch.float32)
    assert "quantization_config" not in json.loads((tmp_path / "back" / "config.json").read_text())
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path / "back")(ids), floats(ids))


def autofp8(folder: Path, target: Path) -> dict[str, torch.Tensor]:
    """The folder as AutoFP8 writes it: one scale a matrix, static scales of activations, per-tensor."""
    target.mkdir()
    raw = json.loads((folder / "config.json").read_text())
    raw["quantization_config"] = {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]}
    (target / "config.json").write_text(json.dumps(raw))
    tensors, decoded = {}, {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if "_proj" not in name:
            tensors[name] = decoded[name] = weight
            continue
        scale = weight.abs().max() / 448
        tensors[name] = (weight / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale"] = scale.float()
        tensors[name.replace(".weight", ".input_scale")] = torch.tensor(0.01)
        decoded[name] = tensors[name].float() * scale
    save_file(tensors, target / "model.safetensors")
    return decoded


def test_the_releases_fp8_form_loads(folder: Path, tmp_path: Path) -> None:
    decoded = autofp8(folder, tmp_path / "fp8")
    save_file(decoded, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    ids = torch.randint(48, (1, 30), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "fp8")(ids), load_model(tmp_path)(ids))
    assert isinstance(Engine(tmp_path / "fp8").model, Transformer)


@pytest.mark.parametrize(
    ("note", "message"),
    [
        ({"quant_method": "gptq", "bits": 4}, "quantization_config: the weights are quantised by 'gptq'; only kaiyuan"),
        ({"quant_method": "kaiyuan", "scheme": "int3"}, "scheme 'int3' is not one of int8, int4, fp8"),
        ({"quant_method": "kaiyuan", "scheme": "int4", "group_size": 32}, "group_size 32 is not 64"),
        ("int8", "quantization_config: the weights are quantised by"),
    ],
)
def test_other_quantisations_are_refused(folder: Path, tmp_path: Path, note: Any, message: str) -> None:
    convert(folder, tmp_path / "coded", quantize="int8")
    path = tmp_path / "coded" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": note}))
    with pytest.raises(KaiyuanError, match=message):
        load_model(tmp_path / "coded")


def test_a_scale_that_does_not_fit_is_named(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path, quantize="int8")
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors[f"{name}_scale"] = tensors[f"{name}_scale"][:-1].clone()
    del tensors["model.layers.1.self_attn.q_proj.weight_scale"]
    save_file(tensors, path)
    with pytest.raises(KaiyuanError) as caught:
        load_model(tmp_path)
    assert f"{name}_scale: has shape [127, 1], {name} needs [128, 1]" in str(caught.value)
    assert "model.layers.1.self_attn.q_proj.weight: holds i8, not one of" in str(caught.value)

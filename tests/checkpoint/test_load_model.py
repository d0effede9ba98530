"""Loaded models compute what the released code, transformers and an independent reference compute."""

from __future__ import annotations

import json
from pathlib import Path

import folders
import large_reference
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import TINY, build

from kaiyuan.checkpoint import load_model, read_config, save_model
from kaiyuan.checkpoint import reader as reader_module
from kaiyuan.model.transformer import Transformer

TOLERANCE = 2e-4


def assert_same(model: Transformer, ids: torch.Tensor, logits: torch.Tensor, hidden: list[torch.Tensor]) -> None:
    with torch.no_grad():
        states = model.hidden_states(ids)
        ours = model(ids)
    assert len(states) == len(hidden)
    for state, expected in zip(states, hidden, strict=True):
        torch.testing.assert_close(state, expected, atol=TOLERANCE, rtol=0)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, logits, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("form", folders.FORMS)
def test_golden_outputs_in_every_form_of_storage(golden: Path, form: str, tmp_path: Path) -> None:
    expected = load_file(golden / "golden.safetensors")
    model = load_model(folders.forms(golden, tmp_path)[form]())
    hidden = [expected[f"hidden.{i}"] for i in range(model.config.num_layers + 1)]
    assert_same(model, expected["input_ids"], expected["logits"], hidden)


LARGE = {
    "as released": {},
    "untied": {"tie_word_embeddings": False},
    "groups of three": {"cla_share_factor": 3},
    "no sharing, top 1": {"cla_share_factor": 1},
    "top 2": {"top_k": 2},
    "no norm of queries and keys": {"qk_norm": False},
    "no shared expert": {"num_shared_experts": 0},
    "two shared experts": {"num_shared_experts": 2},
    "heads of another size": {"head_dim": 12},
    "plain rope": {"rope_alpha": None},
}


@pytest.mark.parametrize("variant", LARGE)
def test_large_form_against_an_independent_forward_pass(variant: str, tmp_path: Path, input_ids: torch.Tensor) -> None:
    save_model(build(TINY.replace(**LARGE[variant])), tmp_path / "m")
    tensors, config = folders.read(tmp_path / "m")
    assert config["model_type"] == "hunyuan"
    doubled = {name: tensor.double() for name, tensor in tensors.items()}
    logits, hidden = large_reference.forward(doubled, config, input_ids)
    assert_same(load_model(tmp_path / "m"), input_ids, logits.float(), [state.float() for state in hidden])


@pytest.mark.parametrize("form", folders.FORMS)
def test_every_form_of_storage_gives_the_same_weights(
    form: str, tiny_folder: Path, tiny_model: Transformer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load_model(folders.forms(tiny_folder, tmp_path)[form]()).state_dict()
    for name, tensor in tiny_model.state_dict().items():
        assert torch.equal(loaded[name], tensor), name
    biases = 4 * (2 + 3 + 4 * 3) + 2 * 2
    assert (f"skipped {biases} biases" in capsys.readouterr().err) == (form == "biases")


def test_biases_of_fused_tensors_are_skipped_too(tiny_folder: Path, tmp_path: Path) -> None:
    tensors, config = folders.read(tiny_folder)
    fused = folders.fuse(tensors, config) | {"model.layers.0.self_attn.qkv_proj.bias": torch.ones(64)}
    load_model(folders.write(fused, config, tmp_path / "fused"))


V1 = {
    "top 2": {"moe_topk": 2},
    "top 1, which this form scales to weight 1": {"moe_topk": 1},
    "one number a layer": {"moe_topk": [1, 3]},
    "untied": {"moe_topk": 2, "tie_word_embeddings": False},
    "plain rope": {"moe_topk": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
}


def transformers_model(changes: dict) -> torch.nn.Module:
    transformers = pytest.importorskip("transformers")
    rope = {"rope_type": "dynamic", "rope_theta": 10_000.0, "alpha": 50.0, "factor": 1.0}
    sizes = {
        "vocab_size": 48, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "num_experts": 4, "tie_word_embeddings": True, "rope_parameters": rope,
        "pad_token_id": None,
    }  # fmt: skip
    torch.manual_seed(0)
    model = transformers.HunYuanMoEV1ForCausalLM(transformers.HunYuanMoEV1Config(**{**sizes, **changes}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.uniform_(0.5, 1.5) if name.endswith("norm.weight") else parameter.normal_(0, 0.15)
    return model.eval()


@pytest.mark.parametrize("variant", V1)
def test_v1_form_against_transformers(variant: str, tmp_path: Path, input_ids: torch.Tensor) -> None:
    theirs = transformers_model(V1[variant])
    theirs.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = theirs(input_ids, output_hidden_states=True)
    assert_same(load_model(tmp_path), input_ids, expected.logits, list(expected.hidden_states))


@pytest.mark.parametrize("top_k", [1, 2])
def test_transformers_reads_what_we_write(top_k: int, tmp_path: Path, input_ids: torch.Tensor) -> None:
    transformers = pytest.importorskip("transformers")
    model = build(TINY.replace(cla_share_factor=1, top_k=top_k, renormalize=True))
    save_model(model, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(input_ids).logits, model(input_ids), atol=TOLERANCE, rtol=0)


def test_loading_much_shows_progress(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = load_model(tiny_folder).state_dict()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(reader_module, "_SHOW_PROGRESS_FROM", 0)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load_model(tiny_folder).state_dict().items())
    assert "loading" in capsys.readouterr().err


def test_the_routers_stay_in_float32_and_the_model_is_in_evaluation_mode(tiny_folder: Path) -> None:
    model = load_model(tiny_folder, dtype=torch.bfloat16)
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert {name for name, dtype in dtypes.items() if dtype == torch.float32} == {
        f"layers.{i}.moe.router.weight" for i in range(4)
    }
    assert set(dtypes.values()) == {torch.float32, torch.bfloat16}
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_models_that_neither_release_computes_right_come_back_as_they_were(
    tmp_path: Path, input_ids: torch.Tensor
) -> None:
    config = TINY.replace(num_experts=(4, 1, 2, 4), top_k=(2, 1, 2, 3), renormalize=False)
    model = build(config)
    save_model(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "kaiyuan"
    loaded = load_model(tmp_path)
    assert loaded.config == config == read_config(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(input_ids), model(input_ids))

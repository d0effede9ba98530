"""What ``config.json`` files of the releases, of transformers and of our own are read as, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tiny_models import TINY

from kaiyuan.checkpoint import read_config, write_config
from kaiyuan.checkpoint.hf_config import config_keys, form_of, same_model
from kaiyuan.errors import ConfigError
from kaiyuan.model import presets
from kaiyuan.model.config import ModelConfig

LARGE: dict[str, Any] = {
    "architectures": ["HunYuanForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_hunyuan.HunYuanConfig"}, "bos_token_id": 1, "capacity_factor": 1.0,
    "cla_share_factor": 2, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 6400, "initializer_range": 0.02,
    "intermediate_size": 18304, "max_position_embeddings": 262144, "model_type": "hunyuan", "moe_drop_tokens": False,
    "moe_random_routing_dropped_token": False, "moe_topk": 1, "num_attention_heads": 80, "num_experts": 16,
    "num_hidden_layers": 64, "num_key_value_heads": 8, "num_shared_expert": 1, "pad_token_id": 0, "pretraining_tp": 1,
    "rms_norm_eps": 1e-05, "rope_scaling": {"alpha": 100000.0, "factor": 1.0, "type": "dynamic"}, "rope_theta": 10000.0,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.41.2", "use_cache": True,
    "use_cla": True, "use_mixed_mlp_moe": True, "use_qk_norm": True, "vocab_size": 128512,
}  # fmt: skip

A13B: dict[str, Any] = {
    "add_classification_head": False, "anyres_pooling_size": 2, "anyres_vit_max_image_size": None,
    "anyres_vit_two_views": False, "architectures": ["HunYuanMoEV1ForCausalLM"], "attention_bias": False,
    "attention_dropout": 0.1, "attention_head_dim": 128, "bos_token_id": 1, "cla_share_factor": 2, "class_num": 0,
    "dense_list": [4096, 0], "eod_token_id": 127967, "eos_token_id": 127960, "group_limited_greedy": False,
    "hidden_act": "silu", "hidden_size": 4096, "im_end_id": 6, "im_newline_id": 12, "im_start_id": 5,
    "image_token_id": 9, "initializer_range": 0.02, "intermediate_size": 3072, "kv_lora_rank": None, "mask_init_id": 13,
    "max_position_embeddings": 32768, "mlp_bias": False, "model_type": "hunyuan", "moe_drop_tokens": False,
    "moe_intermediate_size": [3072] * 32, "moe_layer_num_skipped": 0, "moe_random_routing_dropped_token": False,
    "moe_topk": [8] * 32, "n_group": False, "norm_topk_prob": True, "num_attention_heads": 32, "num_experts": 64,
    "num_hidden_layers": 32, "num_key_value_heads": 8, "num_shared_expert": [1] * 32, "pretraining_tp": 1,
    "q_lora_rank": None, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "routed_scaling_factor": False,
    "rope_scaling": {"alpha": 1000.0, "beta_fast": 32, "beta_slow": 1, "factor": 1.0, "mscale": 1.0,
                     "mscale_all_dim": 1.0, "type": "dynamic"},
    "tie_word_embeddings": True, "topk_group": False, "torch_dtype": "bfloat16", "use_cla": False, "use_mla": False,
    "use_mixed_mlp_moe": True, "use_qk_norm": True, "use_rotary_pos_emb": True, "vit_path": None, "vocab_size": 128167,
}  # fmt: skip


def put(folder: Path, raw: Any) -> Path:
    (folder / "config.json").write_text(raw if isinstance(raw, str) else json.dumps(raw))
    return folder


def refusal(folder: Path, raw: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        read_config(put(folder, raw))
    assert "config.json" in str(caught.value)
    return str(caught.value)


def test_the_released_files_are_the_presets(tmp_path: Path) -> None:
    assert read_config(put(tmp_path, LARGE)) == ModelConfig.preset("hunyuan-large")
    instruct = {
        **LARGE, "vocab_size": 129024, "max_position_embeddings": 131072,
        "rope_scaling": {"type": "dynamic", "factor": 1.0, "alpha": 1000.0},
    }  # fmt: skip
    assert read_config(put(tmp_path, instruct)) == ModelConfig.preset("hunyuan-large-instruct")
    assert read_config(put(tmp_path, A13B)) == ModelConfig.preset("hunyuan-a13b")
    assert read_config(put(tmp_path, {**A13B, "model_type": "hunyuan_v1_moe"})) == ModelConfig.preset("hunyuan-a13b")


def test_the_file_that_transformers_writes(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.HunYuanMoEV1Config(
        vocab_size=64, hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, num_experts=4, moe_topk=1, rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 500.0, "alpha": 20.0, "factor": 1.0},
    )  # fmt: skip
    theirs.save_pretrained(tmp_path)
    assert read_config(tmp_path) == ModelConfig(
        vocab_size=64, hidden_size=32, intermediate_size=24, num_layers=2, num_attention_heads=4, num_kv_heads=2,
        head_dim=16, num_experts=4, top_k=1, renormalize=True, cla_share_factor=1, norm_eps=1e-6, rope_theta=500.0,
        rope_alpha=20.0, max_position_embeddings=2048, tie_word_embeddings=False,
    )  # fmt: skip


def test_absent_keys_mean_what_the_released_code_takes_them_for(tmp_path: Path) -> None:
    required = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_experts"
    bare = {"model_type": "hunyuan", **{key: LARGE[key] for key in required.split()}}
    large = read_config(put(tmp_path, bare))
    assert (large.num_kv_heads, large.cla_share_factor, large.qk_norm) == (80, 1, False)
    assert (large.num_shared_experts, large.tie_word_embeddings, large.rope_alpha) == (0, False, None)
    v1 = read_config(put(tmp_path, {**bare, "model_type": "hunyuan_v1_moe"}))
    assert (v1.qk_norm, v1.num_shared_experts, v1.renormalize) == (True, 1, True)


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_comes_back_exactly(name: str, tmp_path: Path) -> None:
    config = ModelConfig.preset(name)
    write_config(config, tmp_path, dtype="bfloat16", extra={"eos_token_id": 127960})
    assert read_config(tmp_path) == config
    raw = json.loads((tmp_path / "config.json").read_text())
    assert raw["torch_dtype"] == "bfloat16" and raw["eos_token_id"] == 127960
    assert raw["model_type"] == ("hunyuan_v1_moe" if name == "hunyuan-a13b" else "hunyuan")


def test_what_we_write_for_the_released_model_says_what_its_own_file_says() -> None:
    ours = config_keys(ModelConfig.preset("hunyuan-large"), dtype="bfloat16")
    inert = {"auto_map", "bos_token_id", "eos_token_id", "pad_token_id", "transformers_version"}
    assert ours == {key: value for key, value in LARGE.items() if key not in inert}


sizes = st.integers(1, 5)
per_layer = st.one_of(sizes, st.tuples(sizes, sizes, sizes))


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    kv_heads = draw(sizes)
    return TINY.replace(
        num_layers=3,
        num_kv_heads=kv_heads,
        num_attention_heads=kv_heads * draw(sizes),
        head_dim=draw(st.sampled_from([4, 8, 10])),
        num_experts=draw(st.one_of(st.integers(5, 9), st.tuples(*[st.integers(5, 9)] * 3))),
        top_k=draw(per_layer),
        num_shared_experts=draw(st.one_of(st.integers(0, 2), st.tuples(*[st.integers(0, 2)] * 3))),
        moe_intermediate_size=draw(st.one_of(st.none(), per_layer, st.just(TINY.intermediate_size))),
        renormalize=draw(st.sampled_from([None, True, False])),
        cla_share_factor=draw(st.integers(1, 3)),
        qk_norm=draw(st.booleans()),
        rope_alpha=draw(st.sampled_from([None, 1.0, 1000.0])),
        tie_word_embeddings=draw(st.booleans()),
    )


@given(config=configs())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_model_comes_back_as_the_same_model(config: ModelConfig, tmp_path: Path) -> None:
    write_config(config, tmp_path)
    again = read_config(tmp_path)
    assert same_model(again, config)
    write_config(again, tmp_path)
    assert read_config(tmp_path) == again


@pytest.mark.parametrize(("change", "form"), [
    ({}, "hunyuan"),
    ({"renormalize": True}, "kaiyuan"),
    ({"top_k": 2}, "hunyuan"),
    ({"top_k": 2, "renormalize": False}, "kaiyuan"),
    ({"top_k": (1, 1, 1, 1)}, "kaiyuan"),
    ({"num_experts": 1}, "kaiyuan"),
    ({"moe_intermediate_size": 7}, "kaiyuan"),
    ({"cla_share_factor": 1}, "hunyuan"),
    ({"cla_share_factor": 1, "renormalize": True}, "hunyuan_v1_moe"),
    ({"cla_share_factor": 1, "top_k": 2, "moe_intermediate_size": 7}, "hunyuan_v1_moe"),
    ({"cla_share_factor": 1, "top_k": 2, "qk_norm": False}, "hunyuan"),
    ({"cla_share_factor": 1, "top_k": 2, "num_shared_experts": 0}, "hunyuan"),
])  # fmt: skip
def test_the_form_is_one_whose_code_computes_the_model_right(change: dict[str, Any], form: str) -> None:
    assert form_of(TINY.replace(**change)) == form


@pytest.mark.parametrize(("change", "message"), [
    ({"attention_bias": True}, "attention_bias: True is not supported, only False"),
    ({"mlp_bias": True}, "mlp_bias: True"),
    ({"hidden_act": "gelu"}, "hidden_act: 'gelu' is not supported, only 'silu'"),
    ({"pretraining_tp": 2}, "pretraining_tp: 2"),
    ({"use_mla": True}, "use_mla: True"),
    ({"moe_layer_num_skipped": 1}, "moe_layer_num_skipped: 1"),
    ({"position_embedding_xdrope": True}, "position_embedding_xdrope: True"),
    ({"routed_scaling_factor": 2.5}, "routed_scaling_factor: 2.5"),
    ({"routed_scaling_factor": 0}, "routed_scaling_factor: 0 is not supported, only 1.0 or False"),
    ({"quantization_config": {"bits": 3}}, "quantization_config: the weights are quantised by"),
    ({"sliding_window": 4096}, "sliding_window: unknown key"),
    ({"num_experts": 1}, "num_experts: 1 means a dense model"),
    ({"moe_topk": 17}, "moe_topk: layer 0 chooses 17 of only 16 experts"),
    ({"moe_topk": 2, "norm_topk_prob": False}, "norm_topk_prob: False, but the code of hunyuan does not do that"),
    ({"norm_topk_prob": True}, "norm_topk_prob: True, but"),
    ({"num_key_value_heads": 7}, "num_key_value_heads 7"),
    ({"num_hidden_layers": 10**7}, "num_hidden_layers: 10,000,000 is more than"),
    ({"num_experts": 10**8}, "experts in all layers are more than"),
    ({"hidden_size": "big"}, "hidden_size: 'big' is not allowed"),
    ({"hidden_size": True}, "hidden_size: True is not allowed"),
    ({"use_cla": "yes"}, "use_cla: 'yes' is not true or false"),
    ({"cla_share_factor": 0}, "cla_share_factor: 0 is not a size"),
    ({"num_shared_expert": -1}, "num_shared_expert: -1 is under 0"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps: nan"),
    ({"head_dim": 81}, "head_dim: 81 is not an even number"),
    ({"head_dim": 80, "attention_head_dim": 128}, "attention_head_dim: 128 contradicts head_dim 80"),
    ({"hidden_size": 6401}, "head_dim: missing, and hidden_size 6401 is no multiple of num_attention_heads 80"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling: type 'linear'"),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling: type 'dynamic' with alpha None"),
    ({"rope_scaling": {"type": "dynamic", "alpha": -1.0}}, "rope_scaling.alpha: -1.0 is not a positive number"),
    ({"rope_scaling": {"type": "dynamic", "alpha": 2.0, "magic": 1}}, "rope_scaling.magic: unknown key"),
    ({"rope_scaling": "dynamic"}, "rope_scaling: 'dynamic' is not an object"),
    ({"rope_parameters": {"rope_type": "dynamic", "alpha": 3.0}}, "rope_parameters: contradicts rope_scaling"),
    ({"rope_parameters": {"rope_type": "dynamic", "alpha": 1e5, "rope_theta": 5.0}}, "contradicts rope_theta 10000.0"),
    ({"architectures": ["LlamaForCausalLM"]}, "architectures: ['LlamaForCausalLM'] does not fit model_type 'hunyuan'"),
    ({"model_type": "hunyuan_v1_moe"}, "architectures: ['HunYuanForCausalLM'] does not fit"),
    ({"model_type": "llama"}, "model_type: 'llama' is none of hunyuan, hunyuan_v1_moe, kaiyuan"),
    ({"model_type": ["hunyuan"]}, "model_type: ['hunyuan'] is none of"),
])  # fmt: skip
def test_settings_that_the_model_does_not_have_are_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    assert message in refusal(tmp_path, {**LARGE, **change})


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    wrong = {**LARGE, "attention_bias": True, "frobnicate": 1, "num_experts": "many", "use_qk_norm": 1}
    del wrong["vocab_size"]
    message = refusal(tmp_path, wrong)
    for key in ("attention_bias", "frobnicate", "num_experts", "use_qk_norm", "vocab_size"):
        assert message.count(f"  - {key}: ") == 1, key
    assert len(message.split("\n")) == 6


def test_our_own_form_is_as_strict(tmp_path: Path) -> None:
    raw = config_keys(TINY.replace(renormalize=True))
    assert read_config(put(tmp_path, {**raw, "is_encoder_decoder": False, "_name_or_path": "x"})).renormalize is True
    assert "rope_scaling: unknown key" in refusal(tmp_path, {**raw, "rope_scaling": None})
    assert "hidden_act: 'gelu'" in refusal(tmp_path, {**raw, "hidden_act": "gelu"})
    assert "num_layers: 0 is not a size" in refusal(tmp_path, {**raw, "num_layers": 0})


@pytest.mark.parametrize("text", [
    "", "[1, 2]", "{", "null", "[" * 100_000, '{"a": ' + "1" * 5000 + "}", '{"model_type": "hunyuan"}', "\x00",
])  # fmt: skip
def test_files_that_are_no_config(text: str, tmp_path: Path) -> None:
    refusal(tmp_path, text)


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: no such file"):
        read_config(tmp_path)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just(10**400)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)


@example(key="num_attention_heads", value=10**400)
@example(key="hidden_size", value="x" * 1000)
@given(key=st.sampled_from([*LARGE, *A13B, "rope_parameters", "head_dim", "quantization_config"]), value=json_values)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_value_is_the_answer_is_a_config_or_one_clear_error(key: str, value: Any, tmp_path: Path) -> None:
    try:
        config = read_config(put(tmp_path, {**LARGE, key: value}))
    except ConfigError as error:
        lines = str(error).split("\n")
        assert len(lines) >= 2 and all(line.startswith("  - ") and len(line) < 400 for line in lines[1:])
    else:
        assert isinstance(config, ModelConfig)


def test_extra_keys_may_not_describe_the_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hidden_size: describes the model itself"):
        write_config(TINY, tmp_path, extra={"hidden_size": 3})
    assert not (tmp_path / "config.json").exists()

"""Configs: the released models' known figures, strictness, and costs that equal those of a model really built."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kaiyuan.errors import ConfigError
from kaiyuan.model import presets
from kaiyuan.model.config import ModelConfig
from kaiyuan.model.experts import Experts
from kaiyuan.model.transformer import Transformer

LADDER = {"1m": 1e6, "3m": 3e6, "10m": 1e7, "30m": 3e7, "100m": 1e8, "300m": 3e8, "1b": 1e9, "3b": 3e9}
SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "num_layers": 4, "num_attention_heads": 4, "num_kv_heads": 2, "head_dim": 8,
    "intermediate_size": 48, "num_experts": 4,
}  # fmt: skip
UNLIKE = {
    "as it is": {},
    "untied": {"tie_word_embeddings": False},
    "no norm of queries and keys": {"qk_norm": False},
    "no sharing": {"cla_share_factor": 1},
    "an incomplete last group": {"cla_share_factor": 3},
    "no shared expert": {"num_shared_experts": 0},
    "every layer its own": {
        "num_experts": (4, 1, 6, 2), "top_k": (2, 1, 3, 2), "num_shared_experts": (0, 1, 2, 3),
        "moe_intermediate_size": (8, 16, 24, 32),
    },
}  # fmt: skip


def built(config: ModelConfig) -> Transformer:
    with torch.device("meta"):
        return Transformer(config)


def part_of(name: str) -> str:
    """Which field of ``ParameterCount`` a parameter belongs to."""
    for part in ("router", "shared", "experts"):
        if f".moe.{part}." in name:
            return part
    if name.endswith("norm.weight"):
        return "norms"
    return "attention" if ".attention." in name else "embedding"


def problems(**changes: Any) -> list[str]:
    """The lines of the one error that a config with ``changes`` raises."""
    with pytest.raises(ConfigError) as caught:
        ModelConfig(**{**SIZES, **changes})
    title, *lines = str(caught.value).split("\n")
    assert title == "the model config cannot be used:"
    return [line.removeprefix("  - ") for line in lines]


def test_hunyuan_large_has_the_papers_figures() -> None:
    """Paper, table 1 (389B, 52B activated) and table 2 (KV cache)."""
    config = ModelConfig.preset("hunyuan-large")
    count, cache = config.parameters(), config.kv_bytes()
    assert f"{count.total / 1e9:.2f}" == "388.70"
    assert f"{count.active / 1e9:.2f}" == "51.32"
    assert f"{count.active_without_embedding / 1e9:.1f}" == "50.5"
    assert count.experts == 64 * 16 * 3 * 6400 * 18_304
    assert config.kv_bytes_per_token() == cache.ours == 81_920
    assert config.kv_bytes_per_token(1) == 40_960
    assert (cache.mha, cache.gqa, cache.mqa, cache.cla) == (1_638_400, 163_840, 20_480, 819_200)
    assert cache.share_of_mha == 0.05
    assert config.kv_bytes_per_token() * config.max_position_embeddings == 20 * 2**30


def test_the_other_released_models_have_their_figures() -> None:
    instruct = ModelConfig.preset("hunyuan-large-instruct").parameters()
    assert f"{instruct.total / 1e9:.2f}" == "388.70"
    assert instruct.total - ModelConfig.preset("hunyuan-large").parameters().total == 512 * 6400
    a13b = ModelConfig.preset("hunyuan-a13b")
    assert f"{a13b.parameters().total / 1e9:.1f}" == "80.4"
    assert a13b.parameters().active == pytest.approx(13e9, rel=0.025)
    assert a13b.kv_bytes().ours == a13b.kv_bytes().gqa == 4 * 8 * 128 * 32


def test_effective_rope_bases() -> None:
    """``theta * alpha ** (d / (d - 2))``: the 1 billion of the paper's 256K stage, and the instruct model's."""
    assert ModelConfig.preset("hunyuan-large").rope_base == pytest.approx(1.343e9, rel=1e-3)
    assert ModelConfig.preset("hunyuan-large-instruct").rope_base == pytest.approx(1.194e7, rel=1e-3)
    assert ModelConfig.preset("1m").rope_base == 10_000


def test_the_ladder_is_all_other_presets() -> None:
    assert set(presets.names()) - set(LADDER) == {"hunyuan-large", "hunyuan-large-instruct", "hunyuan-a13b"}


@pytest.mark.parametrize("name", LADDER)
def test_a_rung_is_as_large_as_its_name_and_shaped_like_hunyuan_large(name: str) -> None:
    config = ModelConfig.preset(name)
    assert config.parameters().active_without_embedding == pytest.approx(LADDER[name], rel=0.08)
    assert (config.num_experts, config.num_shared_experts, config.top_k, config.cla_share_factor) == (16, 1, 1, 2)
    assert config.num_layers % 2 == config.hidden_size % 64 == config.intermediate_size % 64 == 0
    assert 2 <= config.intermediate_size / config.hidden_size <= 3
    assert config.num_attention_heads * config.head_dim == config.hidden_size


@pytest.mark.parametrize("name", presets.names())
def test_counted_parameters_are_those_of_the_model_built(name: str) -> None:
    config = ModelConfig.preset(name)
    assert sum(parameter.numel() for parameter in built(config).parameters()) == config.parameters().total


@pytest.mark.parametrize("variant", UNLIKE)
def test_counted_parameters_are_right_part_by_part(variant: str) -> None:
    config = ModelConfig(**{**SIZES, **UNLIKE[variant]})
    count = config.parameters()
    parts = dict.fromkeys(("embedding", "attention", "norms", "router", "shared", "experts"), 0)
    for name, parameter in Transformer(config).named_parameters():
        parts[part_of(name)] += parameter.numel()
    assert parts == {part: getattr(count, part) for part in parts}
    assert count.total == sum(parts.values())
    one_each = [layer.top_k / layer.num_experts for layer in config.layers()]
    per_layer = [3 * layer.num_experts * layer.expert_size * config.hidden_size for layer in config.layers()]
    assert count.active == count.total - sum(
        size * (1 - share) for size, share in zip(per_layer, one_each, strict=True)
    )


def test_hunyuan_large_can_be_built_without_memory_in_seconds() -> None:
    started = time.monotonic()
    model = built(ModelConfig.preset("hunyuan-large"))
    assert time.monotonic() - started < 20
    assert all(parameter.is_meta for parameter in model.parameters())
    assert len(model.layers) == 64


@pytest.mark.parametrize("variant", UNLIKE)
def test_counted_flops_are_those_that_pytorch_counts(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every matrix product but attention's, forwards exactly and with the backward pass exactly three times as many.

    Attention itself is one fused operation in inference, which PyTorch's counter does not know on a CPU. In training it
    is batched products by blocks of 128 queries: those compute the last, partly masked block in full, so they may count
    up to ``(T + 128) / (T + 1)`` times the exact triangle that ``count_flops`` gives. Experts are not padded here.
    """
    monkeypatch.setattr(Experts, "_pays_to_pad", lambda experts, counts: False)
    config = ModelConfig(**{**SIZES, **UNLIKE[variant]})
    model, length = Transformer(config), 300
    model.init_weights()
    ids = torch.randint(0, config.vocab_size, (2, length), generator=torch.Generator().manual_seed(0))
    expected = config.flops(length)
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        model.eval()(ids)
    assert forward.get_flop_counts()["Global"][torch.ops.aten.mm] == 2 * length * expected.matmul_forward
    with FlopCounterMode(display=False) as both:
        model(ids).square().mean().backward()
    counted = both.get_flop_counts()["Global"]
    assert counted[torch.ops.aten.mm] == 3 * 2 * length * expected.matmul_forward
    over = counted[torch.ops.aten.bmm] / (3 * 2 * length * expected.attention_forward)
    assert 1 <= over <= (length + 128) / (length + 1)
    assert expected.training == 3 * expected.forward


def test_attention_flops_are_the_causal_triangle() -> None:
    config = ModelConfig(**SIZES)
    pairs = sum(range(1, 101))  # query-key pairs of a sequence of 100
    assert config.flops(100).attention_forward * 100 == 2 * 2 * pairs * 4 * 8 * config.num_layers


def test_all_problems_come_in_one_error() -> None:
    found = problems(
        vocab_size=0, hidden_size="64", num_layers=4.0, head_dim=81, norm_eps=0.0, rope_theta=float("nan"),
        rope_alpha=-1.0, init_std=float("inf"), qk_norm=1, num_experts=0, top_k=(1, 1, 1, -1), heads=3, Vocab_size=1,
    )  # fmt: skip
    assert sorted(line.split(":")[0] for line in found) == sorted([
        "vocab_size", "hidden_size", "num_layers", "head_dim", "norm_eps", "rope_theta", "rope_alpha", "init_std",
        "qk_norm", "num_experts", "top_k", "heads", "Vocab_size",
    ])  # fmt: skip
    assert "heads: no such setting" in found
    assert "vocab_size: 0 is not a size of 1 to 100,000,000" in found


def test_missing_settings_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig(vocab_size=64)
    assert str(caught.value).count(": missing") == 6


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_layers": -1}, "num_layers: -1 is not a size of 1 to 100,000,000"),
        ({"num_attention_heads": True}, "num_attention_heads: True is not allowed (input should be a valid integer)"),
        ({"num_kv_heads": 3}, "num_attention_heads: 4 is not a multiple of num_kv_heads 3"),
        ({"head_dim": 2}, "head_dim: 2 is not an even number of at least 4, which RoPE needs"),
        ({"rope_theta": "1e4"}, "rope_theta: '1e4' is not allowed (input should be a valid number)"),
        ({"renormalize": "yes"}, "renormalize: 'yes' is not allowed (input should be a valid boolean)"),
        ({"cla_share_factor": 0}, "cla_share_factor: 0 is not a size of 1 to 100,000,000"),
        ({"num_experts": [4, 4]}, "num_experts: 2 values for 4 layers"),
        ({"num_experts": []}, "num_experts: 0 values for 4 layers"),
        ({"num_experts": 200_000_000}, "num_experts: 200000000 is over 100,000,000"),
        ({"num_shared_experts": -1}, "num_shared_experts: -1 is under 0"),
        ({"moe_intermediate_size": [8, 8, 0, 8]}, "moe_intermediate_size: (8, 8, 0, 8) is under 1"),
        ({"top_k": 5}, "top_k: layer 0 chooses 5 of only 4 experts"),
        ({"top_k": 3, "num_experts": [4, 4, 2, 4]}, "top_k: layer 2 chooses 3 of only 2 experts"),
        ({"max_position_embeddings": 10**12}, "max_position_embeddings: 1000000000000 is not a size"),
    ],
)
def test_an_impossible_value_is_refused_in_one_line(changes: dict[str, Any], problem: str) -> None:
    (found,) = problems(**changes)
    assert found.startswith(problem)


def test_an_unknown_preset_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no preset '2m'; there are: hunyuan-large, .*3b"):
        ModelConfig.preset("2m")
    with pytest.raises(ConfigError, match="hiden_size: no such setting"):
        ModelConfig.preset("1m", hiden_size=64)


def test_per_layer_values_reach_their_layers() -> None:
    config = ModelConfig(**{**SIZES, **UNLIKE["every layer its own"], "num_experts": [4, 1, 6, 2]})
    layers = config.layers()
    assert [layer.num_experts for layer in layers] == [4, 1, 6, 2]
    assert [layer.top_k for layer in layers] == [2, 1, 3, 2]
    assert [layer.shared_size for layer in layers] == [0, 48, 96, 144]
    assert [layer.expert_size for layer in layers] == [8, 16, 24, 32]


@pytest.mark.parametrize(
    ("factor", "producers"), [(1, [0, 1, 2, 3]), (2, [0, 0, 2, 2]), (3, [0, 0, 0, 3]), (9, [0] * 4)]
)
def test_layers_share_keys_and_values_within_their_group(factor: int, producers: list[int]) -> None:
    config = ModelConfig(**SIZES, cla_share_factor=factor)
    assert [layer.producer for layer in config.layers()] == producers
    assert [layer.owns_kv for layer in config.layers()] == [
        index == producer for index, producer in enumerate(producers)
    ]
    assert config.kv_bytes_per_token(4) == 4 * 2 * 2 * 8 * len(set(producers))


def test_probabilities_are_renormalised_for_more_than_one_choice_unless_told_otherwise() -> None:
    config = ModelConfig(**SIZES)
    assert [config.renormalizes(1), config.renormalizes(2)] == [False, True]
    assert config.replace(renormalize=True).renormalizes(1)
    assert not config.replace(renormalize=False).renormalizes(2)


def test_a_config_is_frozen_and_its_copies_are_checked() -> None:
    config = ModelConfig(**SIZES)
    with pytest.raises(ValueError, match="frozen"):
        config.hidden_size = 64
    assert config.replace(hidden_size=64).hidden_size == 64
    assert config.replace() == config
    with pytest.raises(ConfigError, match="hidden_size: -1"):
        config.replace(hidden_size=-1)

"""The whole model against transformers, and what training changes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny_models import TINY, build
from torch import Tensor

from kaiyuan.model.config import ModelConfig
from kaiyuan.model.loss import cross_entropy_sum
from kaiyuan.model.routing import DROPLESS, RoutingPolicy
from kaiyuan.model.transformer import Transformer

IDS = torch.randint(0, 48, (3, 17), generator=torch.Generator().manual_seed(0))


def transformers_model(top_k: int) -> Any:
    """HunYuanMoEV1 with random weights: no layer shares keys, and probabilities are always renormalised."""
    transformers = pytest.importorskip("transformers")
    config = transformers.HunYuanMoEV1Config(
        vocab_size=48, hidden_size=32, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, num_experts=4, moe_topk=top_k, tie_word_embeddings=True, pad_token_id=None,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10_000.0, "alpha": 50.0, "factor": 1.0},
    )  # fmt: skip
    torch.manual_seed(top_k)
    model = transformers.HunYuanMoEV1ForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.uniform_(0.5, 1.5) if name.endswith("norm.weight") else parameter.normal_(0, 0.15)
    return model.eval()


def renamed(weights: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Theirs under our names, written down here once more, apart from ``kaiyuan.checkpoint``."""
    ours = {"embed.weight": weights["model.embed_tokens.weight"], "norm.weight": weights["model.norm.weight"]}
    for i in range(layers):
        here, there = f"layers.{i}", f"model.layers.{i}"
        shared, experts = f"{there}.mlp.shared_mlp", f"{there}.mlp.experts"
        ours |= {f"{here}.attention.{name}.weight": weights[f"{there}.self_attn.{name}.weight"]
                 for name in ("q_proj", "k_proj", "v_proj", "o_proj")}  # fmt: skip
        ours |= {
            f"{here}.attention.q_norm.weight": weights[f"{there}.self_attn.query_layernorm.weight"],
            f"{here}.attention.k_norm.weight": weights[f"{there}.self_attn.key_layernorm.weight"],
            f"{here}.attention_norm.weight": weights[f"{there}.input_layernorm.weight"],
            f"{here}.moe_norm.weight": weights[f"{there}.post_attention_layernorm.weight"],
            f"{here}.moe.router.weight": weights[f"{there}.mlp.gate.wg.weight"],
            f"{here}.moe.shared.gate_up.weight": torch.cat(
                [weights[f"{shared}.gate_proj.weight"], weights[f"{shared}.up_proj.weight"]]
            ),
            f"{here}.moe.shared.down.weight": weights[f"{shared}.down_proj.weight"],
            f"{here}.moe.experts.gate_up": weights[f"{experts}.gate_up_proj"],
            f"{here}.moe.experts.down": weights[f"{experts}.down_proj"],
        }
    return ours


def twins(top_k: int) -> tuple[Any, Transformer]:
    theirs = transformers_model(top_k)
    model = Transformer(
        TINY.replace(num_layers=3, cla_share_factor=1, intermediate_size=24, rope_alpha=50.0, top_k=top_k,
                     renormalize=True)
    )  # fmt: skip
    model.load_state_dict(renamed(theirs.state_dict(), 3))
    return theirs, model.eval()


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_logits_and_hidden_states_equal_those_of_transformers(top_k: int) -> None:
    theirs, ours = twins(top_k)
    with torch.no_grad():
        expected = theirs(IDS, output_hidden_states=True)
        torch.testing.assert_close(ours(IDS), expected.logits, rtol=1e-4, atol=1e-4)
        states = ours.hidden_states(IDS)
    assert len(states) == len(expected.hidden_states) == 4
    for one, other in zip(states, expected.hidden_states, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("top_k", [1, 2])
def test_loss_and_gradients_equal_those_of_transformers(top_k: int) -> None:
    """Every parameter's gradient, through our own backward passes of attention, norms, experts and loss."""
    theirs, ours = twins(top_k)
    expected = theirs(IDS, labels=IDS).loss
    expected.backward()
    ours.train().mode.routing = DROPLESS
    features = ours.features(IDS).x_BTD[:, :-1]
    found = cross_entropy_sum(features, ours.head_weight, IDS[:, 1:]) / IDS[:, 1:].numel()
    found.backward()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    zeros = {name: torch.zeros_like(parameter) for name, parameter in theirs.named_parameters()}
    gradients = zeros | {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    theirs_renamed = renamed(gradients, 3)
    for name, parameter in ours.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(gradient, theirs_renamed[name], rtol=1e-3, atol=1e-5, msg=name)


def test_hidden_states_begin_with_the_embedding_and_end_with_what_the_head_sees() -> None:
    model = build(TINY)
    with torch.no_grad():
        states = model.hidden_states(IDS)
        assert torch.equal(states[0], model.embed.weight[IDS])
        assert torch.equal(model.logits(states[-1]), model(IDS))
        assert len(states) == TINY.num_layers + 1
        assert model.features(IDS).layers == []


def test_no_token_sees_its_future() -> None:
    model = build(TINY)
    changed = IDS.clone()
    changed[1, 9] = (IDS[1, 9] + 5) % 48
    with torch.no_grad():
        differs = (model(IDS) - model(changed)).abs().amax(-1) > 1e-4
    expected = torch.zeros(3, 17, dtype=torch.bool)
    expected[1, 9:] = True
    assert torch.equal(differs, expected)


def one_layer() -> Transformer:
    """A single layer, so that a token that another expert computes changes nothing but its own logits."""
    return build(TINY.replace(num_layers=1))


@pytest.mark.parametrize("mode", ["drop", "recycle"])
def test_only_overflowing_tokens_are_computed_otherwise_in_training(mode: str) -> None:
    model = one_layer()
    with torch.no_grad():
        expected = model(IDS)
        model.train().mode.routing = RoutingPolicy(mode, 1.0, min_capacity=1)  # type: ignore[arg-type]
        features = model.features(IDS)
        found = model.logits(features.x_BTD)
    differs = (found - expected).abs().amax(-1) > 1e-4
    (stats,) = features.router
    share = stats.recycled if mode == "recycle" else stats.dropped
    assert 0 < int(differs.sum()) == round(float(share) * IDS.numel())
    assert float(stats.dropped + stats.recycled) == float(share)


def test_capacity_enough_for_all_makes_training_and_inference_equal() -> None:
    model = build(TINY)
    with torch.no_grad():
        expected = model(IDS)
        model.train().mode.routing = RoutingPolicy("recycle", 4.0, min_capacity=1)
        torch.testing.assert_close(model(IDS), expected, rtol=1e-4, atol=1e-4)


def test_the_step_and_the_layer_change_what_recycling_draws() -> None:
    model = one_layer().train()
    model.mode.routing = RoutingPolicy("recycle", 1.0, min_capacity=1)
    with torch.no_grad():
        first, again = model(IDS), model(IDS)
        model.mode.step = 1
        later = model(IDS)
        model.layers[0].moe.index = 1
        elsewhere = model(IDS)
    assert torch.equal(first, again)
    assert not torch.allclose(first, later, atol=1e-3)
    assert not torch.allclose(later, elsewhere, atol=1e-3)


def test_the_router_computes_in_float32_whatever_it_is_given() -> None:
    """bfloat16 products of these would be rounded to 8 bits, and near ties decided by rounding."""
    router = build(TINY).layers[0].moe.router
    x = torch.randn(50, 32, generator=torch.Generator().manual_seed(3)).bfloat16()
    with torch.no_grad():
        found = router(x)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), x.double() @ router.weight.double().T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("silent", ["o_proj", "down"])
def test_hidden_dropout_falls_on_attention_and_on_experts(silent: str) -> None:
    """With one of the two silent, only the other's output is left to drop."""
    model = one_layer().train()
    model.mode.hidden_dropout, model.mode.routing = 0.5, DROPLESS
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if silent in name:
                parameter.zero_()
        assert not torch.allclose(model(IDS), model(IDS), atol=1e-2)


def test_hidden_dropout_works_in_training_alone() -> None:
    model = build(TINY)
    model.mode.hidden_dropout, model.mode.routing = 0.5, DROPLESS
    with torch.no_grad():
        assert torch.equal(model(IDS), model(IDS))
        assert model.features(IDS).router == []
        torch.manual_seed(0)
        assert not torch.allclose(model.train()(IDS), model(IDS), atol=1e-2)
        assert len(model.features(IDS).router) == 4


def test_new_weights_depend_on_name_and_seed_alone() -> None:
    """Not on other layers, nor on whether layers share keys, have a shared expert or a head of their own."""
    models = [
        Transformer(TINY.replace(**changes))
        for changes in ({}, {"cla_share_factor": 1}, {"num_shared_experts": 0}, {"tie_word_embeddings": False},
                        {"qk_norm": False})
    ]  # fmt: skip
    for model in models:
        torch.manual_seed(len(list(model.parameters())))
        model.init_weights(7)
    first = dict(models[0].named_parameters())
    for model in models[1:]:
        for name, parameter in model.named_parameters():
            assert name not in first or torch.equal(parameter, first[name]), name
    values = [parameter.detach() for name, parameter in first.items() if not name.endswith("norm.weight")]
    assert len({float(value.flatten()[0]) for value in values}) == len(values), "no two parameters start alike"
    models[1].init_weights(8)
    assert not torch.equal(models[1].embed.weight, models[0].embed.weight)


def test_new_weights_have_the_scales_they_should() -> None:
    config = ModelConfig.preset("1m", vocab_size=512)
    model = Transformer(config)
    model.init_weights()
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            assert (parameter == 1).all(), name
            continue
        smaller = name.endswith(("o_proj.weight", "down.weight", "experts.down"))
        std = 0.02 / math.sqrt(2 * 4) if smaller else 0.02
        assert float(parameter.detach().std()) == pytest.approx(std, rel=0.1), name
        assert abs(float(parameter.detach().mean())) < 5 * std / math.sqrt(parameter.numel()), name


def test_activations_may_be_narrower_than_weights() -> None:
    model = build(TINY)
    with torch.no_grad():
        exact = model(IDS)
        model.compute_dtype = torch.bfloat16
        rounded = model(IDS)
        assert model.features(IDS).x_BTD.dtype == torch.bfloat16
    assert rounded.dtype == torch.float32
    assert 0 < float((rounded - exact).norm() / exact.norm()) < 0.1
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    model(IDS).sum().backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())

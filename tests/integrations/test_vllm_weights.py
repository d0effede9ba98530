"""How the vLLM plugin takes tensors from a folder; none of this needs vLLM."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from kaiyuan.checkpoint.names import released_tensors
from kaiyuan.errors import CheckpointError
from kaiyuan.integrations.vllm.weights import Gains, Place, is_gain, place, released
from kaiyuan.model.config import ModelConfig

CONFIG = ModelConfig(
    vocab_size=24,
    hidden_size=16,
    num_layers=4,
    num_attention_heads=4,
    num_kv_heads=2,
    head_dim=4,
    intermediate_size=12,
    num_experts=3,
)
LAYER = "model.layers.0"


def tensors(config: ModelConfig = CONFIG) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in released_tensors(config).items()}


def error_of(stored: dict[str, Tensor], config: ModelConfig = CONFIG) -> str:
    with pytest.raises(CheckpointError) as caught:
        list(released(stored.items(), config))
    return str(caught.value)


def test_order_does_not_matter_and_nothing_is_lost() -> None:
    stored = tensors()
    found = dict(released(reversed(stored.items()), CONFIG))
    assert found.keys() == stored.keys()
    assert all(found[name] is stored[name] for name in stored)


def test_fused_tensors_are_taken_apart() -> None:
    stored = tensors()
    fused = dict(stored)
    attention, expert = f"{LAYER}.self_attn", f"{LAYER}.mlp.experts.1"
    queries = fused.pop(f"{attention}.q_proj.weight").chunk(2)
    keys, values = (fused.pop(f"{attention}.{name}_proj.weight").chunk(2) for name in "kv")
    fused[f"{attention}.qkv_proj.weight"] = torch.cat([queries[0], keys[0], values[0], queries[1], keys[1], values[1]])
    up, gate = fused.pop(f"{expert}.up_proj.weight"), fused.pop(f"{expert}.gate_proj.weight")
    fused[f"{expert}.gate_and_up_proj.weight"] = torch.cat([up, gate])
    found = dict(released(fused.items(), CONFIG))
    assert found.keys() == stored.keys()
    assert all(torch.equal(found[name], stored[name]) for name in stored)


def test_biases_of_linear_layers_are_skipped_but_no_others() -> None:
    stored = tensors()
    biases = {f"{LAYER}.self_attn.q_proj.bias": torch.ones(16), f"{LAYER}.mlp.experts.0.up_proj.bias": torch.ones(12)}
    assert dict(released((stored | biases).items(), CONFIG)).keys() == stored.keys()
    assert "surplus" in error_of({**stored, "model.norm.bias": torch.ones(16)})


def test_everything_that_is_wrong_is_listed_at_once() -> None:
    stored = tensors()
    del stored[f"{LAYER}.self_attn.key_layernorm.weight"]
    stored["model.layers.1.self_attn.k_proj.weight"] = torch.ones(8, 16)  # an odd layer has no keys of its own
    stored["model.norm.weight"] = torch.ones(17)
    stored[f"{LAYER}.mlp.experts.2.up_proj.weight"] = torch.ones(12, 16, dtype=torch.int8)
    message = error_of(stored)
    assert f"{LAYER}.self_attn.key_layernorm.weight: missing" in message
    assert "model.layers.1.self_attn.k_proj.weight: surplus" in message
    assert "model.norm.weight: has shape [17], the model needs [16]" in message
    assert "experts.2.up_proj.weight: holds int8" in message
    assert len(message.splitlines()) == 5


def test_a_tensor_stored_alone_and_fused_is_an_error() -> None:
    fused = torch.zeros(24, 16)
    assert "stored twice" in error_of({**tensors(), f"{LAYER}.mlp.shared_mlp.gate_and_up_proj.weight": fused})


def test_tied_head() -> None:
    stored = tensors()
    embedding = stored["model.embed_tokens.weight"]
    assert "lm_head.weight" not in dict(released({"lm_head.weight": embedding.clone(), **stored}.items(), CONFIG))
    assert "differs" in error_of({"lm_head.weight": embedding + 1, **stored})


def test_every_tensor_has_a_place_of_its_own_but_the_gains() -> None:
    names = [name for name in tensors() if not is_gain(name)]
    assert len({place(name, CONFIG) for name in names}) == len(names)
    gains = [name for name in tensors() if is_gain(name)]
    assert len({place(name, CONFIG) for name in gains}) == len(gains) // 2 == CONFIG.num_layers
    assert place(f"{LAYER}.self_attn.k_proj.weight", CONFIG) == Place(f"{LAYER}.self_attn.qkv_proj.weight", "k")
    q_proj = "model.layers.1.self_attn.q_proj.weight"
    assert place(q_proj, CONFIG) == Place(q_proj)
    expert = place(f"{LAYER}.mlp.experts.2.up_proj.weight", CONFIG)
    assert expert == Place(f"{LAYER}.mlp.experts.routed_experts.w13_weight", "w3", 2)


def test_gains_are_multiplied_in_either_order() -> None:
    query, key = torch.tensor([2.0, 3.0]), torch.tensor([5.0, 7.0])
    for first, second in ((query, key), (key, query)):
        gains = Gains()
        assert gains.fold("a", first.bfloat16()) is None
        assert gains.fold("b", first) is None
        product = gains.fold("a", second)
        assert product is not None and product.tolist() == [10.0, 21.0]


def test_modules_import_without_vllm_and_registering_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['vllm'] = None; sys.modules['transformers'] = None\n"
        "import kaiyuan.integrations.vllm.model, kaiyuan.integrations.vllm.quantized\n"
        "from kaiyuan.integrations.vllm.plugin import register\n"
        "try: register()\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("KaiyuanError vLLM is not installed")
    assert done.stdout.count("\n") == 1

"""A tiny model in transformers and in kaiyuan with the same weights, and a tokenizer for both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from kaiyuan.checkpoint import load_model
from kaiyuan.model.transformer import Transformer
from kaiyuan.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

TEXT = [
    "What is 17 + 25? The answer is 42, and nothing else will do.",
    "The capital of France is Paris; the capital of Japan is Tokyo.",
    "法国的首都是巴黎，日本的首都是东京。十七加二十五等于四十二。",
    "a quick brown fox jumps over the lazy dog while many small birds sing in the old green trees",
] * 3


def tiny_pair(folder: Path, seed: int = 0) -> tuple[Any, Transformer, Tokenizer]:
    """(transformers model, our model, tokenizer) in float32, ready to train, all from files in ``folder``."""
    from transformers import HunYuanMoEV1Config, HunYuanMoEV1ForCausalLM

    train_tokenizer(TEXT, 420).save(folder)
    tokenizer = load_tokenizer(folder)
    config = HunYuanMoEV1Config(
        vocab_size=448, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, num_experts=4, moe_topk=2, max_position_embeddings=256,
        tie_word_embeddings=True, pad_token_id=tokenizer.pad_id, bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
        rope_parameters={"rope_type": "dynamic", "alpha": 1000.0, "factor": 1.0, "rope_theta": 10000.0},
    )  # fmt: skip
    torch.manual_seed(seed)
    theirs = HunYuanMoEV1ForCausalLM(config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
    theirs.save_pretrained(folder)
    ours = load_model(folder)
    ours.mode.routing = type(ours.mode.routing)(mode="dropless")
    return theirs, ours, tokenizer


def assert_same_gradients(theirs: Any, ours: Transformer, tolerance: float = 1e-5) -> None:
    """Compare the gradients of attention, router, norms and embedding by name, and of the experts by block."""
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    found = {name: parameter.grad for name, parameter in ours.named_parameters()}
    pairs = {"model.embed_tokens.weight": "embed.weight", "model.norm.weight": "norm.weight"}
    for layer in range(2):
        their, our = f"model.layers.{layer}.", f"layers.{layer}."
        pairs |= {f"{their}self_attn.{name}_proj.weight": f"{our}attention.{name}_proj.weight" for name in "qkvo"}
        pairs |= {
            f"{their}self_attn.query_layernorm.weight": f"{our}attention.q_norm.weight",
            f"{their}self_attn.key_layernorm.weight": f"{our}attention.k_norm.weight",
            f"{their}mlp.gate.wg.weight": f"{our}moe.router.weight",
            f"{their}mlp.experts.gate_up_proj": f"{our}moe.experts.gate_up",
            f"{their}mlp.experts.down_proj": f"{our}moe.experts.down",
            f"{their}mlp.shared_mlp.down_proj.weight": f"{our}moe.shared.down.weight",
        }
    for their_name, our_name in pairs.items():
        torch.testing.assert_close(found[our_name], expected[their_name], rtol=1e-4, atol=tolerance, msg=our_name)

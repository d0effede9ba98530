"""Tiny models: one of ours alone, and one in transformers and in kaiyuan with the same weights and a tokenizer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from kaiyuan import ModelConfig
from kaiyuan.checkpoint import load_model
from kaiyuan.model.routing import DROPLESS
from kaiyuan.model.transformer import Transformer
from kaiyuan.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

TEXT = [
    "What is 17 + 25? The answer is 42, and nothing else will do.",
    "The capital of France is Paris; the capital of Japan is Tokyo.",
    "法国的首都是巴黎，日本的首都是东京。十七加二十五等于四十二。",
    "a quick brown fox jumps over the lazy dog while many small birds sing in the old green trees",
] * 3


def tiny_model(seed: int = 1, vocab_size: int = 100) -> Transformer:
    """Two pairs of layers with large random weights, in float32, without drops."""
    config = ModelConfig(
        vocab_size=vocab_size, hidden_size=32, num_layers=4, num_attention_heads=4, num_kv_heads=2, head_dim=8,
        intermediate_size=48, num_experts=4, init_std=0.2,
    )  # fmt: skip
    model = Transformer(config)
    model.init_weights(seed)
    model.mode.routing = DROPLESS
    return model.train()


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
    ours.mode.routing = DROPLESS
    return theirs, ours, tokenizer


def assert_same_gradients(theirs: Any, ours: Transformer, folder: Path, tolerance: float = 1e-5) -> None:
    """Compare the gradients of every parameter. Theirs are saved as if they were weights, and loaded as ours."""
    gradients = copy.deepcopy(theirs)
    with torch.no_grad():
        for parameter, source in zip(gradients.parameters(), theirs.parameters(), strict=True):
            parameter.copy_(source.grad)
    gradients.save_pretrained(folder)
    for name, expected in load_model(folder).named_parameters():
        found = ours.get_parameter(name).grad
        assert expected.abs().max() > 100 * tolerance, f"{name}: gradients too small to compare"
        torch.testing.assert_close(
            found, expected, rtol=1e-4, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )

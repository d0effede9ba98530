"""A tiny model, and as a folder on disk, as ``kaiyuan serve`` is given one."""

from __future__ import annotations

from pathlib import Path

from kaiyuan import ModelConfig
from kaiyuan.checkpoint import save_model
from kaiyuan.model.transformer import Transformer
from kaiyuan.tokenizer import Tokenizer

CONTEXT = 512


def tiny_model(tokenizer: Tokenizer) -> Transformer:
    """Random weights, large enough that next tokens differ from context to context."""
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_layers=2,
        num_attention_heads=4,
        num_kv_heads=2,
        head_dim=8,
        intermediate_size=48,
        num_experts=4,
        max_position_embeddings=CONTEXT,
        init_std=0.3,
    )
    model = Transformer(config)
    model.init_weights(1)
    return model.eval()


def write_tiny_folder(folder: Path, tokenizer: Tokenizer) -> Path:
    save_model(tiny_model(tokenizer), folder)
    tokenizer.save(folder)
    return folder

"""Random models for the vLLM tests: a gain left out, a weight renormalised or a key cached with its gain shows."""

from __future__ import annotations

import torch

from kaiyuan.model.config import ModelConfig
from kaiyuan.model.transformer import Transformer

LARGE = ModelConfig(
    vocab_size=160,
    hidden_size=128,
    num_layers=4,
    num_attention_heads=4,
    num_kv_heads=2,
    head_dim=32,
    intermediate_size=64,
    num_experts=8,
    rope_alpha=1000.0,
    max_position_embeddings=512,
)


def random_model(config: ModelConfig) -> Transformer:
    """Gains are random too, and weights large enough to tell experts apart."""
    model = Transformer(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if name.endswith("norm.weight"):
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.normal_(0.0, 0.15, generator=generator)
    return model

"""Small models with nothing symmetric in them, so that a swapped or misplaced tensor changes what they compute."""

from __future__ import annotations

import torch

from kaiyuan.model.config import ModelConfig
from kaiyuan.model.transformer import Transformer

TINY = ModelConfig(
    vocab_size=48,
    hidden_size=32,
    num_layers=4,
    num_attention_heads=4,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=20,
    num_experts=4,
    rope_alpha=1000.0,
)


def build(config: ModelConfig, seed: int = 0) -> Transformer:
    """A random model whose norms' gains are random too, and whose weights are large enough to tell experts apart."""
    model = Transformer(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if name.endswith("norm.weight"):
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.normal_(0.0, 0.15, generator=generator)
    return model.eval()

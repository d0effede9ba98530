"""Models of known size: the released ones, and a ladder on which every rung keeps Hunyuan-Large's proportions.

The ladder keeps 1 shared + 16 specialised experts with top-1 routing, CLA over pairs of layers and QK-norm; a rung's
name is its activated parameters without the embedding (whose size is the tokenizer's affair).
"""

from __future__ import annotations

from typing import Any

from kaiyuan.errors import ConfigError
from kaiyuan.model.config import ModelConfig

_HUNYUAN_LARGE: dict[str, Any] = {
    "vocab_size": 128_512,
    "hidden_size": 6400,
    "num_layers": 64,
    "num_attention_heads": 80,
    "num_kv_heads": 8,
    "head_dim": 80,
    "intermediate_size": 18_304,
    "rope_alpha": 100_000.0,
    "max_position_embeddings": 262_144,
}

_HUNYUAN_A13B: dict[str, Any] = {
    "vocab_size": 128_167,
    "hidden_size": 4096,
    "num_layers": 32,
    "num_attention_heads": 32,
    "num_kv_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
    "moe_intermediate_size": (3072,) * 32,
    "num_experts": 64,
    "num_shared_experts": (1,) * 32,
    "top_k": (8,) * 32,
    "cla_share_factor": 1,
    "rope_alpha": 1000.0,
    "max_position_embeddings": 32_768,
}


def _rung(
    hidden: int, layers: int, heads: int, kv_heads: int, head_dim: int, width: int, **more: Any
) -> dict[str, Any]:
    return {
        "vocab_size": 128_512,
        "hidden_size": hidden,
        "num_layers": layers,
        "num_attention_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "intermediate_size": width,
        **more,
    }


_PRESETS: dict[str, dict[str, Any]] = {
    "hunyuan-large": _HUNYUAN_LARGE,
    "hunyuan-large-instruct": {
        **_HUNYUAN_LARGE, "vocab_size": 129_024, "rope_alpha": 1000.0, "max_position_embeddings": 131_072,
    },
    "hunyuan-a13b": _HUNYUAN_A13B,
    "1m": _rung(128, 4, 4, 2, 32, 256),
    "3m": _rung(192, 6, 6, 2, 32, 384),
    "10m": _rung(256, 8, 4, 2, 64, 704),
    "30m": _rung(384, 12, 6, 2, 64, 960),
    "100m": _rung(640, 14, 10, 2, 64, 1664),
    "300m": _rung(1024, 16, 16, 4, 64, 2688),
    "1b": _rung(1536, 24, 24, 4, 64, 3968),
    "3b": _rung(2560, 28, 32, 8, 80, 6016),
}  # fmt: skip


def names() -> list[str]:
    """The presets' names, the released models first, then the ladder from small to large."""
    return list(_PRESETS)


def preset(name: str, **overrides: Any) -> ModelConfig:
    """The config called ``name``; ``overrides`` replace single values (``vocab_size`` for one's own tokenizer, say)."""
    if name not in _PRESETS:
        raise ConfigError(f"no preset {name!r}; there are: {', '.join(names())}")
    return ModelConfig(**{**_PRESETS[name], **overrides})

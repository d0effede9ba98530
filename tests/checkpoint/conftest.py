"""Small models with nothing symmetric in them, so that a swapped or misplaced tensor changes what they compute."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from kaiyuan.checkpoint import save_model
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


@pytest.fixture
def tiny_model() -> Transformer:
    return build(TINY)


@pytest.fixture
def tiny_folder(tiny_model: Transformer, tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    save_model(tiny_model, folder)
    return folder


@pytest.fixture
def input_ids() -> torch.Tensor:
    return torch.randint(0, TINY.vocab_size, (2, 17), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=["large-tiny", "v1-tiny"])
def golden(request: pytest.FixtureRequest) -> Path:
    """A folder with a small model and what its authors' own code computes with it."""
    given = os.environ.get("KAIYUAN_SHARED")
    shared = Path(given) if given else Path(__file__).parents[3] / "shared"
    folder = shared / "golden" / request.param
    if not folder.is_dir():
        pytest.skip(f"no golden files at {folder} (set KAIYUAN_SHARED to where they are)")
    return folder

"""A small model, a folder of it, and the folders with known outputs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from tiny_models import TINY, build

from kaiyuan.checkpoint import save_model
from kaiyuan.model.transformer import Transformer


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

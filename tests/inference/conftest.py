"""What tests of kernels without a GPU need of Triton's interpreter."""

from __future__ import annotations

import numpy as np
import pytest
import torch


@pytest.fixture
def rows_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter multiplies by numpy, where a row's last bit may depend on its place (on Zen 3 it does)."""
    if not torch.cuda.is_available():
        monkeypatch.setattr(np, "matmul", lambda a, b, dtype=None: np.einsum("ij,jk->ik", a, b, dtype=dtype))

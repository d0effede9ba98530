"""Training in fp8: where it is refused, and that weights are coded anew when they have changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_process import CONFIG, RandomTokens

from kaiyuan.errors import KaiyuanError
from kaiyuan.model import linear
from kaiyuan.model.transformer import Transformer
from kaiyuan.training import fp8, master_adamw
from kaiyuan.training.objective import language_model_loss
from kaiyuan.training.trainer import Trainer, TrainerSettings

kernels = pytest.importorskip("kaiyuan.model.kernels.fp8", reason="Triton is not installed (it exists for Linux only)")


def test_fp8_is_refused_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TrainerSettings(1, 1e-3, fp8=True)
    model = Transformer(CONFIG, torch.bfloat16)
    with pytest.raises(KaiyuanError, match=r"^fp8 = true: it needs a GPU of Hopper.*leave it out"):
        Trainer("", model, RandomTokens(), language_model_loss, settings, tmp_path)
    with pytest.raises(KaiyuanError, match="in one process"):
        fp8.check_fp8(model, alone=False)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(fp8, "on_gpu", lambda x: True)
    fp8.check_fp8(model, alone=True)
    with pytest.raises(KaiyuanError, match="bfloat16 as the compute dtype"):
        fp8.check_fp8(Transformer(CONFIG, torch.float32), alone=True)
    odd = CONFIG.replace(intermediate_size=CONFIG.intermediate_size + 8)
    with pytest.raises(KaiyuanError, match=r"width is .*16 does not divide"):
        fp8.check_fp8(Transformer(odd, torch.bfloat16), alone=True)


def test_codes_are_made_once_for_each_value_of_a_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """An update by a kernel counts, though PyTorch does not notice it; so does one that PyTorch makes."""
    monkeypatch.setattr(kernels, "_PROGRAMS", 4)  # the interpreter runs one after the other
    weight = torch.nn.Parameter(torch.randn(32, 16, generator=torch.Generator().manual_seed(0)))
    linear.keep_copies([weight], torch.float16)
    first = linear.codes(weight, torch.float16)
    assert linear.codes(weight, torch.float16) is first
    scale = first.scale_EO.clone()

    def update(parameter: torch.Tensor, grad: torch.Tensor, *rest: object, **settings: object) -> None:
        parameter.data.mul_(2)
        linear.leaf(weight).data.mul_(2)

    monkeypatch.setattr(master_adamw, "_update_of", lambda parameter: update)
    optimizer = master_adamw.MasterAdamW([{"params": [weight]}], (0.9, 0.95), 1e-8)
    linear.leaf(weight).grad = torch.ones(32, 16, dtype=torch.float16)
    optimizer.step()
    torch.testing.assert_close(linear.codes(weight, torch.float16).scale_EO, 2 * scale)
    with torch.no_grad():
        weight.mul_(2)
    torch.testing.assert_close(linear.codes(weight, torch.float16).scale_EO, 4 * scale)

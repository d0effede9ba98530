"""The whole path that training takes on a GPU, on the CPU through Triton's interpreter, against the plain one.

Not with recycle routing: its random choices hash the probabilities' bits, so rounding alone makes others.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import TINY
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed (it exists for Linux only)")

from training_process import CONFIG, RandomTokens

from kaiyuan.model import experts, fused, loss, routing
from kaiyuan.model.config import ModelConfig
from kaiyuan.model.fused import use_kernels
from kaiyuan.model.linear import collect_gradients, drop_copies, gradient, keep_copies, leaf
from kaiyuan.model.loss import cross_entropy_sum
from kaiyuan.model.routing import RoutingPolicy
from kaiyuan.model.transformer import Recompute, Transformer
from kaiyuan.training import master_adamw, optimizer
from kaiyuan.training.objective import language_model_loss
from kaiyuan.training.trainer import Trainer, TrainerSettings

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="benchmarks/train_gpu.py checks this on a GPU")
SMALL: ModelConfig = TINY.replace(num_layers=2)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for module in (fused, loss, routing, experts, optimizer, master_adamw):
        monkeypatch.setattr(module, "on_gpu", lambda x: True)
    return monkeypatch


def made(config: ModelConfig, policy: RoutingPolicy, dtype: torch.dtype | None = None) -> Transformer:
    model = Transformer(config, dtype)
    model.init_weights()
    model.mode.routing = policy
    return model.train()


def gradients(model: Transformer, documents: bool = False) -> dict[str, Tensor]:
    ids = torch.randint(model.config.vocab_size, (2, 13), generator=torch.Generator().manual_seed(0))
    numbers = torch.tensor([[0] * 5 + [1] * 7, [0] * 12]) if documents else None
    features = model.features(ids[:, :-1], documents_BT=numbers)
    total = cross_entropy_sum(features.x_BTD, model.head_weight, ids[:, 1:])
    balance = torch.stack([stats.balance_loss + 0.1 * stats.z_loss for stats in features.router]).sum()
    (total + balance).backward()
    found = {name: gradient(parameter) for name, parameter in model.named_parameters()}
    return {"loss": total.detach(), **{name: grad for name, grad in found.items() if grad is not None}}


@pytest.mark.parametrize(
    ("mode", "top_k", "documents", "recompute"),
    [("dropless", 1, False, "none"), ("drop", 1, True, "experts"), ("drop", 2, False, "blocks")],
)
def test_loss_and_all_gradients_are_those_of_the_plain_path(
    mode: str, top_k: int, documents: bool, recompute: Recompute, kernels: pytest.MonkeyPatch
) -> None:
    config, policy = SMALL.replace(top_k=top_k), RoutingPolicy(mode, 0.8, 1)  # type: ignore[arg-type]
    found_model = made(config, policy)
    found_model.recompute(recompute)
    found = gradients(found_model, documents)
    kernels.undo()
    expected = gradients(made(config, policy), documents)
    assert found.keys() == expected.keys() == {"loss", *dict(found_model.named_parameters())}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=2e-4, atol=2e-5, msg=name)


@pytest.mark.parametrize("recompute", ["experts", "blocks"])
def test_recomputation_changes_no_bit(recompute: Recompute) -> None:
    """Dropout, recycle routing and the statistics included; without kernels, "experts" keeps all."""
    found = []
    for what in ("none", recompute):
        model = made(SMALL, RoutingPolicy("recycle", 1.0, 1))
        model.mode.hidden_dropout = 0.2
        model.recompute(what)  # type: ignore[arg-type]
        torch.manual_seed(5)
        found.append(gradients(model))
    for name, value in found[0].items():
        assert torch.equal(found[1][name], value), name


def run(folder: Path, steps: int, parts: int = 1) -> Trainer:
    folder.mkdir()
    model = Transformer(CONFIG, torch.float32)
    model.init_weights()
    settings = TrainerSettings(steps=steps, lr=0.01, clip=0.5, micro_batches=parts, checkpoint_every=1,
                               routing=RoutingPolicy("drop", 1.0, 1))  # fmt: skip
    trainer = Trainer("test", model, RandomTokens(), language_model_loss, settings, folder)
    trainer.fit()
    return trainer


def test_the_trainer_takes_the_same_steps(tmp_path: Path, kernels: pytest.MonkeyPatch) -> None:
    found = run(tmp_path / "found", 2)
    assert type(found.optimizer).__name__ == "MasterAdamW"
    kernels.undo()
    use_kernels(False)
    expected = run(tmp_path / "expected", 2)
    use_kernels(True)
    assert type(expected.optimizer).__name__ == "AdamW"
    for name, value in expected.model.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[name], value, rtol=1e-3, atol=1e-5)
    names = [(tmp_path / name / "checkpoints" / "step-00000001" / "optimizer.safetensors") for name in
             ("found", "expected")]  # fmt: skip
    from safetensors.torch import load_file

    one, other = (load_file(name) for name in names)
    assert one.keys() == other.keys()
    for key, value in other.items():
        torch.testing.assert_close(one[key], value, rtol=2e-3, atol=1e-6, msg=key)


def linear(dtype: torch.dtype = torch.float16) -> torch.nn.Linear:
    layer = torch.nn.Linear(3, 4)
    keep_copies(layer.parameters(), dtype)
    return layer


def test_a_copy_follows_its_weight() -> None:
    layer = linear()
    copy = leaf(layer.weight)
    assert copy.dtype == torch.float16
    assert torch.equal(copy, layer.weight.half())
    layer.load_state_dict({name: value + 1 for name, value in layer.state_dict().items()})
    assert leaf(layer.weight) is copy
    assert torch.equal(copy, layer.weight.half())
    drop_copies(layer.parameters())
    assert leaf(layer.weight) is layer.weight


def test_gradients_of_copies_add_up_in_float32() -> None:
    layer = linear()
    total = torch.zeros(4, 3)
    for part in range(3):
        grad = torch.full((4, 3), 1 + 0.001 * part).half()
        leaf(layer.weight).backward(grad)
        total += grad.float()
        collect_gradients(layer.parameters())
    assert leaf(layer.weight).grad is None
    assert gradient(layer.weight) is layer.weight.grad
    assert torch.equal(layer.weight.grad, total)  # type: ignore[arg-type]
    leaf(layer.weight).backward(torch.ones(4, 3).half())
    assert torch.equal(gradient(layer.weight), total + 1)  # type: ignore[arg-type]


def test_the_norm_of_all_gradients_is_that_of_large_and_small_ones_together(kernels: pytest.MonkeyPatch) -> None:
    kernels.setattr(optimizer, "_LARGE", 1000)
    kernels.setattr(optimizer, "native", lambda x: False)
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(size, generator=generator) for size in (5000, 15, 9)]
    grads[1] = grads[1].half()
    expected = torch.cat([grad.double() for grad in grads]).norm().float()
    torch.testing.assert_close(optimizer._norm(grads), expected, rtol=1e-5, atol=0)

"""The trainer: groups, schedule, guard, micro-batches, averages, and exact resumption."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kaiyuan import ModelConfig
from kaiyuan.errors import CheckpointError, TrainingError
from kaiyuan.model.routing import DROPLESS, RoutingPolicy
from kaiyuan.model.transformer import Transformer
from kaiyuan.training.batch import Batch
from kaiyuan.training.guard import LossGuard
from kaiyuan.training.objective import language_model_loss
from kaiyuan.training.optimizer import expert_lr_ratio, optimal_lr, parameter_groups
from kaiyuan.training.schedule import Schedule
from kaiyuan.training.trainer import Trainer, TrainerSettings

CONFIG = ModelConfig(
    vocab_size=64, hidden_size=32, num_layers=2, num_attention_heads=2, num_kv_heads=1, head_dim=16,
    intermediate_size=48, num_experts=4,
)  # fmt: skip


def model(seed: int = 0, dtype: torch.dtype | None = None) -> Transformer:
    made = Transformer(CONFIG, dtype)
    made.init_weights(seed)
    return made


class RandomTokens:
    """Batches of random tokens that depend on the step alone."""

    def batch(self, step: int, model: Transformer) -> Batch:
        ids = torch.randint(64, (4, 17), generator=torch.Generator().manual_seed(step))
        return Batch(ids[:, :-1], ids[:, 1:], torch.ones(4, 16))


SETTINGS = TrainerSettings(steps=6, lr=0.01, warmup=2, checkpoint_every=3, hidden_dropout=0.1, ema_decay=0.5,
                           routing=RoutingPolicy(capacity_factor=1.0, min_capacity=1))  # fmt: skip


def trainer(folder: Path, settings: TrainerSettings = SETTINGS, dtype: torch.dtype | None = torch.bfloat16) -> Trainer:
    folder.mkdir(parents=True, exist_ok=True)
    return Trainer("test", model(dtype=dtype), RandomTokens(), language_model_loss, settings, folder)


def log(folder: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "time"} for line in lines]


def test_a_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    expected = whole.fit()

    class Stop(Exception):
        pass

    def stop(step: int) -> None:
        if step == 4:
            raise Stop

    first = trainer(tmp_path / "halved")
    first.on_step = stop
    with pytest.raises(Stop):
        first.fit()
    second = trainer(tmp_path / "halved")
    assert second.step == 3
    found = second.fit()
    assert log(tmp_path / "halved") == log(tmp_path / "whole")
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    for name, value in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value), name


def test_the_average_is_exponential(tmp_path: Path) -> None:
    made = trainer(tmp_path, replace(SETTINGS, steps=3, checkpoint_every=100))
    average = {name: value.clone() for name, value in made.model.state_dict().items()}
    weights: list[dict[str, torch.Tensor]] = []
    made.on_step = lambda step: weights.append({k: v.clone() for k, v in made.model.state_dict().items()})
    found = made.fit()
    for after in weights:
        average = {name: 0.5 * value + 0.5 * after[name] for name, value in average.items()}
    for name, value in average.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-7)


def test_micro_batches_add_up_to_the_batch(tmp_path: Path) -> None:
    gradients = []
    for parts in (1, 2, 4):
        settings = replace(SETTINGS, micro_batches=parts, routing=DROPLESS, hidden_dropout=0.0, balance_loss=0.0)
        made = trainer(tmp_path / str(parts), settings, dtype=None)
        made._set_mode()
        made.model.train()
        metrics, _ = made._forward_backward(RandomTokens().batch(0, made.model))
        gradients.append((metrics["loss"], [p.grad.clone() for p in made.model.parameters() if p.grad is not None]))
    for loss, found in gradients[1:]:
        assert loss == pytest.approx(gradients[0][0], rel=1e-6)
        for one, other in zip(found, gradients[0][1], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_the_balance_loss_reaches_the_router(tmp_path: Path) -> None:
    grads = []
    for coefficient in (0.0, 1.0):
        made = trainer(tmp_path / str(coefficient), replace(SETTINGS, balance_loss=coefficient, hidden_dropout=0.0))
        made._set_mode()
        made.model.train()
        made._forward_backward(RandomTokens().batch(0, made.model))
        grads.append(made.model.layers[0].moe.router.weight.grad.clone())
    assert (grads[0] - grads[1]).norm() > 0.01 * grads[0].norm()


def test_every_parameter_is_in_one_group_with_its_rate_and_decay() -> None:
    groups = parameter_groups(model(), weight_decay=0.1, expert_ratio=0.31)
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(name for name, _ in model().named_parameters())
    for group in groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            assert group["lr_scale"] == (0.31 if ".experts." in name else 1.0)
            assert group["weight_decay"] == (0.0 if parameter.dim() == 1 else 0.1)


def test_expert_learning_rate_ratio() -> None:
    assert expert_lr_ratio(0.26) == pytest.approx(0.31, abs=0.001)
    assert expert_lr_ratio(61.5, reading="literal") == pytest.approx(0.31, abs=0.001)
    assert expert_lr_ratio(1e-9) == pytest.approx(0.25, rel=1e-6)


@given(st.floats(1e-3, 1e3), st.sampled_from([2, 8, 16, 64]))
def test_ratio_is_the_quotient_of_optima(x: float, experts: int) -> None:
    quotient = optimal_lr(x, 1.0) / optimal_lr(x / experts, 1.0)
    assert expert_lr_ratio(x, experts, reading="literal") == pytest.approx(quotient)
    assert quotient == pytest.approx((experts + x) / (math.sqrt(experts) * (1 + x)))
    assert expert_lr_ratio(x, experts) == pytest.approx(1 / quotient)


def test_schedule_has_three_phases() -> None:
    schedule = Schedule(peak=1.0, steps=1000, warmup=100, decay_to=0.4, final=0.1, anneal_share=0.05)
    rates = [schedule(step) for step in range(1000)]
    assert 0 < rates[0] < rates[50] < rates[99] < 1.0
    assert max(rates) == rates[100] == pytest.approx(1.0)
    assert all(a >= b for a, b in itertools.pairwise(rates[100:]))
    assert schedule.anneal_start == 950
    assert rates[949] == pytest.approx(0.4, abs=1e-3)
    assert rates[-1] == pytest.approx(0.1)
    steps = [rates[i] - rates[i + 1] for i in range(951, 998)]
    assert max(steps) == pytest.approx(min(steps)), "annealing is linear"


def test_the_guard_refuses_what_would_ruin_a_run() -> None:
    guard = LossGuard(window=8, patience=3)
    assert not guard.accepts(0, math.nan, 1.0)
    assert not guard.accepts(1, 2.0, math.inf)
    for step in range(8):
        assert guard.accepts(step, 2.0 + 0.01 * step, 1.0)
    assert guard.accepts(9, 2.3, 1.0), "an ordinary bad batch passes"
    assert not guard.accepts(10, 9.0, 1.0)
    assert guard.refused == 3
    assert not guard.accepts(11, 9.0, 1.0)
    with pytest.raises(TrainingError, match=r"step 12: the loss 9.000 is over .* 3 steps in a row"):
        guard.accepts(12, 9.0, 1.0)


def test_a_refused_update_leaves_the_weights(tmp_path: Path) -> None:
    made = trainer(tmp_path, replace(SETTINGS, steps=1))
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    made.guard.accepts = lambda step, loss, norm: False  # type: ignore[method-assign]
    made.fit()
    assert log(tmp_path)[0]["applied"] is False
    for name, value in made.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_checkpoint_of_another_model_is_explained(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    made.step = 3
    made._save()
    other = Transformer(CONFIG.replace(hidden_size=48))
    other.init_weights()
    with pytest.raises(CheckpointError, match=r"embed.weight: has shape \(64, 32\), the model needs \(64, 48\)"):
        Trainer("test", other, RandomTokens(), language_model_loss, SETTINGS, tmp_path)

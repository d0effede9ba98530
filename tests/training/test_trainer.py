"""The trainer: groups, schedule, guard, micro-batches, averages, and exact resumption."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training_process import CONFIG, RandomTokens

from kaiyuan.errors import CheckpointError, TrainingError
from kaiyuan.model.routing import DROPLESS, RoutingPolicy
from kaiyuan.model.transformer import Transformer
from kaiyuan.recipe import RunSection
from kaiyuan.training.batch import Batch, BatchSource
from kaiyuan.training.guard import LossGuard
from kaiyuan.training.objective import language_model_loss
from kaiyuan.training.optimizer import expert_lr_ratio, optimal_lr, parameter_groups
from kaiyuan.training.pretrain import compute_dtype
from kaiyuan.training.schedule import Schedule
from kaiyuan.training.trainer import Trainer, TrainerSettings


def model(seed: int = 0, dtype: torch.dtype | None = None) -> Transformer:
    made = Transformer(CONFIG, dtype)
    made.init_weights(seed)
    return made


SETTINGS = TrainerSettings(steps=6, lr=0.01, warmup=2, checkpoint_every=3, hidden_dropout=0.1, ema_decay=0.5,
                           routing=RoutingPolicy(capacity_factor=1.0, min_capacity=1))  # fmt: skip


def trainer(
    folder: Path,
    settings: TrainerSettings = SETTINGS,
    dtype: torch.dtype | None = torch.bfloat16,
    device: str = "cpu",
    source: BatchSource | None = None,
) -> Trainer:
    folder.mkdir(parents=True, exist_ok=True)
    made = model(dtype=dtype).to(device)
    return Trainer("test", made, source or RandomTokens(), language_model_loss, settings, folder)


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
    assert_same(whole.optimizer.state_dict(), second.optimizer.state_dict())


def assert_same(one: object, other: object, place: str = "") -> None:
    """Equal to the bit, through dicts and lists."""
    if isinstance(one, torch.Tensor):
        assert isinstance(other, torch.Tensor)
        assert torch.equal(one, other), place
    elif isinstance(one, dict):
        assert isinstance(other, dict)
        assert one.keys() == other.keys(), place
        for key in one:
            assert_same(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list | tuple):
        assert isinstance(other, list | tuple)
        assert len(one) == len(other), place
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_same(left, right, f"{place}[{index}]")
    else:
        assert one == other, place


def process(folder: Path) -> subprocess.Popen[bytes]:
    script = Path(__file__).with_name("training_process.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(script), str(folder)], stderr=subprocess.DEVNULL, env=environment)


def kill_after(lines: int, running: subprocess.Popen[bytes], folder: Path) -> None:
    """Kill -9 as soon as the log has so many lines."""
    path = folder / "metrics.jsonl"
    while running.poll() is None and (not path.exists() or path.read_text().count("\n") < lines):
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL, "it was over before it could be killed"


@pytest.mark.slow
def test_a_killed_process_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert process(whole).wait() == 0
    for lines in (2, 7, 17):
        kill_after(lines, process(killed), killed)
        with (killed / "metrics.jsonl").open("a") as stream:
            stream.write('{"step": 99, "lo')
    assert process(killed).wait() == 0
    assert [line["step"] for line in log(killed)] == list(range(40))
    assert log(killed) == log(whole)
    found, expected = (torch.load(folder / "weights.pt", weights_only=True) for folder in (killed, whole))
    assert_same(expected, found)


def test_the_guard_remembers_across_a_restart(tmp_path: Path) -> None:
    first = trainer(tmp_path)
    for loss in (2.0, 3.0, math.nan, 2.5, math.nan, math.nan):
        first.guard.accepts(0, loss, 1.0)
    first.step = 3
    first._save()
    assert trainer(tmp_path).guard.state() == {"recent": [2.0, 3.0, 2.5], "refused_in_a_row": 2, "refused": 3}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_run_on_a_gpu_resumes_with_its_average(tmp_path: Path) -> None:
    first = trainer(tmp_path, device="cuda")
    first.step = 3
    first._save()
    second = trainer(tmp_path, device="cuda")
    assert second.step == 3
    assert {value.device.type for value in second.fit().values()} == {"cuda"}
    assert [line["step"] for line in log(tmp_path)] == [3, 4, 5]


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
        loss = float(metrics["loss"])
        gradients.append((loss, [p.grad.clone() for p in made.model.parameters() if p.grad is not None]))
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


class BadBatches:
    """Random tokens, and a loss that is not a number at the steps in ``bad``."""

    def __init__(self, *bad: int) -> None:
        self.bad = bad

    def batch(self, step: int, model: Transformer) -> Batch:
        batch = RandomTokens().batch(step, model)
        if step in self.bad:
            batch.weights_BT[0, 0] = math.nan
        return batch


def test_a_loss_that_is_not_a_number_leaves_no_trace(tmp_path: Path) -> None:
    """The bad step changes neither weights nor moments nor average: as if it had not been."""
    settings = replace(SETTINGS, steps=4, warmup=0, decay_to=1.0, final_lr=1.0, anneal_share=0.0)
    made = trainer(tmp_path / "bad", settings, source=BadBatches(2))
    states = []
    made.on_step = lambda step: states.append(
        {"weights": {name: value.clone() for name, value in made.model.state_dict().items()},
         "average": {name: value.clone() for name, value in (made.ema or {}).items()},
         "moments": [{key: value.clone() for key, value in slots.items()} for slots in made.optimizer.state.values()]}
    )  # fmt: skip
    made.fit()
    assert [line["applied"] for line in log(tmp_path / "bad")] == [True, True, False, True]
    assert log(tmp_path / "bad")[2]["loss"] is None, "JSON has no NaN"
    assert_same(states[1], states[2])
    assert not torch.equal(states[2]["weights"]["embed.weight"], states[3]["weights"]["embed.weight"])
    assert all(value.isfinite().all() for value in states[3]["weights"].values())


def test_endless_bad_losses_stop_the_run(tmp_path: Path) -> None:
    made = trainer(tmp_path, replace(SETTINGS, steps=20), source=BadBatches(*range(20)))
    with pytest.raises(TrainingError, match=r"step 7: the loss is nan, 8 steps in a row"):
        made.fit()
    assert len(log(tmp_path)) == 7


def test_every_group_moves_at_its_own_rate(tmp_path: Path) -> None:
    """Adam's first step moves a weight by the learning rate, whatever its gradient: here 0.01 and 0.31 of it."""
    settings = replace(SETTINGS, steps=1, warmup=0, weight_decay=0.0, ema_decay=0.0, anneal_share=0.0)
    made = trainer(tmp_path, settings, dtype=None)
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    made.fit()
    for name, value in made.model.state_dict().items():
        moved = (value - before[name]).abs().max().item()
        assert moved == pytest.approx(0.01 * (0.31 if ".experts." in name else 1.0), rel=0.02), name


def test_a_checkpoint_of_another_model_is_explained(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    made.step = 3
    made._save()
    other = Transformer(CONFIG.replace(hidden_size=48))
    other.init_weights()
    with pytest.raises(CheckpointError, match=r"embed.weight: has shape \(64, 32\), the model needs \(64, 48\)"):
        Trainer("test", other, RandomTokens(), language_model_loss, SETTINGS, tmp_path)


@pytest.mark.parametrize("quick", [True, False])
def test_what_a_recipe_lets_a_model_compute_in(quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU without instructions for bfloat16 would take a hundred times as long in it."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: quick, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    cpu = torch.device("cpu")
    wanted = torch.bfloat16 if quick else torch.float32
    assert compute_dtype(RunSection(name="x"), cpu) == wanted
    assert compute_dtype(RunSection(name="x", precision="bf16"), cpu) == torch.bfloat16
    assert compute_dtype(RunSection(name="x", precision="fp32"), cpu) == torch.float32

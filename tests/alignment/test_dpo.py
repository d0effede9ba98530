"""The DPO objective against arithmetic by hand, and what micro-batches make of pairs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from aligned_models import tiny_model
from hypothesis import given
from hypothesis import strategies as st

from kaiyuan.alignment.dpo import DPOObjective, dpo_loss, reference_log_probs
from kaiyuan.alignment.preference import PreferencePair, collate
from kaiyuan.model.routing import DROPLESS
from kaiyuan.model.transformer import Transformer
from kaiyuan.training.batch import Batch
from kaiyuan.training.trainer import Trainer, TrainerSettings

PAD = 99
PAIRS = [
    PreferencePair([5, 9, 12, 30], [41, 42, 43], [44, 45]),
    PreferencePair([7, 8], [50, 51], [52, 53, 54, 55]),
    PreferencePair([10, 11, 12, 13, 14, 15], [60], [61, 62, 63]),
    PreferencePair([20], [70, 71, 72, 73, 74], [75]),
    PreferencePair([30, 31], [80, 81], [82, 83]),
    PreferencePair([32, 33, 34], [84, 85, 86, 87], [88]),
]

log_probs = st.floats(-50, 0)


@given(log_probs, log_probs, log_probs, log_probs, st.floats(0.01, 1), st.floats(0, 0.5))
def test_loss_and_rewards_are_the_formulas(
    chosen: float, rejected: float, ref_chosen: float, ref_rejected: float, beta: float, smoothing: float
) -> None:
    numbers = (torch.tensor([x], dtype=torch.float64) for x in (chosen, rejected, ref_chosen, ref_rejected))
    losses, chosen_reward, rejected_reward = dpo_loss(*numbers, beta, smoothing)
    margin = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
    right, wrong = math.log1p(math.exp(-margin)), math.log1p(math.exp(margin))
    assert losses.item() == pytest.approx((1 - smoothing) * right + smoothing * wrong)
    assert chosen_reward.item() == pytest.approx(beta * (chosen - ref_chosen))
    assert rejected_reward.item() == pytest.approx(beta * (rejected - ref_rejected))


def answer_log_prob(model: Transformer, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Summed by hand, one token after the other, from the logits of one unpadded row."""
    logits = model(torch.tensor([[*prompt, *answer]]))[0].log_softmax(-1)
    return sum((logits[len(prompt) - 1 + i, token] for i, token in enumerate(answer)), torch.zeros(()))


def make_batch(reference: Transformer, pairs: list[PreferencePair]) -> Batch:
    batch = collate(pairs, PAD)
    batch.extra["reference"] = reference_log_probs(reference, batch, rows=5)
    return batch


def test_objective_equals_a_sum_over_unpadded_answers() -> None:
    model, reference = tiny_model(1), tiny_model(2)
    batch = make_batch(reference, PAIRS)
    objective = DPOObjective(beta=0.3, sft_weight=0.7)
    model.train()
    found = objective(model, batch, batch)
    found.total.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()

    preference, chosen_sum, tokens, right = torch.zeros(()), torch.zeros(()), 0, 0
    for pair in PAIRS:
        chosen, rejected = (answer_log_prob(model, pair.prompt, answer) for answer in (pair.chosen, pair.rejected))
        with torch.no_grad():
            ref = [answer_log_prob(reference, pair.prompt, answer) for answer in (pair.chosen, pair.rejected)]
        margin = 0.3 * ((chosen - ref[0]) - (rejected - ref[1]))
        preference = preference - torch.sigmoid(margin).log() / len(PAIRS)
        chosen_sum, tokens, right = chosen_sum + chosen, tokens + len(pair.chosen), right + int(margin > 0)
    (preference - 0.7 * chosen_sum / tokens).backward()

    assert 0 < right < len(PAIRS), "both outcomes must occur, or accuracy is not tested"
    metrics = {name: float(value) for name, value in found.metrics.items()}
    assert metrics["dpo_loss"] == pytest.approx(preference.item(), rel=1e-5)
    assert metrics["sft_loss"] == pytest.approx(-chosen_sum.item() / tokens, rel=1e-5)
    assert metrics["chosen_logprob"] == pytest.approx(chosen_sum.item() / len(PAIRS), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(right / len(PAIRS))
    assert metrics["margin"] == pytest.approx(metrics["chosen_reward"] - metrics["rejected_reward"], rel=1e-4)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_training_starts_at_a_margin_of_zero() -> None:
    model = tiny_model()
    batch = make_batch(tiny_model(), PAIRS)
    loss = DPOObjective(beta=0.5)(model.train(), batch, batch)
    assert loss.metrics["dpo_loss"].item() == pytest.approx(math.log(2), abs=1e-5)
    assert loss.metrics["margin"].item() == pytest.approx(0, abs=1e-4)
    loss.total.backward()
    assert all(parameter.grad.norm() > 0 for parameter in model.parameters() if parameter.grad is not None)


class OneBatch:
    def __init__(self, batch: Batch) -> None:
        self.made = batch

    def batch(self, step: int, model: Transformer) -> Batch:
        return self.made


@pytest.mark.parametrize("parts", [2, 3, 4, 5, 6, 12])
def test_micro_batches_never_part_a_pair(tmp_path: Path, parts: int) -> None:
    """Of 12 rows, 4 micro-batches would have 3 each, and 12 would have 1, were pairs not kept together."""
    settings = TrainerSettings(steps=1, lr=0.0, routing=DROPLESS, balance_loss=0.0)
    results = []
    for number in (1, parts):
        source = OneBatch(make_batch(tiny_model(2), PAIRS))
        trainer = Trainer(
            "dpo", tiny_model(1), source, DPOObjective(0.3, 0.7), replace(settings, micro_batches=number), tmp_path
        )
        found, _ = trainer._forward_backward(source.made)
        metrics = {name: float(value) for name, value in found.items()}
        metrics = {name: value for name, value in metrics.items() if name not in ("balance_loss", "z_loss")}
        results.append((metrics, [parameter.grad for parameter in trainer.model.parameters()]))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-4, abs=1e-5)
    for one, other in zip(results[1][1], results[0][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_half_a_pair_is_refused() -> None:
    batch = make_batch(tiny_model(2), PAIRS)
    with pytest.raises(RuntimeError):
        DPOObjective()(tiny_model(), batch.rows(slice(0, 3)), batch)

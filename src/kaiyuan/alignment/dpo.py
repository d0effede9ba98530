"""Direct preference optimisation with an SFT term (paper 3.2).

A batch has 2P rows: chosen answer, rejected answer, chosen, rejected, ... Each row is a prompt and an answer; weights
are 1 where the target belongs to the answer. ``extra["reference"]`` holds the reference model's log-probability of
each row's answer.

Shapes: P pairs, R = 2P rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kaiyuan.model.loss import target_log_probs
from kaiyuan.model.transformer import Features, Transformer
from kaiyuan.training.batch import Batch, Loss


def dpo_loss(
    policy_chosen_P: Tensor,
    policy_rejected_P: Tensor,
    reference_chosen_P: Tensor,
    reference_rejected_P: Tensor,
    beta: float,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """``-log sigmoid(beta * (chosen log-ratio - rejected log-ratio))`` and the implicit rewards of both, (P,) each.

    Inputs are log-probabilities of whole answers. The reward of an answer is ``beta * (policy - reference)``, without
    gradient. ``label_smoothing`` is the probability that a pair is the wrong way round: the loss is its expectation.
    """
    chosen_P = beta * (policy_chosen_P - reference_chosen_P)
    rejected_P = beta * (policy_rejected_P - reference_rejected_P)
    margin_P = chosen_P - rejected_P
    losses_P = -(1 - label_smoothing) * F.logsigmoid(margin_P) - label_smoothing * F.logsigmoid(-margin_P)
    return losses_P, chosen_P.detach(), rejected_P.detach()


def answer_log_probs(model: Transformer, batch: Batch) -> tuple[Tensor, Tensor, Features]:
    """Log-probability of each row's answer (R,) and of each token (R, T), and the model's features."""
    features = model.features(batch.ids_BT)
    token_RT = target_log_probs(features.x_BTD, model.head_weight, batch.targets_BT) * batch.weights_BT
    return token_RT.sum(-1), token_RT, features


@dataclass(frozen=True)
class DPOObjective:
    """DPO loss over pairs plus ``sft_weight`` times the mean negative log-likelihood of the chosen answers' tokens.

    The SFT term keeps the chosen answers' own probability from falling while the margin grows.
    """

    beta: float = 0.1
    sft_weight: float = 0.0
    label_smoothing: float = 0.0
    row_sums: Callable[[Tensor], Tensor] = lambda sums_R: sums_R
    """From sums over this process's tokens of each row to sums over whole rows."""
    ranks_a_row: int = 1
    """Processes that hold tokens of the same rows, each of which computes the rows' loss."""

    def __call__(self, model: Transformer, part: Batch, whole: Batch) -> Loss:
        own_R, token_RT, features = answer_log_probs(model, part)
        sums_R = self.row_sums(own_R)
        policy_P2, reference_P2 = sums_R.view(-1, 2), part.extra["reference"].view(-1, 2)
        losses_P, chosen_P, rejected_P = dpo_loss(
            policy_P2[:, 0], policy_P2[:, 1], reference_P2[:, 0], reference_P2[:, 1], self.beta, self.label_smoothing
        )
        pairs = len(whole.ids_BT) // 2
        preference = losses_P.sum() / pairs
        likelihood = -token_RT[::2].sum() / whole.weights_BT[::2].sum()
        counted = pairs * self.ranks_a_row
        means = {
            "dpo_loss": losses_P.detach().sum() / counted,
            "sft_loss": likelihood.detach(),
            "chosen_reward": chosen_P.sum() / counted,
            "rejected_reward": rejected_P.sum() / counted,
            "margin": (chosen_P - rejected_P).sum() / counted,
            "accuracy": (chosen_P > rejected_P).float().sum() / counted,
            "chosen_logprob": sums_R[::2].detach().sum() / counted,
        }
        means["loss"] = means["dpo_loss"] + self.sft_weight * means["sft_loss"]
        return Loss(preference + self.sft_weight * likelihood, means, features)


@torch.no_grad()
def reference_log_probs(model: Transformer, batch: Batch, rows: int = 64) -> Tensor:
    """The frozen reference's log-probability of each row's answer, (R,); at most ``rows`` are computed together."""
    model.eval()
    parts = (batch.rows(slice(start, start + rows)) for start in range(0, len(batch.ids_BT), rows))
    return torch.cat([answer_log_probs(model, part)[0] for part in parts])

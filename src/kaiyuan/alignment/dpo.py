"""Direct preference optimisation with an SFT term (paper 3.2).

A batch has 2P rows: chosen answer, rejected answer, chosen, rejected, ... Each row is a prompt and an answer; weights
are 1 where the target belongs to the answer. ``extra["reference"]`` holds the reference model's log-probability of
each row's answer.

Shapes: P pairs, R = 2P rows, T tokens.
"""

from __future__ import annotations

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
) -> tuple[Tensor, Tensor, Tensor]:
    """``-log sigmoid(beta * (chosen log-ratio - rejected log-ratio))`` and the implicit rewards of both, (P,) each.

    Inputs are log-probabilities of whole answers. The reward of an answer is ``beta * (policy - reference)``, without
    gradient.
    """
    chosen_P = beta * (policy_chosen_P - reference_chosen_P)
    rejected_P = beta * (policy_rejected_P - reference_rejected_P)
    return -F.logsigmoid(chosen_P - rejected_P), chosen_P.detach(), rejected_P.detach()


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

    def __call__(self, model: Transformer, part: Batch, whole: Batch) -> Loss:
        sums_R, token_RT, features = answer_log_probs(model, part)
        reference_R = part.extra["reference"]
        losses_P, chosen_P, rejected_P = dpo_loss(
            sums_R[::2], sums_R[1::2], reference_R[::2], reference_R[1::2], self.beta
        )
        pairs = len(whole.ids_BT) // 2
        preference = losses_P.sum() / pairs
        likelihood = -token_RT[::2].sum() / whole.weights_BT[::2].sum()
        total = preference + self.sft_weight * likelihood
        means = {
            "loss": total.detach(),
            "dpo_loss": preference.detach(),
            "sft_loss": likelihood.detach(),
            "chosen_reward": chosen_P.sum() / pairs,
            "rejected_reward": rejected_P.sum() / pairs,
            "margin": (chosen_P - rejected_P).sum() / pairs,
            "accuracy": (chosen_P > rejected_P).float().sum() / pairs,
            "chosen_logprob": sums_R[::2].detach().sum() / pairs,
        }
        return Loss(total, means, features)


@torch.no_grad()
def reference_log_probs(model: Transformer, batch: Batch) -> Tensor:
    """The frozen reference's log-probability of each row's answer, (R,)."""
    model.eval()
    return answer_log_probs(model, batch)[0]

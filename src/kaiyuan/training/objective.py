"""The language-model loss: weighted cross-entropy over next tokens. Pre-training, long context and SFT use it."""

from __future__ import annotations

from kaiyuan.model.loss import cross_entropy_sum
from kaiyuan.model.transformer import Transformer
from kaiyuan.training.batch import Batch, Loss


def language_model_loss(model: Transformer, part: Batch, whole: Batch) -> Loss:
    """Mean negative log-likelihood in nats over the targets that count, in the whole batch."""
    features = model.features(part.ids_BT, documents_BT=part.documents_BT)
    total = cross_entropy_sum(features.x_BTD, model.head_weight, part.targets_BT, part.weights_BT)
    loss = total / whole.weight.clamp(min=1e-9)
    return Loss(loss, {"loss": loss.detach()}, features)

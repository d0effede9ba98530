"""A training run of its own process, for tests that kill it: ``python training_process.py FOLDER``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from kaiyuan import ModelConfig
from kaiyuan.model.routing import RoutingPolicy
from kaiyuan.model.transformer import Transformer
from kaiyuan.training.batch import Batch
from kaiyuan.training.objective import language_model_loss
from kaiyuan.training.trainer import Trainer, TrainerSettings

CONFIG = ModelConfig(
    vocab_size=64, hidden_size=32, num_layers=2, num_attention_heads=2, num_kv_heads=1, head_dim=16,
    intermediate_size=48, num_experts=4,
)  # fmt: skip
SETTINGS = TrainerSettings(
    steps=40, lr=0.01, warmup=2, checkpoint_every=4, hidden_dropout=0.1, ema_decay=0.5, router_metrics_every=3,
    routing=RoutingPolicy(capacity_factor=1.0, min_capacity=1),
)  # fmt: skip


class RandomTokens:
    """Batches of random tokens that depend on the step alone."""

    def batch(self, step: int, model: Transformer) -> Batch:
        ids = torch.randint(64, (4, 17), generator=torch.Generator().manual_seed(step))
        return Batch(ids[:, :-1], ids[:, 1:], torch.ones(4, 16))


def main(folder: Path) -> None:
    """Train, slowly enough to be interrupted; writes weights.pt at the end."""
    folder.mkdir(exist_ok=True)
    model = Transformer(CONFIG, torch.bfloat16)
    model.init_weights()
    trainer = Trainer(
        "test", model, RandomTokens(), language_model_loss, SETTINGS, folder, on_step=lambda step: time.sleep(0.05)
    )
    average = dict(trainer.fit())
    torch.save({"average": average, "weights": model.state_dict(), "optimizer": trainer.optimizer.state_dict()},
               folder / "weights.pt")  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""The same training in bfloat16 and with feed-forward layers and projections in fp8: both loss curves, on one GPU.

    python benchmarks/fp8_curve.py runs/demo                       # tokens of a run's tokenizer stage
    python benchmarks/fp8_curve.py runs/demo --preset 100m --steps 300 --out curve.json

Same weights at first, same batches, float32 masters, recycle routing. Training losses are means over windows of steps;
held-out loss is that of the run's held-out documents, in bfloat16 for both. A second bfloat16 run, whose batches come
in another order, shows how much is chance.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch

from kaiyuan import ModelConfig
from kaiyuan.corpus.shards import open_shards
from kaiyuan.model.loss import cross_entropy_sum
from kaiyuan.model.transformer import Transformer
from kaiyuan.training.batch import Batch
from kaiyuan.training.objective import language_model_loss
from kaiyuan.training.trainer import Trainer, TrainerSettings


class Windows:
    """Batches of random windows of ``tokens``."""

    def __init__(self, tokens: np.ndarray, rows: int, length: int, seed: int) -> None:
        self.tokens, self.rows, self.length, self.seed = torch.from_numpy(tokens), rows, length, seed

    def batch(self, step: int, model: Transformer) -> Batch:
        generator = torch.Generator().manual_seed(step + self.seed * 10**6)
        starts = torch.randint(len(self.tokens) - self.length, (self.rows, 1), generator=generator)
        ids = self.tokens[starts + torch.arange(self.length + 1)]
        return Batch(ids[:, :-1], ids[:, 1:], torch.ones(self.rows, self.length))


def tokens_of(folder: Path, split: str) -> np.ndarray:
    return np.concatenate([np.asarray(shard.tokens) for shard in open_shards(folder, split).values()]).astype(np.int64)


@torch.no_grad()
def held_out(model: Transformer, tokens: np.ndarray, length: int) -> float:
    """Nats a token."""
    rows = torch.from_numpy(tokens[: len(tokens) // (length + 1) * (length + 1)]).view(-1, length + 1).cuda()
    total = sum(
        float(cross_entropy_sum(model.features(part[:, :-1]).x_BTD, model.head_weight, part[:, 1:]))
        for part in rows.split(16)
    )
    return total / rows[:, 1:].numel()


def curve(options: argparse.Namespace, fp8: bool, seed: int) -> tuple[list[float], float]:
    """The loss of every step, and the held-out loss after the last."""
    shards = options.run / "tokenizer" / "shards"
    train = tokens_of(shards, "train")
    config = ModelConfig.preset(options.preset, vocab_size=int(train.max()) // 64 * 64 + 64)
    model = Transformer(config, torch.bfloat16)
    model.init_weights(1)
    settings = TrainerSettings(
        options.steps, lr=options.lr, warmup=options.steps // 10, checkpoint_every=10**6, fp8=fp8
    )
    with tempfile.TemporaryDirectory() as folder:
        source = Windows(train, options.batch, options.length, seed)
        trainer = Trainer("fp8" if fp8 else "bf16", model.cuda(), source, language_model_loss, settings, Path(folder))
        trainer.fit()
        lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    return losses, held_out(model, tokens_of(shards, "heldout"), options.length)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run, for its tokens")
    parser.add_argument("--preset", default="100m")
    parser.add_argument("--lr", type=float, default=1e-3)
    for name, default in {"steps": 200, "batch": 32, "length": 2048}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path, help="JSON with all losses")
    options = parser.parse_args()
    how = {"bf16": (False, 0), "fp8": (True, 0), "bf16, other order": (False, 1)}
    runs = {name: curve(options, *choice) for name, choice in how.items()}
    window = max(1, options.steps // 10)
    print(f"{options.preset}, {options.batch} x {options.length} tokens a step\n{'steps':>12}" +
          "".join(f"{name:>20}" for name in runs))  # fmt: skip
    for start in range(0, options.steps, window):
        means = [statistics.fmean(losses[start : start + window]) for losses, _ in runs.values()]
        print(f"{start:>5} - {start + window:>4}" + "".join(f"{mean:20.4f}" for mean in means))
    print(f"{'held out':>12}" + "".join(f"{found:20.4f}" for _, found in runs.values()))
    if options.out:
        options.out.write_text(json.dumps({name: {"loss": losses, "held_out": found}
                                           for name, (losses, found) in runs.items()}))  # fmt: skip


if __name__ == "__main__":
    main()

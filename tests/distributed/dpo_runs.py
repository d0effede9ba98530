"""DPO runs of a tiny model that any layout can repeat."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from kaiyuan import ModelConfig
from kaiyuan.alignment.division import ALONE, Together
from kaiyuan.alignment.dpo import DPOObjective
from kaiyuan.alignment.preference import OnlineSampler, PreferencePair, PreferenceSource
from kaiyuan.inference.params import SamplingParams
from kaiyuan.model.routing import DROPLESS
from kaiyuan.model.transformer import Transformer
from kaiyuan.tokenizer import train_tokenizer
from kaiyuan.training.parallel.layout import Layout
from kaiyuan.training.parallel.parallel import Parallel
from kaiyuan.training.trainer import Trainer, TrainerSettings

TEXT = [
    "What is 17 + 25? The answer is 42.",
    "The capital of France is Paris.",
    "法国的首都是巴黎，日本的首都是东京。",
] * 3
CONFIG = ModelConfig(
    vocab_size=384, hidden_size=32, num_layers=4, num_attention_heads=4, num_kv_heads=2, head_dim=8,
    intermediate_size=24, num_experts=4, init_std=0.2,
)  # fmt: skip


def model() -> Transformer:
    made = Transformer(CONFIG)
    made.init_weights(1)
    return made


def train(layout: Layout | None, micro_batches: int = 1) -> dict[str, Any]:
    """Three steps of four pairs, half of them the policy's own answers. Metrics of all steps, and the mean weights."""
    tokenizer = train_tokenizer(TEXT, 340)
    parallel = None if layout is None else Parallel(layout, torch.device("cpu"))
    pairs = [
        PreferencePair(tokenizer.encode(text), tokenizer.encode(text[:9]), tokenizer.encode(text[9:20]))
        for text in TEXT[:3]
    ]
    params = SamplingParams(max_tokens=5, n=3)
    online = OnlineSampler([pair.prompt for pair in pairs], lambda _, text: len(text), params, 3, tokenizer)
    reference = model().eval().requires_grad_(False)
    division = ALONE if parallel is None else Together(parallel, reference)
    source = PreferenceSource(
        pairs, online, reference, pairs=4, online_share=0.5, pad_id=tokenizer.pad_id, seed=3, division=division
    )
    objective = DPOObjective(0.3, 0.2)
    if parallel is not None:
        objective = DPOObjective(0.3, 0.2, row_sums=parallel.row_sums, ranks_a_row=parallel.ranks_a_row)
    # eps: a gradient near 0 is mostly rounding, which AdamW would make a whole step of
    settings = TrainerSettings(
        steps=3, lr=0.003, eps=1e-5, routing=DROPLESS, ema_decay=0.5, micro_batches=micro_batches, seed=1
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer("dpo", model(), source, objective, settings, Path(folder), parallel=parallel)
        step, lines = trainer._one_step, []
        trainer._one_step = lambda: lines.append(step()) or lines[-1]  # type: ignore[method-assign,func-returns-value]
        weights = {name: value.detach().clone() for name, value in trainer.fit().items()}
    return {"lines": lines, "weights": weights}

"""DPO and SFT against TRL's own loss code, on the same weights and tokens: losses, metrics and gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from aligned_models import TEXT, assert_same_gradients, tiny_pair

from kaiyuan.alignment.dpo import DPOObjective, reference_log_probs
from kaiyuan.alignment.preference import PreferencePair, collate
from kaiyuan.alignment.sft import pack, stack
from kaiyuan.tokenizer import ChatTokens
from kaiyuan.training.objective import language_model_loss

pytestmark = pytest.mark.slow

PAIRS = [
    PreferencePair([5, 9, 12, 30], [41, 42, 43], [44, 45]),
    PreferencePair([7, 8], [50, 51], [52, 53, 54, 55]),
    PreferencePair([100, 101, 102, 103, 104, 105], [60], [61, 62, 63]),
]


def trl_arguments(kind: Any, folder: Path, **values: Any) -> Any:
    return kind(output_dir=str(folder), report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False,
                disable_tqdm=True, **values)  # fmt: skip


SIGMOID = {"loss_type": ["sigmoid"]}
WITH_SFT = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.3]}
# TRL smooths labels in "aot" alone, which is plain DPO where there is one pair.
SMOOTHED = {"loss_type": ["aot"], "label_smoothing": 0.2}


@pytest.mark.parametrize(
    ("pairs", "their_settings", "objective"),
    [
        (PAIRS, SIGMOID, DPOObjective(beta=0.25)),
        (PAIRS, WITH_SFT, DPOObjective(beta=0.25, sft_weight=0.3)),
        (PAIRS[1:2], SMOOTHED, DPOObjective(beta=0.25, label_smoothing=0.2)),
    ],
)
def test_dpo_equals_trl(
    tmp_path: Path, pairs: list[PreferencePair], their_settings: dict[str, Any], objective: DPOObjective
) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    theirs, ours, tokenizer = tiny_pair(tmp_path / "model")
    reference, our_reference, _ = tiny_pair(tmp_path / "reference", seed=1)
    rows = Dataset.from_list(
        [{"prompt": text[:12], "chosen": text[12:20], "rejected": text[20:28]} for text in TEXT[:3]]
    )
    trainer = DPOTrainer(
        model=theirs, ref_model=reference, args=trl_arguments(DPOConfig, tmp_path, beta=0.25, **their_settings),
        train_dataset=rows, processing_class=AutoTokenizer.from_pretrained(tmp_path / "model"),
    )  # fmt: skip
    inputs = trainer.data_collator(
        [{"prompt_ids": pair.prompt, "chosen_ids": pair.chosen, "rejected_ids": pair.rejected} for pair in pairs]
    )
    theirs.train()
    expected = trainer.compute_loss(theirs, inputs)
    expected.backward()

    batch = collate(pairs, tokenizer.pad_id)
    batch.extra["reference"] = reference_log_probs(our_reference, batch)
    ours.train()
    loss = objective(ours, batch, batch)
    loss.total.backward()

    torch.testing.assert_close(loss.total, expected, rtol=1e-5, atol=1e-5)
    assert_same_gradients(theirs, ours, tmp_path / "gradients")
    logged = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    for our_name, their_name in {"chosen_reward": "rewards/chosen", "rejected_reward": "rewards/rejected",
                                 "margin": "rewards/margins", "accuracy": "rewards/accuracies",
                                 "chosen_logprob": "logps/chosen"}.items():  # fmt: skip
        assert float(loss.metrics[our_name]) == pytest.approx(logged[their_name], rel=1e-5, abs=1e-5)


def test_sft_equals_trl(tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    theirs, ours, tokenizer = tiny_pair(tmp_path / "model")
    samples = [
        ChatTokens([5, 9, 12, 41, 42], [False, False, False, True, True]),
        ChatTokens([7, 8, 50, 51, 52, 53, 60, 61], [False, False, True, True, False, False, True, True]),
    ]
    rows = Dataset.from_list([{"text": text} for text in TEXT[:2]])
    trainer = SFTTrainer(
        model=theirs, args=trl_arguments(SFTConfig, tmp_path), train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(tmp_path / "model"),
    )  # fmt: skip
    length = 8
    ids = torch.full((2, length), tokenizer.pad_id)
    labels, attention = torch.full((2, length), -100), torch.zeros(2, length, dtype=torch.long)
    for row, sample in enumerate(samples):
        size = len(sample.ids)
        ids[row, :size] = torch.tensor(sample.ids)
        labels[row, :size] = torch.where(torch.tensor(sample.trained_mask), ids[row, :size], -100)
        attention[row, :size] = 1
    theirs.train()
    expected = trainer.compute_loss(theirs, {"input_ids": ids, "labels": labels, "attention_mask": attention})
    expected.backward()

    packed = stack(pack(samples, 16, tokenizer.pad_id))
    assert len(packed.ids_BT) == 1, "both conversations must be in one row, or packing is not tested"
    ours.train()
    loss = language_model_loss(ours, packed, packed)
    loss.total.backward()
    torch.testing.assert_close(loss.total, expected, rtol=1e-5, atol=1e-5)
    assert_same_gradients(theirs, ours, tmp_path / "gradients")

"""DPO with offline and online pairs gives in every layout what one process gives."""

from __future__ import annotations

import dpo_runs
import pytest
import torch
from process_group import Group

from kaiyuan.errors import ConfigError
from kaiyuan.training.parallel.layout import Layout

METRICS = ("loss", "dpo_loss", "sft_loss", "margin", "chosen_logprob", "balance_loss", "sample_reward",
           "mixed_prompts", "online_pairs", "tokens")  # fmt: skip


@pytest.mark.parametrize(
    ("layout", "micro_batches"),
    [
        (Layout(data_shard=2, expert=2), 2),
        (Layout(data_replicate=2, data_shard=2), 1),
        (Layout(data_shard=2, context=2, tensor=2), 1),
    ],
    ids=str,
)
def test_pairs_train_like_on_one_process(groups: dict[int, Group], layout: Layout, micro_batches: int) -> None:
    (expected,) = groups[1].run(dpo_runs.train, None, micro_batches)
    found = groups[layout.size].run(dpo_runs.train, layout, micro_batches)
    assert sum(line["online_pairs"] for line in expected["lines"]) > 2, "or sampling is not tested"
    assert any(abs(line["margin"]) > 0.01 for line in expected["lines"])
    for rank in found:
        for number, (one, other) in enumerate(zip(rank["lines"], expected["lines"], strict=True)):
            if number:  # before the first update policy and reference are equal, and rounding decides what is greater
                assert one["accuracy"] == other["accuracy"]
            assert {name: one[name] for name in METRICS} == {
                name: pytest.approx(other[name], abs=1e-5) for name in METRICS
            }
            assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
    for name, value in expected["weights"].items():
        torch.testing.assert_close(found[0]["weights"][name], value, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("layout", "micro_batches", "reason"),
    [
        (Layout(pipeline=2), 2, "pipeline=2: DPO needs whole passes"),
        (Layout(data_shard=2), 4, "a micro-batch of 1 pairs cannot be divided among 2 data ranks"),
    ],
    ids=str,
)
def test_what_is_impossible_is_refused(groups: dict[int, Group], layout: Layout, micro_batches: int, reason: str):
    with pytest.raises(AssertionError, match=reason) as refused:
        groups[2].run(dpo_runs.train, layout, micro_batches)
    assert ConfigError.__name__ in str(refused.value)

"""Packing: every trained token once, no conversation sees another, packed equals unpacked."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan import ModelConfig
from kaiyuan.alignment.sft import ChatSource, pack, stack
from kaiyuan.errors import DataError
from kaiyuan.model.routing import DROPLESS
from kaiyuan.model.transformer import Transformer
from kaiyuan.tokenizer import ChatTokens
from kaiyuan.training.batch import Batch
from kaiyuan.training.objective import language_model_loss

PAD = 99


def tiny_model() -> Transformer:
    config = ModelConfig(
        vocab_size=100, hidden_size=32, num_layers=4, num_attention_heads=4, num_kv_heads=2, head_dim=8,
        intermediate_size=48, num_experts=4, init_std=0.2,
    )  # fmt: skip
    model = Transformer(config)
    model.init_weights(1)
    model.mode.routing = DROPLESS
    return model.train()


def sample(*ids: int, trained: int) -> ChatTokens:
    return ChatTokens(list(ids), [index >= len(ids) - trained for index in range(len(ids))])


samples_strategy = st.lists(
    st.lists(st.integers(0, 98), min_size=2, max_size=20).flatmap(
        lambda ids: st.integers(1, len(ids) - 1).map(lambda trained: sample(*ids, trained=trained))
    ),
    min_size=1,
    max_size=20,
)


@given(samples_strategy, st.integers(20, 40))
@settings(max_examples=100, deadline=None)
def test_pack_keeps_every_trained_token_once_and_within_its_conversation(
    samples: list[ChatTokens], length: int
) -> None:
    rows = pack(samples, length, PAD)
    found, expected = [], []
    for row in rows:
        assert len(row.ids) == len(row.targets) == len(row.weights) == len(row.documents) == length
        for place in range(length):
            if row.weights[place]:
                assert row.documents[place] == row.documents[place + 1]
                assert row.targets[place] == row.ids[place + 1]
                found.append((row.ids[place], row.targets[place]))
    for item in samples:
        expected += [(item.ids[i - 1], item.ids[i]) for i in range(1, len(item.ids)) if item.trained_mask[i]]
    assert sorted(found) == sorted(expected)
    assert sum(
        len(set(row.documents) - ({max(row.documents)} if row.ids[-1] == PAD else set())) for row in rows
    ) == len(samples)


def test_packed_equals_unpacked_in_loss_and_gradients() -> None:
    samples = [sample(3, 4, 5, 6, 7, trained=2), sample(10, 11, 12, trained=1), sample(20, 21, 22, 23, trained=3)]
    packed = stack(pack(samples, 16, PAD))
    assert len(packed.ids_BT) == 1
    model = tiny_model()
    loss = language_model_loss(model, packed, packed)
    loss.total.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    total = 0.0
    for item in samples:
        ids = torch.tensor([item.ids])
        weights = torch.tensor([item.trained_mask[1:]]).float()
        alone = Batch(ids[:, :-1], ids[:, 1:], weights)
        part = language_model_loss(model, alone, packed)
        part.total.backward()
        total += part.total.item()
    assert loss.total.item() == pytest.approx(total, abs=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_conversations_of_a_row_do_not_see_each_other() -> None:
    first = pack([sample(3, 4, 5, 6, trained=1), sample(10, 11, 12, trained=1)], 8, PAD)
    other = pack([sample(3, 4, 5, 6, trained=1), sample(60, 11, 12, trained=1)], 8, PAD)
    model = tiny_model().eval()
    with torch.no_grad():
        one, two = (model(stack(rows).ids_BT, documents_BT=stack(rows).documents_BT) for rows in (first, other))
    torch.testing.assert_close(one[0, :4], two[0, :4], rtol=1e-4, atol=1e-5)
    assert (one[0, 4:7] - two[0, 4:7]).abs().max() > 0.1


def test_what_cannot_be_trained_is_an_error() -> None:
    with pytest.raises(DataError, match=r"sample 1 has 9 tokens, a row has 8"):
        pack([sample(1, 2, trained=1), sample(*range(9), trained=1)], 8, PAD)
    with pytest.raises(DataError, match="sample 0 has no token to train"):
        pack([ChatTokens([1, 2, 3], [False, False, False])], 8, PAD)
    with pytest.raises(DataError, match="no samples"):
        ChatSource([], 2, 1, 0)


def test_every_row_comes_once_an_epoch_in_a_new_order() -> None:
    rows = pack([sample(n, n + 1, n + 2, trained=1) for n in range(10)], 4, PAD)
    source = ChatSource(rows, batch_size=4, epochs=2, seed=0)
    assert source.steps == 6
    batches = [source.batch(step, None) for step in range(6)]  # type: ignore[arg-type]
    firsts = [[row[0].item() for batch in batches[part] for row in batch.ids_BT] for part in (slice(0, 3), slice(3, 6))]
    assert sorted(firsts[0]) == sorted(firsts[1]) == list(range(10))
    assert firsts[0] != firsts[1]
    assert torch.equal(source.batch(2, None).ids_BT, batches[2].ids_BT)  # type: ignore[arg-type]

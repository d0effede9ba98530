"""Packing: every trained token once, no conversation sees another, packed equals unpacked."""

from __future__ import annotations

import pytest
import torch
from aligned_models import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from kaiyuan.alignment.sft import ChatSource, best_fit, pack, stack
from kaiyuan.errors import DataError
from kaiyuan.tokenizer import ChatTokens
from kaiyuan.training.batch import Batch
from kaiyuan.training.objective import language_model_loss

PAD = 99


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
    found, expected, conversations = [], [], 0
    for row in pack(samples, length, PAD):
        ids, targets, weights, documents = (
            values.tolist() for values in (row.ids, row.targets, row.weights, row.documents)
        )
        assert len(ids) == len(targets) == len(weights) == len(documents) == length
        conversations += len(set(documents)) - (ids[-1] == PAD)
        for place in range(length):
            if weights[place]:
                assert weights[place] == 1
                assert documents[place] == documents[place + 1]
                assert targets[place] == ids[place + 1]
                found.append((ids[place], targets[place]))
            elif place + 1 == length or documents[place] != documents[place + 1]:
                assert targets[place] == PAD, "the last token of a conversation predicts nothing"
    for item in samples:
        expected += [(item.ids[i - 1], item.ids[i]) for i in range(1, len(item.ids)) if item.trained_mask[i]]
    assert sorted(found) == sorted(expected)
    assert conversations == len(samples)


def slow_best_fit(sizes: list[int], capacity: int) -> list[int]:
    """How full the bins become, by looking through all of them for each item."""
    bins: list[int] = []
    for size in sorted(sizes, reverse=True):
        fitting = [number for number, used in enumerate(bins) if used + size <= capacity]
        if fitting:
            bins[max(fitting, key=lambda number: bins[number])] += size
        else:
            bins.append(size)
    return bins


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(50, 120))
@settings(deadline=None)
def test_bins_are_those_of_a_plain_search(sizes: list[int], capacity: int) -> None:
    bins = best_fit(sizes, capacity)
    assert sorted(index for chosen in bins for index in chosen) == list(range(len(sizes)))
    assert sorted(sum(sizes[index] for index in chosen) for chosen in bins) == sorted(slow_best_fit(sizes, capacity))


def test_conversations_can_weigh_the_same() -> None:
    samples = [sample(3, 4, 5, 6, 7, 8, trained=4), sample(10, 11, 12, trained=1)]
    batch = stack(pack(samples, 16, PAD, equal_conversations=True))
    assert batch.weights_BT[0].tolist() == [0, 0.25, 0.25, 0.25, 0.25, 0, 0, 1, *[0] * 8]
    model = tiny_model()
    with torch.no_grad():
        found = language_model_loss(model, batch, batch).total
        alone = [stack(pack([item], 16, PAD)) for item in samples]
        means = [language_model_loss(model, part, part).total for part in alone]
    assert found.item() == pytest.approx(sum(means).item() / 2, abs=1e-5)


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
    """Changing the first conversation of a row changes nothing in the second, neither content nor positions."""
    model = tiny_model()
    second = sample(10, 11, 12, 13, trained=2)
    rows = [pack([first, second], 16, PAD)[0] for first in
            (sample(3, 4, 5, 6, 7, trained=1), sample(60, 61, 62, 63, 64, trained=1),
             sample(3, 4, 5, 6, 7, 8, 9, trained=1))]  # fmt: skip
    with torch.no_grad():
        found = [model(stack([row]).ids_BT, documents_BT=stack([row]).documents_BT)[0] for row in rows]
        across = [model(stack([row]).ids_BT)[0] for row in rows]
        alone = model(torch.tensor([second.ids]))[0]
    for row, logits, leaking in zip(rows, found, across, strict=True):
        start = row.ids.tolist().index(10)
        torch.testing.assert_close(logits[start : start + 4], alone, rtol=1e-4, atol=1e-5)
        assert (leaking[start : start + 4] - alone).abs().max() > 0.1, "the model would see across without documents"


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
    for step in (2, 5, 0):
        assert torch.equal(source.batch(step, None).ids_BT, batches[step].ids_BT)  # type: ignore[arg-type]
    other = ChatSource(rows, batch_size=4, epochs=2, seed=1)
    assert any(not torch.equal(other.batch(step, None).ids_BT, batches[step].ids_BT) for step in range(2))  # type: ignore[arg-type]


def test_rows_that_fill_the_last_batch_weigh_nothing() -> None:
    rows = pack([sample(n, n + 1, n + 2, trained=1) for n in range(10)], 4, PAD)
    plain = ChatSource(rows, 4, 2, 3)
    filled = ChatSource(rows, 4, 2, 3, multiple=4)
    assert plain.steps == filled.steps == 6
    for step in range(6):
        one, other = (source.batch(step, None) for source in (plain, filled))  # type: ignore[arg-type]
        count = len(one.ids_BT)
        assert (count, len(other.ids_BT)) == ((2, 4) if step % 3 == 2 else (4, 4))
        for name in ("ids_BT", "targets_BT", "weights_BT", "documents_BT"):
            assert torch.equal(getattr(other, name)[:count], getattr(one, name))
        assert not other.weights_BT[count:].any()
        assert one.weights_BT.any(1).all()
    tiny = ChatSource(rows[:1], 8, 1, 3, multiple=8).batch(0, None)  # type: ignore[arg-type]
    assert len(tiny.ids_BT) == 8 and tiny.weights_BT.any(1).sum() == 1

"""Attention against plain versions: key gains folded into queries, packed documents, and the paths' agreement."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_models import TINY, build
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kaiyuan.model import causal_attention as blockwise
from kaiyuan.model.attention import (
    Attention,
    Context,
    Documents,
    KeyValue,
    _bounds,
    attend,
    attend_last,
    document_mask,
    document_positions,
)
from kaiyuan.model.causal_attention import causal_attention
from kaiyuan.model.config import ModelConfig
from kaiyuan.model.norm import rms_norm_reference
from kaiyuan.model.rope import rope_frequencies, rope_tables, rotate
from kaiyuan.model.transformer import Transformer

LENGTH = 11


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def plain_attention(
    layer: Attention, producer: Attention, x: Tensor, source: Tensor, cos: Tensor, sin: Tensor
) -> Tensor:
    """The release's order: every layer rotates the producer's raw keys and norms them with a gain of its own."""
    heads, groups, size = layer.heads, layer.kv_heads, layer.head_dim
    q = rotate((x @ layer.q_proj.weight.T).unflatten(-1, (heads, size)), cos, sin)
    k = rotate((source @ producer.k_proj.weight.T).unflatten(-1, (groups, size)), cos, sin)
    v = (source @ producer.v_proj.weight.T).unflatten(-1, (groups, size))
    if layer.q_norm is not None and layer.k_norm is not None:
        q = rms_norm_reference(q, layer.q_norm.weight, layer.norm_eps)
        k = rms_norm_reference(k, layer.k_norm.weight, layer.norm_eps)
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    k, v = (tensor.repeat_interleave(heads // groups, 1) for tensor in (k, v))
    future = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
    scores = (q @ k.transpose(2, 3) / math.sqrt(size)).masked_fill(future, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2) @ layer.o_proj.weight.T


@pytest.mark.parametrize("qk_norm", [True, False])
def test_one_set_of_keys_without_gain_is_exact_for_every_layer_of_a_group(qk_norm: bool) -> None:
    """Values, and the gradients of every parameter (both layers' key gains among them) and of both inputs."""
    config = TINY.replace(cla_share_factor=2, qk_norm=qk_norm)
    first, second = (block.attention for block in build(config).layers[:2])
    assert not hasattr(second, "k_proj")
    one, two = (random(2, LENGTH, 32, seed=seed).requires_grad_() for seed in (1, 2))
    cos, sin = rope_tables(torch.arange(LENGTH)[None], rope_frequencies(config))
    context = Context(cos, sin, None)
    found_first, shared = first(one, None, context)
    found_second, passed_on = second(two, shared, context)
    assert passed_on is shared
    expected_first = plain_attention(first, first, one, one, cos, sin)
    expected_second = plain_attention(second, first, two, one, cos, sin)
    torch.testing.assert_close(found_first, expected_first, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found_second, expected_second, rtol=1e-4, atol=1e-5)
    inputs = [one, two, *first.parameters(), *second.parameters()]
    upstream = random(2, LENGTH, 32, seed=3)
    gradients = torch.autograd.grad([found_first, found_second], inputs, [upstream, upstream.flip(0)])
    expected = torch.autograd.grad([expected_first, expected_second], inputs, [upstream, upstream.flip(0)])
    for one_gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one_gradient, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 4), (6, 3), (8, 1)])
@pytest.mark.parametrize("length", [1, 5, 128, 131, 256, 385])
def test_blocks_of_queries_equal_pytorchs_kernel(length: int, heads: int, kv_heads: int) -> None:
    q = random(2, heads, length, 8).requires_grad_()
    k, v = (random(2, kv_heads, length, 8, seed=seed).requires_grad_() for seed in (1, 2))
    upstream = random(2, heads, length, 8, seed=3)
    found = causal_attention(q, k, v)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(
        torch.autograd.grad(found, [q, k, v], upstream), torch.autograd.grad(expected, [q, k, v], upstream), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("length", [7, 128, 300])
def test_blocks_of_queries_keep_documents_apart(length: int, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With probabilities kept for the backward pass, and computed again there."""
    monkeypatch.setattr(blockwise, "KEPT", 512 if kept else 0)
    q = random(2, 4, length, 8).requires_grad_()
    k, v = (random(2, 2, length, 8, seed=seed).requires_grad_() for seed in (1, 2))
    starts = torch.rand(2, length, generator=torch.Generator().manual_seed(4)) < 0.05
    mask = document_mask(starts.cumsum(1))
    found = causal_attention(q, k, v, starts.cumsum(1))
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    upstream = random(2, 4, length, 8, seed=3)
    for one, other in zip(
        torch.autograd.grad(found, [q, k, v], upstream), torch.autograd.grad(expected, [q, k, v], upstream), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(1, 9), (150, 400), (256, 256), (129, 130)])
def test_queries_of_the_last_tokens(
    queries: int, keys: int, packed: bool, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against PyTorch with the last rows of the whole sequence's mask."""
    monkeypatch.setattr(blockwise, "KEPT", 512 if kept else 0)
    q = random(2, 4, queries, 8).requires_grad_()
    k, v = (random(2, 2, keys, 8, seed=seed).requires_grad_() for seed in (1, 2))
    numbers = (torch.rand(2, keys, generator=torch.Generator().manual_seed(4)) < 0.02 * packed).cumsum(1)
    mask = document_mask(numbers)[:, :, -queries:]
    found = attend_last(q, k, v, Documents.of(numbers, queries) if packed else None)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    upstream = random(2, 4, queries, 8, seed=3)
    for one, other in zip(
        torch.autograd.grad(found, [q, k, v], upstream), torch.autograd.grad(expected, [q, k, v], upstream), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="flash attention needs a GPU")
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(1, 9), (300, 1000), (256, 256)])
def test_flash_attention_of_the_last_tokens(queries: int, keys: int, packed: bool) -> None:
    """On a GPU in bfloat16, against float64 with a mask; documents that end before the queries have no gradient."""
    shapes = ((4, queries), (2, keys), (2, keys))
    inputs = [
        random(2, heads, length, 64, seed=seed, dtype=torch.bfloat16).cuda().requires_grad_()
        for seed, (heads, length) in enumerate(shapes)
    ]
    numbers = (torch.rand(2, keys, generator=torch.Generator().manual_seed(4)) < 0.02 * packed).cumsum(1).cuda()
    mask = document_mask(numbers)[:, :, -queries:]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    found = attend_last(*inputs, Documents.of(numbers, queries) if packed else None)
    expected = F.scaled_dot_product_attention(*exact, attn_mask=mask, enable_gqa=True)
    upstream = random(2, 4, queries, 64, seed=3, dtype=torch.bfloat16).cuda()
    pairs = zip(
        (found, *torch.autograd.grad(found, inputs, upstream)),
        (expected, *torch.autograd.grad(expected, exact, upstream.double())),
        strict=True,
    )
    for one, other in pairs:
        assert float((one.double() - other).norm() / other.norm()) < 0.01


@pytest.mark.parametrize("queries", [14, 9, 3])
def test_bounds_of_documents_among_the_last_queries_by_brute_force(queries: int) -> None:
    _, numbers, spans = documents()
    bounds, query_bounds = _bounds(numbers, queries)
    lengths = [end - start for _, start, end in spans]
    last = [max(0, end - max(start, 14 - queries)) for _, start, end in spans]
    assert bounds.diff().tolist() == lengths
    assert query_bounds.diff().tolist() == last
    assert sum(last) == 2 * queries, "or the brute force is wrong"


def test_large_scores_do_not_overflow() -> None:
    q, k, v = (random(1, 2, 140, 8, seed=seed) * scale for seed, scale in ((0, 200.0), (1, 200.0), (2, 1.0)))
    found = causal_attention(q.requires_grad_(), k, v)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(found.sum(), [q]))


def test_bfloat16_keeps_its_type_and_most_of_its_precision() -> None:
    inputs = [random(2, heads, 150, 16, seed=seed).requires_grad_() for seed, heads in enumerate((4, 2, 2))]
    rounded = [tensor.detach().bfloat16().requires_grad_() for tensor in inputs]
    upstream = random(2, 4, 150, 16, seed=5)
    exact, found = causal_attention(*inputs), causal_attention(*rounded)
    pairs = zip(
        (found.detach(), *torch.autograd.grad(found, rounded, upstream.bfloat16())),
        (exact.detach(), *torch.autograd.grad(exact, inputs, upstream)),
        strict=True,
    )
    for one, other in pairs:
        assert one.dtype == torch.bfloat16
        assert float((one.float() - other).norm() / other.norm()) < 0.02


def test_all_paths_agree() -> None:
    """The training path, the inference path, and an explicit mask."""
    q, shared = random(2, 4, 70, 8), KeyValue(random(2, 2, 70, 8, seed=1), random(2, 2, 70, 8, seed=2))
    mask = torch.ones(70, 70, dtype=torch.bool).tril()[None, None]
    expected = attend(q, shared, None)
    torch.testing.assert_close(attend(q.clone().requires_grad_(), shared, None), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(attend(q, shared, mask), expected, rtol=1e-5, atol=1e-5)


def test_dropout_works_in_training_alone() -> None:
    torch.manual_seed(0)
    q, shared = random(1, 2, 50, 8).requires_grad_(), KeyValue(random(1, 2, 50, 8), torch.ones(1, 2, 50, 8))
    assert attend(q, shared, None).std() < 1e-6
    assert attend(q, shared, None, dropout=0.5).std() > 0.05
    model = build(TINY)
    model.mode.attention_dropout = 0.5
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(model(ids), model(ids))
        assert not torch.equal(model.train()(ids), model(ids))


def documents() -> tuple[Tensor, Tensor, list[tuple[int, int, int]]]:
    """Ids and document numbers of two rows, and each document as (row, start, end). Numbers come back in the row."""
    spans = [(0, 0, 4), (0, 4, 5), (0, 5, 14), (1, 0, 13), (1, 13, 14)]
    numbers = torch.zeros(2, 14, dtype=torch.int64)
    for number, (row, start, end) in enumerate(spans):
        numbers[row, start:end] = 7 - number
    return torch.randint(0, 48, (2, 14), generator=torch.Generator().manual_seed(4)), numbers, spans


@pytest.mark.parametrize("training", [False, True])
def test_packed_documents_equal_documents_alone(training: bool) -> None:
    model = build(TINY)
    ids, numbers, spans = documents()
    with torch.set_grad_enabled(training):
        packed = model(ids, documents_BT=numbers).detach()
        for row, start, end in spans:
            alone = model(ids[row : row + 1, start:end])[0]
            torch.testing.assert_close(packed[row, start:end], alone.detach(), rtol=1e-4, atol=1e-4)


def test_no_document_sees_another_or_its_own_future() -> None:
    """Change one token: only the rest of its own document may change, and it does."""
    model = build(TINY)
    ids, numbers, spans = documents()
    changed = ids.clone()
    changed[0, 7] = (ids[0, 7] + 1) % 48
    with torch.no_grad():
        before, after = model(ids, documents_BT=numbers), model(changed, documents_BT=numbers)
    differs = (before - after).abs().amax(-1) > 1e-4  # rounding changes with the number of tokens an expert has
    expected = torch.zeros(2, 14, dtype=torch.bool)
    expected[0, 7 : spans[2][2]] = True
    assert torch.equal(differs, expected)


def test_gradients_of_packed_documents_are_those_of_documents_alone() -> None:
    model = build(TINY)
    ids, numbers, spans = documents()
    pull = random(2, 14, 48, seed=6)
    (model(ids, documents_BT=numbers) * pull).sum().backward()
    packed = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    for row, start, end in spans:
        (model(ids[row : row + 1, start:end])[0] * pull[row, start:end]).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(packed[name], parameter.grad, rtol=1e-3, atol=1e-3)


def test_positions_and_mask_of_documents_by_brute_force() -> None:
    _, numbers, _ = documents()
    places, mask = document_positions(numbers), document_mask(numbers)
    for row in range(2):
        seen: dict[int, int] = {}
        for index, number in enumerate(numbers[row].tolist()):
            assert int(places[row, index]) == seen.get(number, 0)
            seen[number] = seen.get(number, 0) + 1
            visible = [other for other in range(index + 1) if int(numbers[row, other]) == number]
            assert torch.nonzero(mask[row, 0, index]).flatten().tolist() == visible


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_only_producers_have_keys_and_values(factor: int) -> None:
    config: ModelConfig = TINY.replace(cla_share_factor=factor)
    owners = [i for i, block in enumerate(Transformer(config).layers) if hasattr(block.attention, "k_proj")]
    assert owners == list(range(0, 4, factor))


def test_no_tensor_of_a_training_step_grows_with_the_square_of_the_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed documents, forwards and backwards: at most a block of queries meets all keys."""
    monkeypatch.setattr(blockwise, "KEPT", 0)
    length = 640
    q = random(1, 2, length, 8).requires_grad_()
    shared = KeyValue(random(1, 1, length, 8, seed=1), random(1, 1, length, 8, seed=2))
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = function(*args, **kwargs or {})
            largest = max([largest, *(x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor))])
            return out

    numbers = (torch.arange(length) // 100)[None]
    with Watch():
        attend(q, shared, None, documents=Documents.of(numbers)).sum().backward()
    assert 2 * blockwise.BLOCK * length <= largest < length * length

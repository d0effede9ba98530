"""Every Triton kernel of decoding against the same in PyTorch; without a GPU through Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton", reason="Triton is not installed (it exists for Linux only)")

from kaiyuan.inference.kernels import choosing, feed_forward, paged_attention, products  # noqa: E402
from kaiyuan.inference.kernels.feed_forward import Choice  # noqa: E402
from kaiyuan.inference.kernels.paged_attention import Rows, Store  # noqa: E402
from kaiyuan.inference.kernels.products import Matrix, Tile  # noqa: E402
from kaiyuan.model.experts import experts_reference  # noqa: E402
from kaiyuan.model.norm import rms_norm_reference  # noqa: E402
from kaiyuan.model.quantization import dequantize, quantize  # noqa: E402
from kaiyuan.model.rope import rotate  # noqa: E402
from kaiyuan.model.routing import route  # noqa: E402

EPS = 1e-5
SHORT = torch.bfloat16 if DEVICE == "cuda" else torch.float16
"""The interpreter multiplies the bits of bfloat16 numbers, not the numbers."""
TOLERANCE = {torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 3e-2}
DTYPES = [torch.float32, SHORT]
ON_GPU = pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter loses the carry when it rounds to fp8 (1.96 to 1)")


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator).to(DEVICE, dtype)


def close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    torch.testing.assert_close(found.float(), expected.float(), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def matrix(*shape: int, dtype: torch.dtype, scheme: str | None, seed: int = 0) -> tuple[Matrix, Tensor]:
    """A weight as the kernels take it, and what it stands for in float32."""
    weight = random(*shape, dtype=dtype, seed=seed) / shape[-1] ** 0.5
    if scheme is None:
        return Matrix(weight), weight.float()
    codes, scale = quantize(weight, scheme)  # type: ignore[arg-type]
    return Matrix(codes, scale), dequantize(codes, scale)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", [None, "int8", "int4", "fp8"])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 64, 48), (5, 300, 70), (33, 48, 20)])
def test_linear(rows: int, inputs: int, outputs: int, scheme: str | None, dtype: torch.dtype) -> None:
    if scheme == "int4":
        inputs = -(-inputs // 64) * 64  # whole groups
    x, residual = random(rows, inputs, dtype=dtype), random(rows, outputs, dtype=dtype)
    weight, meant = matrix(outputs, inputs, dtype=dtype, scheme=scheme)
    close(products.linear(x, weight, torch.empty_like(residual)), x.float() @ meant.T, dtype)
    added = products.linear(x, weight, torch.empty_like(residual), residual=residual)
    close(added, x.float() @ meant.T + residual.float(), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_of_a_sum(dtype: torch.dtype) -> None:
    x, gain, parts = random(5, 50, dtype=dtype), random(50, dtype=dtype), random(3, 5, 50)
    close(products.norm(x, gain, EPS, torch.empty_like(x)), rms_norm_reference(x.float(), gain, EPS), dtype)
    whole = x.float() + parts.sum(0)
    normed = products.norm(x, gain, EPS, torch.empty_like(x), parts_PNI=parts, out_NI=x)
    close(x, whole, dtype)
    close(normed, rms_norm_reference(whole, gain, EPS), dtype)


@pytest.mark.usefixtures("rows_apart")
def test_linear_in_tiles_of_its_own_gives_each_row_the_same_whatever_stands_beside_it() -> None:
    x, (weight, _) = random(70, 96), matrix(40, 96, dtype=torch.float32, scheme=None)
    tile = Tile(32, 16, 32)
    whole = products.linear(x, weight, x.new_empty(70, 40), tile=tile)
    for rows in (slice(0, 1), slice(37, 70), slice(5, 11)):
        part = x[rows]
        assert torch.equal(products.linear(part, weight, x.new_empty(len(part), 40), tile=tile), whole[rows])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "experts"), [(1, 16), (7, 4), (20, 1)])
def test_router(rows: int, experts: int, dtype: torch.dtype) -> None:
    x, gain, router = random(rows, 80, dtype=dtype), random(80, dtype=dtype), random(experts, 80)
    normed = torch.empty_like(x)
    found = feed_forward.route(x, gain, EPS, router, normed, torch.empty(rows, experts, device=DEVICE))
    close(normed, rms_norm_reference(x.float(), gain, EPS), dtype)
    expected = F.rms_norm(x, (80,), gain, EPS).float() @ router.T
    torch.testing.assert_close(found, expected, atol=1e-4 if dtype == torch.float32 else 0.2, rtol=1e-2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("scheme", "renormalize"), [(None, True), (None, False), ("int8", True), ("int4", True), ("fp8", False)]
)
@pytest.mark.parametrize(("rows", "experts", "top_k"), [(1, 4, 1), (6, 16, 1), (19, 3, 2), (2, 7, 3)])
def test_feed_forward(
    rows: int, experts: int, top_k: int, renormalize: bool, scheme: str | None, dtype: torch.dtype
) -> None:
    size, shared_width, width = (128, 64, 64) if scheme == "int4" else (72, 50, 34)
    x = random(rows, size, dtype=dtype)
    up, up_meant = matrix(experts, 2 * width, size, dtype=dtype, scheme=scheme)
    shared_up, shared_up_meant = matrix(2 * shared_width, size, dtype=dtype, scheme=scheme, seed=1)
    below, below_meant = matrix(experts, size, width, dtype=dtype, scheme=scheme, seed=2)
    shared_below, shared_below_meant = matrix(size, shared_width, dtype=dtype, scheme=scheme, seed=3)
    choice = Choice(random(rows, experts), top_k, renormalize)

    shared, routed = x.new_empty(rows, shared_width), x.new_empty(top_k, rows, width)
    feed_forward.gate_up(x, shared_up, up, choice, shared, routed)
    parts = torch.full((1 + top_k, rows, size), float("nan"), device=DEVICE)
    feed_forward.down(shared, shared_below, routed, below, choice, parts)
    feed_forward.gate_up(x, None, up, choice, None, routed)
    alone = feed_forward.down(None, None, routed, below, choice, torch.full_like(parts[1:], float("nan")))

    gates, ups = (x.float() @ shared_up_meant.T).chunk(2, -1)
    routing = route(choice.logits_NE.softmax(-1), top_k, renormalize=renormalize)
    own = experts_reference(x.float(), routing, top_k, up_meant, below_meant)
    close(parts[0], (F.silu(gates) * ups) @ shared_below_meant.T, dtype)
    close(parts[1:].sum(0), own, dtype)
    close(alone.sum(0), own, dtype)


def pages(rows: int, lengths: list[int], page: int) -> tuple[Rows, list[Tensor]]:
    """Tables with every sequence's pages scattered, and each row's places in the store."""
    longest = -(-max(lengths) // page)
    generator = torch.Generator().manual_seed(3)
    tables = torch.randperm(rows * longest, generator=generator).view(rows, longest).int()
    slots = torch.randperm(rows, generator=generator).int()
    places = []
    for slot, length in zip(slots.tolist(), lengths, strict=True):
        t = torch.arange(length)
        places.append((tables[slot].long()[t // page] * page + t % page).to(DEVICE))
    positions = torch.tensor(lengths).int() - 1
    return Rows(tables.to(DEVICE), slots.to(DEVICE), positions.to(DEVICE), page), places


def stores(tokens: int, heads: int, size: int, kind: torch.dtype) -> tuple[Store, Tensor]:
    x = random(tokens, heads, size)
    if kind == torch.int8:
        scale = (x.abs().amax(-1, keepdim=True) / 127).half()
        codes = (x / scale.float()).round().to(torch.int8)
        return Store(codes, scale), codes.float() * scale.float()
    stored = x.to(kind)
    return Store(stored, None), stored.float()


@pytest.mark.parametrize("kind", [torch.float32, SHORT, torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("splits", [None, 1, 3])
@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(6, 2, 16), (4, 4, 24)])
def test_attention_over_pages(heads: int, kv_heads: int, size: int, splits: int | None, kind: torch.dtype) -> None:
    lengths = [1, 70, 0, 129, 64]
    rows, places = pages(len(lengths), lengths, page=8)
    dtype = SHORT if kind == SHORT else torch.float32
    query = random(len(lengths), heads, size, dtype=dtype)
    keys, keys_meant = stores(rows.tables.numel() * 8, kv_heads, size, kind)
    values, values_meant = stores(rows.tables.numel() * 8, kv_heads, size, kind)
    found = paged_attention.paged_attention(query, keys, values, rows, torch.empty_like(query), splits=splits)
    for row, place in enumerate(places):
        if len(place):
            k, v = (
                meant[place].repeat_interleave(heads // kv_heads, 1).transpose(0, 1)
                for meant in (keys_meant, values_meant)
            )
            expected = F.scaled_dot_product_attention(query[row].float()[:, None], k, v)[:, 0]
        else:
            expected = torch.zeros(heads, size, device=DEVICE)
        close(found[row], expected, dtype)


@pytest.mark.parametrize("kind", [torch.float32, SHORT, torch.int8, pytest.param(torch.float8_e4m3fn, marks=ON_GPU)])
@pytest.mark.parametrize("normed", [True, False])
def test_keys_and_values_are_turned_and_kept(normed: bool, kind: torch.dtype) -> None:
    heads, kv_heads, size, lengths = 4, 2, 24, [1, 9, 0, 30]
    rows, places = pages(len(lengths), lengths, page=8)
    x, gain = random(4, (heads + 2 * kv_heads) * size), random(size)
    frequencies = (10_000.0 ** -(torch.arange(0, size, 2) / size)).to(DEVICE)
    tokens = rows.tables.numel() * 8
    keys, values = (
        Store(
            torch.zeros(tokens, kv_heads, size, device=DEVICE).to(kind),
            torch.zeros(tokens, kv_heads, 1, device=DEVICE).half() if kind == torch.int8 else None,
        )
        for _ in range(2)
    )
    query = paged_attention.turn_and_keep(
        x, x.new_empty(4, heads, size), keys, values, rows, frequencies, gain if normed else None, EPS
    )
    angles = rows.position_N[:, None, None].float() * frequencies
    q, k, v = x.unflatten(-1, (-1, size)).split((heads, kv_heads, kv_heads), 1)
    if normed:
        q, k = rms_norm_reference(q, None, EPS), rms_norm_reference(k, None, EPS)
    expected = rotate(q, angles.cos(), angles.sin()) * (gain if normed else 1)
    torch.testing.assert_close(query[[0, 1, 3]], expected[[0, 1, 3]], atol=1e-5, rtol=1e-5)
    k = rotate(k, angles.cos(), angles.sin())
    kept = torch.zeros(tokens, dtype=torch.bool)
    for row, place in enumerate(places):
        if len(place):
            kept[place[-1]] = True
            for store, meant in ((keys, k[row]), (values, v[row])):
                found = store.data[place[-1]].float() * (1 if store.scale is None else store.scale[place[-1]].float())
                step = meant.abs().amax() / {torch.int8: 127, torch.float8_e4m3fn: 16, SHORT: 256}.get(kind, 1e5)
                torch.testing.assert_close(found, meant, atol=float(step), rtol=0)
    assert not keys.data[~kept].float().any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "vocabulary"), [(1, 64), (3, 201), (18, 130)])
def test_the_most_likely_token_and_its_log_probability(rows: int, vocabulary: int, dtype: torch.dtype) -> None:
    x = random(rows, 48, dtype=dtype)
    weight, meant = matrix(vocabulary, 48, dtype=dtype, scheme=None)
    best = choosing.Best.room(rows, vocabulary, DEVICE)
    choosing.head(x, weight, best)
    ids = torch.zeros(rows, dtype=torch.int64, device=DEVICE)
    start = torch.arange(rows, dtype=torch.int32, device=DEVICE) - 1
    position = start + 2
    tokens = torch.full((4, rows), -7, dtype=torch.int32, device=DEVICE)
    logprobs = torch.zeros(4, rows, device=DEVICE)
    choosing.choose(best, ids, position, start, tokens, logprobs)
    expected = (x.float() @ meant.T).log_softmax(-1)
    assert torch.equal(ids.int(), tokens[2])
    assert (tokens[[0, 1, 3]] == -7).all()
    assert torch.equal(position, start + 3)
    at_found = expected.gather(1, ids[:, None])[:, 0]
    torch.testing.assert_close(at_found, expected.amax(-1), atol=TOLERANCE[dtype], rtol=0)
    torch.testing.assert_close(logprobs[2], at_found, atol=2 * TOLERANCE[dtype], rtol=0)


def test_of_equal_logits_the_first_is_taken() -> None:
    weight = torch.ones(200, 16, device=DEVICE)
    best = choosing.Best.room(1, 200, DEVICE)
    choosing.head(torch.ones(1, 16, device=DEVICE), Matrix(weight), best)
    ids, position = torch.full((1,), 9, device=DEVICE), torch.zeros(1, dtype=torch.int32, device=DEVICE)
    choosing.choose(
        best,
        ids,
        position,
        position.clone(),
        torch.zeros(1, 1, dtype=torch.int32, device=DEVICE),
        torch.zeros(1, 1, device=DEVICE),
    )
    assert ids.item() == 0

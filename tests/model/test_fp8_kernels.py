"""The kernels that write fp8, and feed-forward layers in fp8; without a GPU through Triton's interpreter.

It loses the carry when it rounds to fp8 (15.9 becomes 8): there, numbers that need no rounding show the same.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton", reason="Triton is not installed (it exists for Linux only)")

from kaiyuan.model import fused  # noqa: E402
from kaiyuan.model.attention import Attention, Context  # noqa: E402
from kaiyuan.model.config import ModelConfig  # noqa: E402
from kaiyuan.model.experts import Dispatch, Experts  # noqa: E402
from kaiyuan.model.kernels import adamw, feed_forward, fp8, grouped, matrices, projections, square_sum, swiglu  # noqa: E402
from kaiyuan.model.quantization import QuantizedExperts  # noqa: E402
from kaiyuan.model.rope import rope_frequencies, rope_tables  # noqa: E402
from kaiyuan.model.routing import RoutingPolicy, route  # noqa: E402
from kaiyuan.model.transformer import MoE, TrainingMode  # noqa: E402

SHORT = torch.bfloat16 if DEVICE == "cuda" else torch.float16
"""What half precision the interpreter can round to."""
WEIGHTS = torch.bfloat16 if DEVICE == "cuda" else torch.float32


@pytest.fixture(autouse=True)
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    if DEVICE == "cpu":  # the interpreter runs one after the other
        monkeypatch.setattr(fp8, "_PROGRAMS", 8)
        monkeypatch.setattr(square_sum, "PROGRAMS", 8)


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator).to(DEVICE, dtype)


def _decoded(rows: fp8.Rows) -> Tensor:
    return rows.codes.float() * rows.scale_N[:, None]


def grid(*shape: int, seed: int = 0) -> Tensor:
    """Random numbers that e4m3 has, the largest of each row 448."""
    numbers = random(*shape, seed=seed).mul(100).clamp(-448, 448).to(fp8.E4M3).float()
    numbers[..., 0] = 448
    return numbers


def test_rows_that_e4m3_has_are_kept_to_the_bit_at_any_scale() -> None:
    powers = torch.linspace(-20, 20, 9, device=DEVICE).exp2()
    numbers = grid(9, 50)
    found = fp8.rows_of(numbers * powers[:, None])
    torch.testing.assert_close(found.scale_N, powers)
    assert torch.equal(found.codes.float(), numbers)
    assert (_decoded(fp8.rows_of(torch.zeros(2, 16, device=DEVICE))) == 0).all()


@pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter rounds wrongly")
def test_rows_are_rounded_as_pytorch_rounds() -> None:
    x = random(9, 50)
    found = fp8.rows_of(x)
    torch.testing.assert_close(found.scale_N, x.abs().amax(1) / 448)
    expected = (x / found.scale_N[:, None]).to(fp8.E4M3).float()
    assert (found.codes.float() != expected).float().mean() < 0.01  # a quotient may be off by a bit, at a tie
    torch.testing.assert_close(found.codes.float(), expected, rtol=1 / 8, atol=2**-9)


def test_gathered_rows_in_fp8_are_those_of_the_gathered_rows() -> None:
    x, kept = random(5, 18), torch.tensor([6], dtype=torch.int32, device=DEVICE)
    token_N = torch.tensor([4, 0, 0, 3, 1, 2, 4, 1], device=DEVICE)
    plain, found = fp8.gathered_rows(x, token_N, kept)
    expected = fp8.rows_of(x[token_N])
    assert torch.equal(plain[:6], x[token_N][:6])
    for one, other in ((found, expected), (fp8.rows_of(x).gather(token_N, kept), expected)):
        assert torch.equal(_decoded(one)[:6], _decoded(other)[:6])


@pytest.mark.parametrize("shape", [(3, 48, 130), (144, 16)])
def test_weights_in_fp8_have_one_scale_a_matrix_and_are_kept_turned_as_well(shape: tuple[int, ...]) -> None:
    weight = (grid(*shape) * 2.0**-7).to(WEIGHTS)
    found = fp8.codes_of(weight)
    matrices = weight.float() if weight.dim() == 3 else weight.float()[None]
    experts, outputs, inputs = matrices.shape
    torch.testing.assert_close(found.scale_EO, torch.full((experts, outputs), 2.0**-7, device=DEVICE))
    torch.testing.assert_close(found.scale_EI, torch.full((experts, inputs), 2.0**-7, device=DEVICE))
    assert torch.equal(found.codes.float() * 2.0**-7, matrices)
    assert torch.equal(found.turned.float() * 2.0**-7, matrices.transpose(1, 2))
    again = fp8.codes_of(weight * 2, found)
    assert again.codes.data_ptr() == found.codes.data_ptr()
    torch.testing.assert_close(again.scale_EO, torch.full((experts, outputs), 2.0**-6, device=DEVICE))


@pytest.mark.parametrize("weighted", [False, True])
def test_swiglu_in_fp8_is_swiglu_encoded(weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swiglu, "_block", lambda width: 16)  # several blocks a row
    hidden, grad = random(5, 80), random(5, 40, seed=1)
    weight = random(5, seed=2) if weighted else None
    kept = torch.tensor([5], dtype=torch.int32, device=DEVICE)
    act, coded = swiglu.forward_coded(hidden, weight)
    torch.testing.assert_close(act, swiglu.forward(hidden, weight))
    assert torch.equal(_decoded(coded), _decoded(fp8.rows_of(act)))
    plain, grad_weight, none = swiglu.backward(grad, hidden, weight, kept)
    found, found_weight, coded_grad = swiglu.backward(grad, hidden, weight, kept, coded=True)
    assert none is None and coded_grad is not None
    assert torch.equal(found, plain) and torch.equal(_decoded(coded_grad), _decoded(fp8.rows_of(plain)))
    if weighted:
        assert found_weight is not None and torch.equal(found_weight, grad_weight)


@pytest.mark.parametrize("recompute", [False, True])
def test_feed_forward_layers_in_fp8_are_near_those_in_full(recompute: bool) -> None:
    """Rounding to e4m3 puts products off by a few percent; what is off by more is wrong."""
    experts, size, width, tokens = 4, 32, 48, 64
    probs = random(tokens, experts, dtype=torch.float32).softmax(-1)
    found = route(probs, 1, RoutingPolicy("drop", 0.8, 1), seed=0)
    places = Dispatch(found, experts, 1).places()
    stacked = [random(experts, 2 * width, size), random(experts, size, width)]
    alone = [random(2 * width, size, seed=3), random(size, width, seed=4)]
    inputs = [random(tokens, size), *stacked, *alone, found.weight_N]

    def both(coded: bool) -> list[Tensor]:
        x, up, down, shared_up, shared_down, weight_N = (x.to(WEIGHTS).requires_grad_() for x in inputs)
        codes = [fp8.codes_of(w) if coded else None for w in (up, down, shared_up, shared_down)]
        base = feed_forward.dense(x, shared_up, shared_down, recompute, codes[2] and (codes[2], codes[3]))  # type: ignore[arg-type]
        out = feed_forward.grouped(x, base, up, down, weight_N, places, recompute, codes[0] and (codes[0], codes[1]))  # type: ignore[arg-type]
        return [
            out,
            *torch.autograd.grad(
                out, (x, up, down, shared_up, shared_down, weight_N), random(*out.shape, seed=9).to(WEIGHTS)
            ),
        ]

    for one, other in zip(both(True), both(False), strict=True):
        error = float(((one.float() - other.float()).norm() / other.float().norm()).detach())
        assert 1e-3 < error < (0.08 if DEVICE == "cuda" else 0.25), error


def _config() -> ModelConfig:
    return ModelConfig(vocab_size=48, hidden_size=32, num_layers=2, num_attention_heads=4, num_kv_heads=2, head_dim=8,
                       intermediate_size=48, num_experts=4, rope_alpha=1000.0)  # fmt: skip


@pytest.mark.parametrize("outputs", [(48, 16, 16), (32,)])
def test_projections_in_fp8_of_numbers_that_it_has_are_those_in_full(outputs: tuple[int, ...]) -> None:
    """Every use of the input has a gradient of its own; numbers of the weights that are handed over are not read."""
    x = (grid(2, 7, 32) * 2.0**-8).to(WEIGHTS)
    weights = [(grid(size, 32, seed=use) * 2.0**-10).to(WEIGHTS) for use, size in enumerate(outputs)]
    upstream = [(grid(2, 7, size, seed=9 + use) * 2.0**-use).to(WEIGHTS) for use, size in enumerate(outputs)]
    holders = [torch.full_like(weight, float("nan")).requires_grad_() for weight in weights]
    uses = [x.clone().requires_grad_() for _ in outputs]
    found = projections.projections(uses, holders, [fp8.codes_of(weight) for weight in weights])
    found += torch.autograd.grad(found, [*uses, *holders], upstream)
    plain = [[value.float().clone().requires_grad_() for value in values] for values in ([x] * len(outputs), weights)]
    expected = [use @ weight.T for use, weight in zip(*plain, strict=True)]
    expected += torch.autograd.grad(expected, [*plain[0], *plain[1]], [grad.float() for grad in upstream])
    for one, other in zip(found, expected, strict=True):
        assert float(((one.float() - other).norm() / other.norm()).detach()) < (1e-2 if DEVICE == "cuda" else 1e-5)


@pytest.mark.parametrize("layer", [0, 1])
def test_attention_in_fp8_is_near_that_in_full(layer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer with keys and values, and one that has those of another; gradients of input and weights."""
    monkeypatch.setattr(fused, "on_gpu", lambda x: True)
    config = _config()
    attention = Attention(config, config.layer(layer)).to(DEVICE)
    for parameter in attention.parameters():
        parameter.data.copy_(random(*parameter.shape) * 0.3)
    owner = Attention(config, config.layer(0)).to(DEVICE)
    owner.load_state_dict({name: random(*value.shape) for name, value in owner.state_dict().items()})
    positions = torch.arange(12, device=DEVICE)[None]
    context = Context(*rope_tables(positions, rope_frequencies(config, positions.device)), None)
    shared = None if layer == 0 else owner(random(2, 12, 32, seed=3).to(WEIGHTS), None, context)[1]
    assert attention.owns_kv == (layer == 0)

    def run(coded: bool) -> list[Tensor]:
        attention.fp8 = coded
        uses = [random(2, 12, 32).to(WEIGHTS).requires_grad_() for _ in range(attention.uses)]
        out, _ = attention(uses[0], shared, context, *uses[1:])
        weights = [weight for name, weight in attention.named_parameters() if "proj" in name]
        return [out, *torch.autograd.grad(out, [*uses, *weights], random(*out.shape, seed=9).to(WEIGHTS))]

    for one, other in zip(run(True), run(False), strict=True):
        error = float(((one.float() - other.float()).norm() / other.float().norm()).detach())
        assert 1e-3 < error < (0.1 if DEVICE == "cuda" else 0.3), error


def test_both_kinds_of_experts_take_one_coded_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "on_gpu", lambda x: True)
    config = _config()
    moe = MoE(config, config.layer(0)).to(DEVICE)
    for parameter in moe.parameters():
        parameter.data.copy_(random(*parameter.shape))
    assert moe.shared is not None
    moe.shared.fp8 = moe.experts.fp8 = True
    x = random(2, 9, 32).to(WEIGHTS).requires_grad_()
    probs = moe.router(x.flatten(0, 1)).softmax(-1)
    dispatch = Dispatch(route(probs, 1, RoutingPolicy("dropless"), seed=0), 4, 1)
    expected = moe.experts(x.flatten(0, 1), dispatch, moe.shared(x.flatten(0, 1))).view_as(x)
    upstream = random(*x.shape, seed=4).to(WEIGHTS)
    (expected_grad,) = torch.autograd.grad(expected, [x], upstream)
    made: list[Tensor] = []
    code = fp8.rows_of

    def counted(x_ND: Tensor) -> fp8.Rows:
        made.append(x_ND)
        return code(x_ND)

    monkeypatch.setattr(fp8, "rows_of", counted)
    monkeypatch.setattr(matrices, "rows_of", counted)
    found, _ = moe.eval()(x, TrainingMode())
    assert len(made) == 1 and torch.equal(made[0], x.flatten(0, 1))
    assert torch.equal(found, expected)
    assert torch.equal(torch.autograd.grad(found, [x], upstream)[0], expected_grad)


def test_coded_experts_in_groups_are_near_those_one_by_one() -> None:
    """For inference: weights coded by output, activations by row."""
    experts = Experts(4, 32, 48)
    for parameter in experts.parameters():
        parameter.data.copy_(random(*parameter.shape))
    coded = QuantizedExperts(experts, "fp8").to(DEVICE)
    x = random(64, 32).to(WEIGHTS)
    probs = random(64, 4).softmax(-1)
    for policy in (RoutingPolicy("dropless"), RoutingPolicy("drop", 0.8, 1)):
        dispatch = Dispatch(route(probs, 1, policy, seed=0), 4, 1)
        expected = coded.directly(x[dispatch.token_N], dispatch.counts_E.tolist()).float()
        found = coded.in_groups(x, dispatch).float()
        assert float((found - expected).norm() / expected.norm()) < (0.08 if DEVICE == "cuda" else 0.25)
        assert torch.equal(found == 0, expected == 0)


def test_sums_of_squares() -> None:
    tensors = [random(70_001), random(3, 5).to(SHORT)]
    expected = sum(tensor.double().square().sum() for tensor in tensors)
    torch.testing.assert_close(square_sum.square_sums(tensors).sum(), torch.as_tensor(expected).float())


@pytest.mark.parametrize("shape", [(3, 70, 130), (144, 16)])
def test_an_update_that_writes_codes_is_one_that_does_not_and_codes_of_what_it_made(shape: tuple[int, ...]) -> None:
    """Scales come from the largest numbers before the update; those after it are left for the next."""
    weight = random(*shape)
    first = (random(*shape, seed=1), torch.zeros_like(weight), torch.zeros_like(weight))
    plain, coded = ([weight.clone(), *(x.clone() for x in first[1:])] for _ in range(2))
    copy, factor = torch.empty_like(weight, dtype=SHORT), torch.tensor(0.37, device=DEVICE)
    codes = fp8.codes_of(weight.to(SHORT))
    following = codes.largest_E.clone()
    for step in (1, 2):
        before, following = following, torch.zeros_like(following)
        grad = random(*shape, seed=step, dtype=SHORT)
        settings = {"step": step, "lr": 0.1, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
        adamw.update(plain[0], grad, *plain[1:], copy, factor, **settings)  # type: ignore[arg-type]
        adamw.update_coded(coded[0], grad, *coded[1:], codes, before, following, factor, SHORT, **settings)  # type: ignore[arg-type]
        for one, other in zip(plain, coded, strict=True):  # a GPU may fuse a product and a sum in one of them alone
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
        made = coded[0].to(SHORT)
        expected = fp8.codes_of(made, largest_E=before)
        for one, other in zip(codes[:4], expected[:4], strict=True):
            assert torch.equal(one.float(), other.float())
        assert torch.equal(following, made.float().abs().flatten(-2).amax(-1).view(-1))
    assert not torch.equal(following, before)


def _grouped_and_expected(
    x: Tensor, scale_N: Tensor, weight: Tensor, scale_EO: Tensor, ends: list[int], dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What the kernel makes of an output full of NaN, by few programs so that each has several tiles; and each expert
    alone, in float64, with NaN in rows that belong to none.
    """
    ends_E = torch.tensor(ends, dtype=torch.int32, device=DEVICE)
    with monkeypatch.context() as patch:
        patch.setattr(grouped, "_programs", lambda device: 3)
        patch.setattr(torch, "empty", lambda *shape, **options: torch.full(shape, float("nan"), **options))
        found = grouped.grouped_product(x, scale_N, weight, scale_EO, ends_E, dtype)
    rows, matrices = x.double() * scale_N[:, None], weight.double() * scale_EO[:, :, None]
    expected, start = torch.full_like(found, float("nan"), dtype=torch.float64), 0
    for matrix, end in zip(matrices, ends, strict=True):
        expected[start:end] = rows[start:end] @ matrix.T
        start = end
    return found, expected


@pytest.mark.parametrize(
    ("ends", "sizes"), [([5, 5, 21], (40, 48)), ([0, 16, 37], (24, 16)), ([64, 64, 64], (8, 64)), ([0, 0, 0], (16, 16))]
)
def test_grouped_products_are_those_of_each_expert_alone(
    ends: list[int], sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small tiles, so that experts have several, end within one, and have none; beyond the last nothing is written."""
    for name, size in (("ROWS", 16), ("OUTPUTS", 16), ("INPUTS", 32)):
        monkeypatch.setattr(grouped, name, size)
    inputs, outputs = sizes[1], sizes[0]
    x, weight = (grid(*shape).mul(0.01) for shape in ((64, inputs), (3, outputs, inputs)))
    scale_N, scale_EO = random(64).abs(), random(3, outputs).abs()
    if DEVICE == "cuda":
        x, weight = (random(*value.shape).to(fp8.E4M3) for value in (x, weight))
    found, expected = _grouped_and_expected(x, scale_N, weight, scale_EO, ends, torch.float32, monkeypatch)
    torch.testing.assert_close(found.double(), expected, rtol=2e-3, atol=2e-3, equal_nan=True)


def test_grouped_products_in_tiles_of_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several bands, an expert without rows, ends within a tile, outputs and inputs that tiles do not divide. Sums are
    small whole numbers and scales powers of two: to the bit, though a GPU keeps few bits of sums.
    """
    ends, rows, outputs, inputs = [130, 130, 843, 1000], 1100, 392, 272
    x, weight = (random(*shape).round().clamp(-2, 2).to(fp8.E4M3) for shape in ((rows, inputs), (4, outputs, inputs)))
    scale_N, scale_EO = random(rows).round().exp2(), random(4, outputs).round().exp2()
    dtype = torch.bfloat16 if DEVICE == "cuda" else torch.float32
    found, expected = _grouped_and_expected(x, scale_N, weight, scale_EO, ends, dtype, monkeypatch)
    torch.testing.assert_close(found, expected.to(dtype), rtol=0, atol=0, equal_nan=True)

"""The loss without logits: weights, one-sided gradients, blocks that do not divide, extreme logits, bfloat16."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kaiyuan.model.loss import _add_gradients, cross_entropy_sum, target_log_probs

ROWS, HIDDEN, WORDS = 13, 10, 37


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, head, targets, weights (zero, negative and large ones among them)."""
    weights = torch.tensor([1.0, 0.0, -0.5, 3.0, 0.25, 1, 1, 0, 2, 1, 1, 100, 1])
    targets = torch.randint(WORDS, (ROWS,), generator=torch.Generator().manual_seed(1))
    return (
        random(ROWS, HIDDEN).to(dtype).requires_grad_(),
        random(WORDS, HIDDEN, seed=2).requires_grad_(),
        targets,
        weights,
    )


def plain(x: Tensor, head: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    return (F.cross_entropy(F.linear(x, head.to(x.dtype)).float(), targets, reduction="none") * weights).sum()


@pytest.mark.parametrize("rows", [1, 2, ROWS - 1, ROWS, ROWS + 1, 512, None])
@pytest.mark.parametrize("scale", [1.0, -0.3])
def test_any_block_size_gives_the_plain_loss(rows: int | None, scale: float) -> None:
    """``scale`` is a factor on the loss, which must reach the gradients computed before it was known."""
    x, head, targets, weights = inputs()
    found, expected = cross_entropy_sum(x, head, targets, weights, rows), plain(x, head, targets, weights)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    gradients = torch.autograd.grad(found * scale, [x, head])
    for one, other in zip(gradients, torch.autograd.grad(expected * scale, [x, head]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frozen", ["features", "head"])
def test_either_side_may_be_frozen(frozen: str) -> None:
    x, head, targets, weights = inputs()
    kept, other = (head, x) if frozen == "features" else (x, head)
    other.requires_grad_(False)
    for loss in (cross_entropy_sum(x, head, targets, weights, 4), target_log_probs(x, head, targets, 4) @ -weights):
        (found,) = torch.autograd.grad(loss, [kept])
        (expected,) = torch.autograd.grad(plain(x, head, targets, weights), [kept])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_gradient_of_a_consumed_loss_is_refused_and_not_wrong() -> None:
    x, head, targets, weights = inputs()
    loss = cross_entropy_sum(x, head, targets, weights)
    torch.autograd.grad(loss * 2, [x], retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, [x])


def test_no_gradient_is_computed_where_none_is_wanted() -> None:
    x, head, targets, weights = inputs()
    with torch.no_grad():
        found = cross_entropy_sum(x, head, targets, weights, 5)
        assert not target_log_probs(x, head, targets).requires_grad
    assert not found.requires_grad
    torch.testing.assert_close(found, plain(x, head, targets, weights).detach(), rtol=1e-5, atol=1e-5)


def test_log_probabilities_equal_log_softmax_for_each_token_alone() -> None:
    x, head, _, _ = inputs()
    batch, targets = x.detach()[:12].view(3, 4, HIDDEN).requires_grad_(), torch.arange(12).view(3, 4)
    found = target_log_probs(batch, head, targets, 5)
    expected = (batch @ head.T).log_softmax(-1).gather(-1, targets[..., None]).squeeze(-1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for token in (0, 4, 11):
        one, other = (
            torch.autograd.grad(scores.flatten()[token], [batch, head], retain_graph=True)
            for scores in (found, expected)
        )
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_weighted_loss_is_minus_the_weighted_log_probabilities() -> None:
    x, head, targets, weights = inputs()
    found = -(target_log_probs(x, head, targets) @ weights)
    torch.testing.assert_close(found, cross_entropy_sum(x, head, targets, weights), rtol=1e-5, atol=1e-4)


def test_weights_default_to_one() -> None:
    x, head, targets, _ = inputs()
    expected = F.cross_entropy(x @ head.T, targets, reduction="sum")
    torch.testing.assert_close(cross_entropy_sum(x, head, targets), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("factor", [300.0, -300.0])
def test_extreme_logits_stay_finite(factor: float) -> None:
    x, head, targets, weights = inputs()
    x = (x.detach() * factor).requires_grad_()
    expected = plain(x, head, targets, weights)
    losses: list[Callable[[], Tensor]] = [
        lambda: cross_entropy_sum(x, head, targets, weights, 4),
        lambda: target_log_probs(x, head, targets, 4) @ -weights,
    ]
    for loss in losses:
        torch.testing.assert_close(loss(), expected, rtol=1e-4, atol=1e-2)
        for one, other in zip(
            torch.autograd.grad(loss(), [x, head]),
            torch.autograd.grad(expected, [x, head], retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-2)


def test_bfloat16_features_give_nearly_the_exact_loss_and_float32_gradients_of_the_head() -> None:
    exact, rounded = inputs(), inputs(torch.bfloat16)
    found, expected = cross_entropy_sum(*rounded), plain(*exact)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0)
    gradients = torch.autograd.grad(found, rounded[:2])
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16, torch.float32]
    for one, other in zip(gradients, torch.autograd.grad(expected, exact[:2]), strict=True):
        assert float((one.float() - other).norm() / other.norm()) < 0.02


def test_a_gpu_adds_to_the_gradient_of_the_head_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is rounded to bfloat16 on the way. Without a GPU a stand-in takes the place of its product."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    grads, features = random(2, 300, WORDS, seed=3).bfloat16(), random(2, 300, HIDDEN, seed=4).bfloat16()
    found = torch.ones(WORDS, HIDDEN, device=device)
    expected = 1 + torch.einsum("bnv,bnd->vd", grads.double(), features.double()).float()

    def addmm(sum_VD: Tensor, left: Tensor, right: Tensor, *, out_dtype: torch.dtype, out: Tensor) -> Tensor:
        assert out is sum_VD and out_dtype == torch.float32
        return out.add_(left.float() @ right.float())

    if device == "cpu":
        monkeypatch.setattr(torch, "addmm", addmm)
        monkeypatch.setattr(Tensor, "is_cuda", True)
    for grad_NV, x_ND in zip(grads.to(device), features.to(device), strict=True):
        _add_gradients(grad_NV, x_ND, found, None, found)
    monkeypatch.undo()
    assert float((found.cpu() - expected).norm() / expected.norm()) < 1e-5


def test_no_rows_cost_nothing() -> None:
    head = inputs()[1]
    x = torch.zeros(0, HIDDEN, requires_grad=True)
    loss = cross_entropy_sum(x, head, torch.zeros(0, dtype=torch.int64))
    assert float(loss.detach()) == 0
    assert (torch.autograd.grad(loss, [head])[0] == 0).all()

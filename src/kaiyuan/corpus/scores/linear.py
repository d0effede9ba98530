"""Logistic regression with an L2 penalty: a strictly convex problem, so the same labels always give the same model."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

_STEPS, _TOLERANCE = 1000, 1e-7


def fit(x_NC: Tensor, labels_N: Tensor, classes: int, c: float) -> tuple[Tensor, Tensor]:
    """Weights (C, K) and biases (K,) that minimise ``c * sum of log losses + ||weights||^2 / 2``.

    K is 1 for two classes (the margin of class 1) and ``classes`` for more (softmax). ``x_NC`` is float64, dense or
    CSR. Biases are not penalised.
    """
    if x_NC.layout != torch.strided:
        used, places = torch.unique(x_NC.col_indices(), return_inverse=True)  # the others stay zero
        x_NU = csr(x_NC.crow_indices(), places, x_NC.values(), (x_NC.shape[0], len(used)))
        inner, bias = _fit(x_NU, labels_N, classes, c)
        weights = torch.zeros(x_NC.shape[1], inner.shape[1], dtype=torch.float64)
        weights[used] = inner
        return weights, bias
    return _fit(x_NC, labels_N, classes, c)


def csr(ends: Tensor, columns: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    """A sparse matrix, without PyTorch's warning that those are new."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(ends, columns, values, size=size, check_invariants=False)


def _fit(x_NC: Tensor, labels_N: Tensor, classes: int, c: float) -> tuple[Tensor, Tensor]:
    size = 1 if classes == 2 else classes
    back_CN = x_NC.t() if x_NC.layout == torch.strided else x_NC.t().to_sparse_csr()
    target_NK = _targets(labels_N, size)
    weights = torch.zeros(x_NC.shape[1], size, dtype=torch.float64)
    bias = torch.zeros(size, dtype=torch.float64)
    optimizer = torch.optim.LBFGS(
        [weights, bias], max_iter=_STEPS, max_eval=2 * _STEPS, history_size=10, tolerance_grad=_TOLERANCE,
        tolerance_change=1e-12, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> float:
        margin_NK = x_NC @ weights + bias
        log_loss, error_NK = _log_loss(margin_NK, target_NK)
        weights.grad = c * (back_CN @ error_NK) + weights
        bias.grad = c * error_NK.sum(0)
        return float(c * log_loss + 0.5 * weights.square().sum())

    optimizer.step(loss)  # type: ignore[no-untyped-call, arg-type, unused-ignore]
    return weights, bias


def _targets(labels_N: Tensor, size: int) -> Tensor:
    if size == 1:
        return labels_N.double()[:, None]
    return torch.nn.functional.one_hot(labels_N, size).double()


def _log_loss(margin_NK: Tensor, target_NK: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of log losses and its gradient with respect to the margins."""
    if margin_NK.shape[1] == 1:
        loss = torch.nn.functional.softplus(margin_NK) - target_NK * margin_NK
        return loss.sum(), torch.sigmoid(margin_NK) - target_NK
    log_NK = torch.log_softmax(margin_NK, 1)
    return -(target_NK * log_NK).sum(), log_NK.exp() - target_NK

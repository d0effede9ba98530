"""Logistic regression with an L2 penalty: a strictly convex problem, so the same labels always give the same model."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

_STEPS, _TOLERANCE = 1000, 1e-7
_MOST_ROWS = 4096
"""For which products of all pairs fit into memory."""
_COMMON, _BLOCK = 64, 512
_JITTER = 1e-11


def fit(x_NC: Tensor, labels_N: Tensor, classes: int, c: float) -> tuple[Tensor, Tensor]:
    """Weights (C, K) and biases (K,) that minimise ``c * sum of log losses + ||weights||^2 / 2``.

    K is 1 for two classes (the margin of class 1) and ``classes`` for more (softmax). ``x_NC`` is float64, dense or
    CSR. Biases are not penalised.
    """
    if x_NC.layout == torch.strided:
        return _fit(x_NC, labels_N, classes, c)
    used, places = torch.unique(x_NC.col_indices(), return_inverse=True)  # the others stay zero
    x_NU = csr(x_NC.crow_indices(), places, x_NC.values(), (x_NC.shape[0], len(used)))
    inner, bias = (_fit_rotated if len(x_NU) < min(len(used), _MOST_ROWS) else _fit)(x_NU, labels_N, classes, c)
    weights = torch.zeros(x_NC.shape[1], inner.shape[1], dtype=torch.float64)
    weights[used] = inner
    return weights, bias


def csr(ends: Tensor, columns: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    """A sparse matrix, without PyTorch's warning that those are new."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(ends, columns, values, size=size, check_invariants=False)


def _fit_rotated(x_NC: Tensor, labels_N: Tensor, classes: int, c: float) -> tuple[Tensor, Tensor]:
    """The same optimum from fewer numbers: it lies in the span of the rows, and the penalty does not see rotations, so
    that any rows with the same products will do, such as those of the triangle L with L L^T = X X^T."""
    with _one_thread():
        products_NN = _products(x_NC)
        products_NN.diagonal().add_(_JITTER * products_NN.diagonal().mean())  # rows may be equal
        lower_NN = torch.linalg.cholesky(products_NN)
        inner, bias = _fit(lower_NN, labels_N, classes, c)
        return _columns_first(x_NC) @ torch.linalg.solve_triangular(lower_NN.t(), inner, upper=True), bias


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Hundreds of products of a millisecond each: on a machine with other work, threads would mostly wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _products(x_NC: Tensor) -> Tensor:
    """X X^T. Columns that many rows have are multiplied as dense blocks, the others as sparse ones."""
    counts = torch.bincount(x_NC.col_indices(), minlength=x_NC.shape[1])
    rows = torch.repeat_interleave(torch.arange(len(x_NC)), x_NC.crow_indices().diff())
    common = counts[x_NC.col_indices()] > _COMMON
    seldom = torch.stack((rows[~common], x_NC.col_indices()[~common]))
    rare = torch.sparse_coo_tensor(seldom, x_NC.values()[~common], x_NC.shape, check_invariants=False)
    found = torch.sparse.mm(rare, rare.t()).to_dense()
    order = torch.cumsum(counts > _COMMON, 0) - 1
    rows, places, values = rows[common], order[x_NC.col_indices()[common]], x_NC.values()[common]
    for start in range(0, int(order[-1]) + 1, _BLOCK):
        inside = (places >= start) & (places < start + _BLOCK)
        block = torch.zeros(len(x_NC), _BLOCK, dtype=torch.float64)
        block[rows[inside], places[inside] - start] = values[inside]
        found.addmm_(block, block.t())
    return found


def _columns_first(x_NC: Tensor) -> Tensor:
    return x_NC.t() if x_NC.layout == torch.strided else x_NC.t().to_sparse_csr()


def _fit(x_NC: Tensor, labels_N: Tensor, classes: int, c: float) -> tuple[Tensor, Tensor]:
    size = 1 if classes == 2 else classes
    back_CN = _columns_first(x_NC)
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

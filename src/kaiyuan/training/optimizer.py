"""AdamW with expert-specific learning rates (paper 2.2.4).

A specialised expert sees only 1/n of a batch's tokens, so its best learning rate is another one than that of the
parameters that see all of them (attention, shared expert, embedding, router). The paper takes the optimum for
Adam-like optimisers at batch size B from Li et al. (arXiv 2405.14578): ``eps_opt(B) = 2 eps_max / (sqrt(B_noise / B)
+ sqrt(B / B_noise))``.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kaiyuan.model.fused import on_gpu
from kaiyuan.model.linear import gradient, keep_copies
from kaiyuan.model.native import operations
from kaiyuan.model.native.library import native
from kaiyuan.training.master_adamw import MasterAdamW

PAPER_RATIO = 0.31
"""Specialised over shared learning rate that the paper reports for its own setting."""


_LARGE = 2**20
"""Numbers of a gradient whose norm is worth a kernel of its own."""


def optimal_lr(batch: float, noise: float, eps_max: float = 1.0) -> float:
    """``eps_opt(B)`` of paper equation 1; ``batch`` and ``noise`` (the gradient noise scale) in the same unit, say
    tokens.
    """
    return 2 * eps_max / (math.sqrt(noise / batch) + math.sqrt(batch / noise))


def expert_lr_ratio(
    batch_over_noise: float, experts: int = 16, reading: Literal["scaled_down", "literal"] = "scaled_down"
) -> float:
    """What to multiply the learning rate with for specialised experts, given ``x = B / B_noise``.

    The paper writes ``eps_opt(B) / eps_opt(B / n) = 0.31`` and says that the experts' rate is "scaled down in
    accordance with this ratio". Both cannot hold. Read literally the ratio is ``(n + x) / (sqrt(n) (1 + x))``; for n
    = 16 it equals 0.31 at x = 61.5, a batch far beyond the noise scale, where the experts' own optimum would be 3.2
    times *higher*. Its inverse ``eps_opt(B / n) / eps_opt(B)`` equals 0.31 at x = 0.26, a batch under the noise
    scale, where the experts' optimum is indeed lower, near the limit ``1 / sqrt(n) = 0.25``. So ``scaled_down`` is
    the inverse, which agrees with the text and with the theory; ``literal`` is the quotient as printed. Both are
    applied as a factor on the shared rate.
    """
    inverse = optimal_lr(batch_over_noise / experts, 1.0) / optimal_lr(batch_over_noise, 1.0)
    return inverse if reading == "scaled_down" else 1 / inverse


def is_expert(name: str) -> bool:
    """Whether a parameter belongs to the specialised experts."""
    return ".experts." in name


def parameter_groups(model: nn.Module, weight_decay: float, expert_ratio: float) -> list[dict[str, object]]:
    """AdamW's groups: specialised experts at ``expert_ratio`` times the rate, everything else at the rate, gains
    without decay.

    Every group carries ``lr_scale`` for the trainer and ``names`` for the checkpoint.
    """
    kinds: dict[tuple[Any, ...], list[str]] = {}
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, parameter in parameters.items():
        decay = weight_decay if parameter.dim() > 1 else 0.0
        mesh = getattr(parameter, "device_mesh", None)  # one kernel updates a group: its weights lie alike
        kinds.setdefault((expert_ratio if is_expert(name) else 1.0, decay, mesh), []).append(name)
    return [
        {"params": [parameters[name] for name in names], "names": names, "lr_scale": scale, "weight_decay": decay}
        for (scale, decay, _), names in kinds.items()
    ]


def adamw(
    model: nn.Module, *, weight_decay: float, betas: tuple[float, float], eps: float, expert_ratio: float,
    moments: torch.dtype = torch.float32,
) -> torch.optim.Optimizer:  # fmt: skip
    """The optimiser over ``parameter_groups``. ``set_lr`` gives each group its rate before a step.

    In one process it is ``MasterAdamW``, and copies in the compute dtype are kept beside the weights from here on.
    Elsewhere (several processes, CPUs without a C++ compiler) it is PyTorch's, in the one-kernel form, and ``moments``
    are float32.
    """
    groups = parameter_groups(model, weight_decay, expert_ratio)
    alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    if not (alone and all(_plain(parameter) for parameter in model.parameters())):
        return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)
    if (dtype := getattr(model, "compute_dtype", None)) is not None:
        keep_copies(matrices(model), dtype)
    return MasterAdamW(groups, betas, eps, moments)


def _plain(parameter: nn.Parameter) -> bool:
    """Whether our own kernel can update it: float32, in one piece."""
    here = on_gpu(parameter) or (native(parameter) and parameter.is_contiguous())
    return here and parameter.dtype == torch.float32 and not hasattr(parameter, "placements")


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """The weights of products in the compute dtype: all but gains and the router, which stays float32."""
    return [weight for name, weight in model.named_parameters() if weight.dim() > 1 and ".router." not in name]


def clip(model: nn.Module, optimizer: torch.optim.Optimizer, limit: float) -> Tensor:
    """Scale the gradients so that their norm is at most ``limit``; returns the norm before.

    ``MasterAdamW`` scales them while it updates; nothing is scaled here then.
    """
    if not hasattr(optimizer, "clip_factor"):
        return torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
    total = _norm([grad for parameter in model.parameters() if (grad := gradient(parameter)) is not None])
    optimizer.clip_factor = (limit / (total + 1e-6)).clamp(max=1.0)
    return total


def _norm(grads: list[Tensor]) -> Tensor:
    """The norm of all numbers of all ``grads`` together, float32."""
    if all(native(grad) for grad in grads):
        return torch.stack([operations.square_sum(grad) for grad in grads]).sum().sqrt().float()
    large: list[Tensor] = []
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for grad in grads:
        if on_gpu(grad) and grad.numel() >= _LARGE and grad.is_contiguous():
            large.append(grad)
        else:
            by_dtype.setdefault(grad.dtype, []).append(grad)
    norms = [norm for some in by_dtype.values() for norm in torch._foreach_norm(some, 2, dtype=torch.float32)]
    if large:
        from kaiyuan.model.kernels.square_sum import square_sums

        norms.append(square_sums(large).sum().sqrt())
    return torch.linalg.vector_norm(torch.stack(norms))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set every group's learning rate to ``lr`` times its scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]

"""Blocks that keep only their input and what attention gave, and are run again in the backward pass.

Attention's share of the arithmetic grows with the length, its output does not: where recomputation is needed most,
at long context, it is the one thing worth keeping.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

_KEPT = (
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_flash_attention_forward",
)


def _policy(context: Any, operation: Any, *inputs: Any, **more: Any) -> CheckpointPolicy:
    kept = operation in [getattr(torch.ops.aten, name).default for name in _KEPT]
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def recomputing(block: nn.Module, *inputs: Any) -> Any:
    """``block(*inputs)``, whose activations are computed again when the backward pass needs them.

    Exact: dropout draws the same numbers again, and routing depends on the step and the layer alone.
    """
    context = partial(create_selective_checkpoint_contexts, _policy)
    return checkpoint(block, *inputs, use_reentrant=False, context_fn=context)

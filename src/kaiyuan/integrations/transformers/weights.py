"""Weights under the released names, as ``save_pretrained`` writes them, into a model that exists."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from kaiyuan.checkpoint.names import layout
from kaiyuan.errors import CheckpointError, listing
from kaiyuan.model.transformer import Transformer


@torch.no_grad()
def copy_released(transformer: Transformer, state: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """Copy those of ``transformer``'s tensors that ``state`` has; returns the names that were taken and those missing.

    Raises one ``CheckpointError`` that lists tensors of another shape; nothing is copied then.
    """
    own = transformer.state_dict()
    pieces = {piece.name: (ours, piece) for ours, group in layout(transformer.config).items() for piece in group}
    taken = [name for name in pieces if name in state]
    misfits = [
        f"{name}: has shape {list(state[name].shape)}, the model needs {list(pieces[name][1].shape)}"
        for name in taken
        if state[name].shape != pieces[name][1].shape
    ]
    if misfits:
        raise CheckpointError(listing("this state does not fit the model", misfits))
    for name in taken:
        ours, piece = pieces[name]
        own[ours][piece.index].copy_(state[name])
    return taken, [name for name in pieces if name not in state]

"""DPO by one process or by many: whose prompts are whose, and sums over rows whose tokens several ranks hold.

The policy answers prompts with whole weights, so with many processes each gathers a copy for as long as it samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from kaiyuan.alignment.dpo import reference_log_probs
from kaiyuan.errors import ConfigError
from kaiyuan.model.transformer import Transformer
from kaiyuan.training.batch import Batch

if TYPE_CHECKING:
    from kaiyuan.training.parallel.parallel import Parallel

T = TypeVar("T")


class Alone:
    """One process does everything."""

    multiple = 16
    """What the length of rows must be a multiple of."""

    def policy(self, model: Transformer) -> Transformer | None:
        """What answers prompts; None before ``model`` is divided: only the shape of batches is wanted then."""
        return model

    def share(self, prompts: Sequence[T]) -> Sequence[T]:
        """The prompts that this process answers, neighbours."""
        return prompts

    def joined(self, found: list[T]) -> list[T]:
        """What all processes found, in the order of the prompts."""
        return found

    def reference(self, model: Transformer, batch: Batch) -> Tensor:
        """The reference's log-probability of each row's answer in the whole batch, (R,), on the CPU."""
        return reference_log_probs(model, batch.to(model.device)).cpu()


ALONE = Alone()


class Together(Alone):
    """All ranks of a layout. ``reference`` is divided as the policy will be."""

    def __init__(self, parallel: Parallel, reference: Transformer) -> None:
        from kaiyuan.training.parallel.parallel import Parallel

        layout = parallel.layout
        if layout.pipeline > 1:
            raise ConfigError(f"[parallel] pipeline={layout.pipeline}: DPO needs whole passes, so pipeline=1")
        self.parallel, self.multiple = parallel, math.lcm(Alone.multiple, layout.sequence_parts)
        self._of_reference = Parallel(layout, parallel.device)
        self._of_reference.parallelize(reference)

    def policy(self, model: Transformer) -> Transformer | None:
        return self.parallel.everywhere(model) if self.parallel.divides(model) else None

    def share(self, prompts: Sequence[T]) -> Sequence[T]:
        each = -(-len(prompts) // dist.get_world_size())
        return prompts[dist.get_rank() * each : (dist.get_rank() + 1) * each]

    def joined(self, found: list[T]) -> list[T]:
        return [item for share in self.parallel.gather_objects(found) for item in share]

    def reference(self, model: Transformer, batch: Batch) -> Tensor:
        mine = self._of_reference.local(batch.to(model.device))
        sums_R = torch.zeros(len(batch.ids_BT), device=model.device)
        rows = len(mine.ids_BT)
        start = self._of_reference.mesh.data_rank * rows
        sums_R[start : start + rows] = reference_log_probs(model, mine)
        dist.all_reduce(sums_R)
        return sums_R.cpu()

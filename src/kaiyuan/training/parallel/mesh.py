"""The device mesh of a layout and its views: who shards what with whom."""

from __future__ import annotations

from functools import cache, cached_property

import torch
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from kaiyuan.training.parallel.layout import Layout

DIMS = ("pipeline", "replicate", "shard", "context", "expert", "tensor")
"""From the ranks that talk least to those that talk most, which are neighbours."""


class Mesh:
    """A ``Layout`` spread over the ranks of the default process group."""

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self.layout = layout
        shape = (layout.pipeline, layout.data_replicate, layout.data_shard // layout.expert, layout.context,
                 layout.expert, layout.tensor)  # fmt: skip
        self.root = init_device_mesh(device.type, shape, mesh_dim_names=DIMS)

    def group(self, name: str) -> ProcessGroup:
        return self.root[name].get_group()

    def rank(self, name: str) -> int:
        """This process's place along one dimension."""
        return self.root[name].get_local_rank()

    @property
    def data_rank(self) -> int:
        """Which of ``layout.data_ranks`` equal parts of a batch's rows this rank reads."""
        shards = self.layout.data_shard // self.layout.expert
        return (self.rank("replicate") * shards + self.rank("shard")) * self.layout.expert + self.rank("expert")

    def _flat(self, *dims: str) -> DeviceMesh:
        name = "_".join(dims)
        return self.root[dims]._flatten(name) if len(dims) > 1 else self.root[dims[0]]

    @cached_property
    def tokens(self) -> ProcessGroup:
        """The ranks that together hold all tokens of a micro-batch: all of this pipeline stage."""
        return self._flat(*DIMS[1:]).get_group()

    @cached_property
    def sequence(self) -> ProcessGroup:
        """The ranks that together hold all tokens of the same rows."""
        return self._flat("context", "tensor").get_group()

    @property
    def token_ranks(self) -> int:
        return self.layout.size // self.layout.pipeline

    def _with_replicas(self, sharded: DeviceMesh) -> DeviceMesh:
        """FSDP's mesh: one dimension, or replicas times shards (HSDP)."""
        if self.layout.data_replicate == 1:
            return sharded
        return DeviceMesh._concatenate([self.root["replicate"], sharded])

    @cached_property
    def dense(self) -> DeviceMesh:
        """Over which weights are sharded that every token meets: all ranks of the stage hold other tokens."""
        return self._with_replicas(self._flat("shard", "context", "expert", "tensor"))

    @cached_property
    def heads(self) -> DeviceMesh:
        """Over which attention is sharded whose heads are divided among the ranks of ``tensor``."""
        return self._with_replicas(self._flat("shard", "context", "expert"))

    @cached_property
    def experts(self) -> DeviceMesh:
        """Over which a rank's own experts are sharded further."""
        return self._with_replicas(self._flat("shard", "context", "tensor"))


@cache
def mesh_of(layout: Layout, device: torch.device) -> Mesh:
    """The one mesh of a layout in this process: each of its groups has connections and a thread of its own."""
    return Mesh(layout, device)

"""How a run is divided over processes: six numbers, checked before anything starts."""

from __future__ import annotations

from dataclasses import dataclass

from kaiyuan.errors import ConfigError
from kaiyuan.model.config import ModelConfig
from kaiyuan.recipe import ParallelSection


@dataclass(frozen=True)
class Layout:
    """``pipeline * data_replicate * data_shard * context * tensor`` processes.

    Expert parallelism takes its ranks from ``data_shard``: a rank that holds some of the experts reads rows of its own
    like any other. Weights are sharded over ``data_shard``, ``context`` and ``tensor`` and repeated over
    ``data_replicate``.
    """

    data_shard: int = 1
    data_replicate: int = 1
    expert: int = 1
    tensor: int = 1
    context: int = 1
    pipeline: int = 1
    decide: str = "globally"
    """Who decides capacity and recycling: all ranks together, as one device would, or every rank for its own tokens."""

    @classmethod
    def of(cls, section: ParallelSection, world: int) -> Layout:
        """The section's layout on ``world`` processes; ``data_shard = 0`` takes all that the others leave."""
        values = section.model_dump()
        others = section.data_replicate * section.tensor * section.context * section.pipeline
        if not section.data_shard:
            values["data_shard"] = max(1, world // others)
        layout = cls(**values)
        if layout.size != world:
            raise ConfigError(f"[parallel] {layout} needs {layout.size} processes, there are {world}")
        return layout

    @property
    def size(self) -> int:
        return self.data_ranks * self.tensor * self.context * self.pipeline

    @property
    def data_ranks(self) -> int:
        """Among how many ranks the rows of a batch are divided."""
        return self.data_shard * self.data_replicate

    @property
    def sequence_parts(self) -> int:
        """Into how many parts a sequence is cut; with context parallelism twice as many, to even out the work."""
        return self.tensor * self.context * (2 if self.context > 1 else 1)

    def __str__(self) -> str:
        names = ("data_replicate", "data_shard", "expert", "tensor", "context", "pipeline")
        parts = [f"{name}={getattr(self, name)}" for name in names if getattr(self, name) > 1]
        return ", ".join(parts) or "data_shard=1"

    def check(self, config: ModelConfig, batch: int, length: int, micro_batches: int = 1) -> None:
        """``ConfigError`` with one reason if the model, or ``batch`` sequences of ``length`` tokens in
        ``micro_batches``, cannot be so divided.
        """
        problem = self._problem(config, batch, length, micro_batches)
        if problem is not None:
            raise ConfigError(f"[parallel] {problem}")

    def _problem(self, config: ModelConfig, batch: int, length: int, micro_batches: int) -> str | None:
        if batch % micro_batches:
            return f"{micro_batches} micro-batches do not divide a batch of {batch} sequences"
        rows = batch // micro_batches
        groups = -(-config.num_layers // config.cla_share_factor)
        if self.data_shard % self.expert:
            return f"expert={self.expert} takes its ranks from data_shard={self.data_shard} and does not divide it"
        for layer in config.layers():
            if layer.num_experts % self.expert:
                return f"expert={self.expert} does not divide the {layer.num_experts} experts of layer {layer.index}"
        if config.num_kv_heads % self.tensor:
            return f"tensor={self.tensor} does not divide the {config.num_kv_heads} key/value heads"
        if length % self.sequence_parts:
            return f"sequences of {length} tokens cannot be cut into {self.sequence_parts} equal parts"
        if rows % self.data_ranks:
            return f"a micro-batch of {rows} sequences cannot be divided among {self.data_ranks} data ranks"
        if self.pipeline > groups:
            return (f"pipeline={self.pipeline} stages for {groups} groups of layers that share keys and values: "
                    "cuts are between them")  # fmt: skip
        if self.pipeline > micro_batches:
            return f"pipeline={self.pipeline} needs as many micro_batches, not {micro_batches}"
        return None


def own_layers(layers: int, group: int, stages: int, stage: int) -> range:
    """The layers of ``stage``: whole groups of ``group`` layers, as evenly as they go, earlier stages first."""
    groups = -(-layers // group)
    first, last = (groups * number // stages for number in (stage, stage + 1))
    return range(first * group, min(last * group, layers))

"""How a run is divided over processes: seven numbers, checked before anything starts."""

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
    pipeline_chunks: int = 1
    """Into how many chunks, each a stage of its own, the layers of a pipeline rank are divided (interleaved 1F1B)."""

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

    @property
    def stages(self) -> int:
        """Of the pipeline, over all ranks: stage s is on rank s modulo ``pipeline``."""
        return self.pipeline * self.pipeline_chunks

    def chunks(self, layers: int, group: int, rank: int) -> list[range]:
        """Which of a model's ``layers`` each chunk of pipeline rank ``rank`` has; groups of ``group`` stay together."""
        return [own_layers(layers, group, self.stages, stage) for stage in range(rank, self.stages, self.pipeline)]

    def __str__(self) -> str:
        names = ("data_replicate", "data_shard", "expert", "tensor", "context", "pipeline", "pipeline_chunks")
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
        if self.pipeline_chunks > 1 and self.pipeline == 1:
            return f"pipeline_chunks={self.pipeline_chunks} divides the layers of a pipeline's ranks, and pipeline=1"
        if self.stages > groups:
            chunks = f" * pipeline_chunks={self.pipeline_chunks}" if self.pipeline_chunks > 1 else ""
            return (f"pipeline={self.pipeline}{chunks} stages for {groups} groups of layers that share keys and "
                    "values: cuts are between them")  # fmt: skip
        if self.pipeline > micro_batches:
            return f"pipeline={self.pipeline} needs as many micro_batches, not {micro_batches}"
        if self.pipeline_chunks > 1 and micro_batches % self.pipeline:
            return (f"pipeline_chunks={self.pipeline_chunks} takes micro-batches in rounds of pipeline="
                    f"{self.pipeline}, which does not divide {micro_batches}")  # fmt: skip
        return None


def own_layers(layers: int, group: int, stages: int, stage: int) -> range:
    """The layers of ``stage``: whole groups of ``group`` layers, as evenly as they go. What is left over goes to stages
    in the middle, one group to each: the first stages hold most micro-batches, the last has the loss, and stages in a
    row are on different ranks.
    """
    groups = -(-layers // group)
    each, left = divmod(groups, stages)
    middle = (stages - left) // 2
    first, last = (each * number + min(max(number - middle, 0), left) for number in (stage, stage + 1))
    return range(first * group, min(last * group, layers))

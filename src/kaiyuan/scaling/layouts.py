"""Which layouts of a model on so many GPUs the trainer takes, what each holds and how long its step is, and what binds
the best of them.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from kaiyuan.errors import ConfigError
from kaiyuan.model.config import ModelConfig
from kaiyuan.scaling.hardware import NODE, Kind
from kaiyuan.scaling.layout_memory import LayoutMemory, layout_memory
from kaiyuan.scaling.layout_time import StepTime, step_time
from kaiyuan.scaling.memory import USABLE
from kaiyuan.training.parallel.layout import Layout
from kaiyuan.training.parallel.traffic import Work

DAY = 86_400
RECOMPUTE = ("none", "experts", "blocks")
SEQUENCES = (1, 2, 4)
"""Of a data rank in one micro-batch."""
CHUNKS = (1, 2, 4)
"""Of layers on each rank of a pipeline."""
LEAST_TOKENS = 512
"""Tokens of a sequence on one rank under which no sequence is cut: products would be too small to be worth it."""
FREE = {
    "memory's speed": ("elementwise", "update"),
    "links between hosts": ("network",),
    "links within hosts": ("nvlink",),
    "pipeline's bubble": ("bubble",),
    "launching": ("host",),
}
"""Parts of a step's time by what takes them, arithmetic itself left out."""


@dataclass(frozen=True)
class Candidate:
    """A layout with what it takes."""

    work: Work
    kind: Kind
    memory: LayoutMemory
    time: StepTime

    @property
    def fits(self) -> bool:
        return self.memory.total <= USABLE * self.kind.memory

    @property
    def tokens_per_second(self) -> float:
        """Of all GPUs together."""
        return self.work.rows * self.work.length / self.time.total

    def mfu(self, seconds: float | None = None) -> float:
        """Share of all GPUs' peak that a step of ``seconds`` (its own time if left out) uses."""
        flops = self.work.config.flops(self.work.length).training * self.work.rows * self.work.length
        return flops / ((seconds or self.time.total) * self.work.layout.size * self.kind.peak)

    def days(self, tokens: float) -> float:
        return tokens / self.tokens_per_second / DAY

    def cost(self, tokens: float, price: float | None = None) -> float:
        """US dollars for ``tokens`` at ``price`` a GPU and hour."""
        return self.days(tokens) * 24 * self.work.layout.size * (self.kind.price if price is None else price)


@dataclass(frozen=True)
class Layouts:
    """All that was looked at for one model on one machine."""

    config: ModelConfig
    kind: Kind
    gpus: int
    rows: int
    length: int
    fitting: list[Candidate]
    """Fastest first; of each layout the best recomputation and micro-batches."""
    too_large: list[Candidate]
    """Fastest first."""
    refused: Counter[str]
    """Layouts that the trainer refuses, by the reason's first."""
    examples: dict[str, str]
    """For each reason the first refusal, as the trainer puts it."""

    @property
    def best(self) -> Candidate | None:
        return self.fitting[0] if self.fitting else None

    def bounds(self) -> dict[str, float]:
        """What MFU the best layout would reach if a resource cost nothing: of those that fit, for each kind of time;
        of all, for memory.
        """
        found = {
            what: max(
                each.mfu(each.time.total - sum(each.time.parts()[part] for part in parts)) for each in self.fitting
            )
            for what, parts in FREE.items()
        }
        found["memory"] = max(each.mfu() for each in (*self.fitting[:1], *self.too_large[:1]))
        return found

    def binds(self) -> str:
        """The resource without whose limit MFU would rise most."""
        bounds = self.bounds()
        return max(bounds, key=lambda what: bounds[what])


def find_layouts(
    config: ModelConfig, kind: Kind, gpus: int, rows: int, length: int, decide: str = "globally", dropless: bool = False
) -> Layouts:
    """Every layout of ``gpus`` for steps of ``rows`` sequences of ``length`` tokens, with what it takes."""
    best: dict[Layout, Candidate] = {}
    too_large: dict[Layout, Candidate] = {}
    refused: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for layout in _products(config, gpus, length, decide):
        try:
            parts = max(1, rows // layout.data_ranks)
            layout.check(config, parts * layout.data_ranks, length, parts)
        except ConfigError as error:
            reason = str(error).removeprefix("[parallel] ")
            about = reason.partition("=")[0] if "=" in reason.split(" ")[0] else "length"
            refused[about] += 1
            examples.setdefault(about, f"{layout}: {reason}")
            continue
        work = Work(config, layout, rows, length, dropless=dropless)
        found = [candidate for each in SEQUENCES for candidate in _candidates(work, each, kind)]
        if not found:
            refused["batch"] += 1
            examples.setdefault("batch", f"{layout}: no number of micro-batches divides {rows} sequences")
        for candidate in found:
            where = best if candidate.fits else too_large
            if layout not in where or candidate.time.total < where[layout].time.total:
                where[layout] = candidate
    fitting = sorted(best.values(), key=lambda each: each.time.total)
    others = sorted(too_large.values(), key=lambda each: each.time.total)
    return Layouts(config, kind, gpus, rows, length, fitting, others, refused, examples)


def _products(config: ModelConfig, gpus: int, length: int, decide: str) -> Iterator[Layout]:
    """All products of ``gpus``, but those that divide heads between hosts or sequences into crumbs."""
    most = max(layer.num_experts for layer in config.layers())
    for pipeline, tensor, context in itertools.product(_divisors(gpus), repeat=3):
        left, rest = divmod(gpus, pipeline * tensor * context)
        if rest or tensor > NODE or pipeline > config.num_layers or tensor * context > max(1, length // LEAST_TOKENS):
            continue
        for replicate in _divisors(left):
            for expert in _divisors(left // replicate):
                if expert <= most:
                    plain = Layout(left // replicate, replicate, expert, tensor, context, pipeline, decide)
                    yield from (dataclasses.replace(plain, pipeline_chunks=chunks) for chunks in _chunks(config, plain))


def _chunks(config: ModelConfig, layout: Layout) -> tuple[int, ...]:
    """How many chunks of layers may be worth trying: none of them empty, and one where there is no pipeline."""
    groups = -(-config.num_layers // config.cla_share_factor)
    most = groups // layout.pipeline if layout.pipeline > 1 else 1
    return tuple(chunks for chunks in CHUNKS if chunks <= max(1, most))


def _candidates(work: Work, each: int, kind: Kind) -> Iterator[Candidate]:
    """The step with ``each`` sequences a data rank in a micro-batch, computing no more again than memory asks for."""
    micro_batches, rest = divmod(work.rows, each * work.layout.data_ranks)
    ranks = work.layout.pipeline
    if rest or micro_batches < ranks or (work.layout.pipeline_chunks > 1 and micro_batches % ranks):
        return
    for recompute in RECOMPUTE:
        tried = dataclasses.replace(work, micro_batches=micro_batches, recompute=recompute)
        memory = layout_memory(tried)
        fits = memory.total <= USABLE * kind.memory
        if fits or recompute == RECOMPUTE[0]:
            yield Candidate(tried, kind, memory, step_time(tried, kind))
        if fits:
            return


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]

"""Seconds of a step of a layout, by part: arithmetic at measured rates, bytes of memory and of links over their speeds.

Constants without a source are fitted to the breakdown of a step on one H100 (docs/lab-notes.md) or, where it says so,
assumed. Letters as in ``step_memory.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from kaiyuan.model.config import LayerShape
from kaiyuan.model.flops import attention_parameters
from kaiyuan.scaling.hardware import LATENCY, NODE, Kind
from kaiyuan.training.parallel.layout import Layout
from kaiyuan.training.parallel.traffic import Sent, Work, traffic
from kaiyuan.training.parallel.units import layer_units

ROUTING = 37e-9
"""Seconds a token and layer of an H100's step that go to routing, its statistics and small sums."""
HOST = 2e-3
"""Seconds that Python needs to launch one layer's forward and backward pass with its hooks: assumed."""
STEP = 4e-3
"""Seconds a step in which the GPU waits for Python: the start, and the one read of loss and norm."""
WAIT = 1e-4
"""Seconds the GPU idles when the host has waited for the counts of rows, per layer and pass: assumed."""
OVERLAPPED = ("weights", "gradients", "replicas")


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step: of all micro-batches on the slowest stage, then ``bubble`` and ``update``."""

    products: float
    grouped: float
    attention: float
    elementwise: float
    """Everything that waits for memory: norms, SwiGLU, rows to experts, the loss, copies of FSDP, routing."""
    recomputed: float
    host: float
    """What launching takes beyond the GPU's own work, and waiting for counts."""
    nvlink: float
    """Collectives within hosts that nothing hides."""
    network: float
    """Collectives between hosts that nothing hides."""
    bubble: float
    """Pipeline stages without work."""
    update: float
    """AdamW and the gradients' norm."""

    @property
    def total(self) -> float:
        return sum(self.parts().values())

    def parts(self) -> dict[str, float]:
        return dict(vars(self))


def bubble_share(ranks: int, micro_batches: int, chunks: int = 1) -> float:
    """Share of a 1F1B step in which a rank waits: ``(p - 1) / (v m + p - 1)`` with v chunks of layers on each of p
    ranks (Narayanan et al., arXiv 2104.04473).
    """
    return (ranks - 1) / (chunks * micro_batches + ranks - 1)


def step_time(work: Work, kind: Kind) -> StepTime:
    """The step of ``work`` on ``kind``: that of the slowest rank of the pipeline."""
    return max(rank_times(work, kind), key=lambda time: time.total)


def rank_times(work: Work, kind: Kind) -> list[StepTime]:
    """The step on those ranks of the pipeline of which one is the slowest."""
    return [_rank_time(work, kind, rank) for rank in work.telling_ranks()]


def _rank_time(work: Work, kind: Kind, stage: int) -> StepTime:
    parts, stages = work.micro_batches, work.layout.pipeline
    compute = _compute(work, kind, stage)
    sent = traffic(work, stage)
    links = {"nvlink": 0.0, "network": 0.0}
    hidden = {"nvlink": 0.0, "network": 0.0}
    for one in sent:
        link, seconds = collective_time(one, work.layout, kind)
        (hidden if one.kind in OVERLAPPED else links)[link] += seconds
    busy = sum(compute.values())
    # With a pipeline weights are gathered under the first micro-batch and all gradients reduced after the last.
    shadow = busy if stages == 1 else busy / parts / 3
    uncovered = max(0.0, sum(hidden.values()) - shadow)
    for link, seconds in hidden.items():
        links[link] += uncovered * seconds / max(sum(hidden.values()), 1e-30)
    layers = work.layers(stage)
    exchanges = (2 if work.recompute == "blocks" else 1) if work.layout.expert > 1 else 0
    host = max(0.0, HOST * len(layers) * parts - busy) + WAIT * exchanges * len(layers) * parts + STEP
    steady = busy + host + (links["nvlink"] + links["network"] if stages > 1 else 0.0)
    own = work.root(stage).own
    for layer, count in work.counted(stage):
        own += count * sum(unit.own for unit in layer_units(work.config, work.layout, layer))
    return StepTime(
        **compute, host=host, **links, bubble=(stages - 1) * steady / parts / work.layout.pipeline_chunks,
        update=own * (30 if work.layout.size == 1 else 40) / (kind.bandwidth * kind.bandwidth_share),
    )  # fmt: skip


def _compute(work: Work, kind: Kind, stage: int) -> dict[str, float]:
    """Seconds of the GPU's own work of all micro-batches, by part."""
    memory = kind.bandwidth * kind.bandwidth_share
    config, layout, tokens = work.config, work.layout, work.tokens
    found = dict.fromkeys(("products", "grouped", "attention", "elementwise", "recomputed"), 0.0)
    last = stage == layout.pipeline - 1
    for layer, count in work.counted(stage):
        dense, attended, grouped, wide = _layer(work, kind, layer)
        found["products"] += count * 3 * dense
        found["grouped"] += count * 3 * grouped
        attended /= kind.flash_share if layout.context > 1 else 1
        forward = attended / kind.attention_forward_share
        found["attention"] += count * (forward + 2.5 * attended / kind.attention_backward_share)
        found["elementwise"] += count * (wide / memory + ROUTING * tokens * 3.0e12 / memory)
        again = {
            "none": 0.0,
            "experts": _inner(layer, grouped, dense, work),
            "blocks": dense + grouped + wide / memory / 3,
        }
        found["recomputed"] += count * again[work.recompute]
        units = layer_units(config, layout, layer)
        copied = 0.0 if layout.size == 1 else 12.0 if layout.pipeline == 1 else 10 + 12 / work.micro_batches
        found["elementwise"] += count * copied * (units.experts.gathered + units.others) / memory
    if last:
        head = 2 * config.vocab_size * config.hidden_size * tokens
        found["products"] += 3 * head / (kind.peak * kind.dense_share)
        found["elementwise"] += (
            3 * 2 * config.vocab_size * tokens / memory + 12 * config.vocab_size * config.hidden_size / memory
        )
    return {name: seconds * work.micro_batches for name, seconds in found.items()}


def _layer(work: Work, kind: Kind, layer: LayerShape) -> tuple[float, float, float, float]:
    """Of one micro-batch and layer, forwards: seconds of dense products, of attention at the peak rate (to be divided
    by its shares), of grouped products; and bytes of everything elementwise, forwards and backwards.

    A product takes as long as its arithmetic or as reading its weights, whichever is more.
    """
    config, layout, tokens = work.config, work.layout, work.tokens
    memory = kind.bandwidth * kind.bandwidth_share
    hidden, query = config.hidden_size, config.num_attention_heads * config.head_dim
    attention = attention_parameters(config, layer)
    shared, one = 3 * hidden * layer.shared_size, 3 * hidden * layer.expert_size
    read = 2 * (attention / layout.tensor + shared) / memory
    dense = max(2 * (attention + shared) * tokens / (kind.peak * kind.dense_share), read)
    scores = 2 * 2 * query * (work.length + 1) / 2 * tokens
    read = 2 * one * layer.num_experts / layout.expert / memory
    grouped = max(2 * one * layer.top_k * tokens / (kind.peak * kind.grouped_share), read)
    swiglu = 8 * (layer.shared_size + layer.top_k * layer.expert_size)
    rows = (20 if layout.expert > 1 else 11) * layer.top_k * hidden
    norms = 16 * hidden + 5 * query + (5 * config.num_kv_heads * config.head_dim if layer.owns_kv else 0)
    sums = 9 * hidden
    return dense, scores / kind.peak, grouped, 2.0 * (swiglu + rows + norms + sums) * tokens


def _inner(layer: LayerShape, grouped: float, dense: float, work: Work) -> float:
    """Seconds of computing gate and up of all experts again."""
    shared = 3 * work.config.hidden_size * layer.shared_size
    share = shared / (shared + attention_parameters(work.config, layer))
    return (grouped + share * dense) * 2 / 3


_SIZES = ("pipeline", "replicate", "shard", "context", "expert", "tensor")


@lru_cache(maxsize=4096)
def members(layout: Layout, dims: tuple[str, ...]) -> tuple[int, int]:
    """Ranks of the group along ``dims`` that the first rank is in, and on how many hosts of ``NODE`` they are.

    Ranks are numbered as ``mesh.Mesh`` does: tensor ranks are neighbours, then those of expert, context, and so on.
    """
    sizes = {"pipeline": layout.pipeline, "replicate": layout.data_replicate,
             "shard": layout.data_shard // layout.expert, "context": layout.context, "expert": layout.expert,
             "tensor": layout.tensor}  # fmt: skip
    ranks, stride = [0], 1
    for name in reversed(_SIZES):
        if name in dims:
            ranks = [rank + stride * place for place in range(sizes[name]) for rank in ranks]
        stride *= sizes[name]
    return len(ranks), len({rank // NODE for rank in ranks})


def collective_time(sent: Sent, layout: Layout, kind: Kind) -> tuple[str, float]:
    """The link that binds (``nvlink`` or ``network``) and the seconds of all calls of one kind of collective.

    Within a host all goes over NVLink. Between hosts a ring crosses each host's boundary once, over as many network
    cards as it has ranks there, so that a group with a whole host's ranks has eight cards' speed; tokens to experts
    and activations between stages go each over its own rank's card. ``LATENCY`` for each step of a ring.
    """
    ranks, hosts = members(layout, sent.dims)
    if ranks == 1:
        return "nvlink", 0.0
    nvlink, network = kind.nvlink * kind.link_share, kind.network * kind.link_share
    if sent.kind == "pipeline":
        crosses = hosts > 1 or layout.size // layout.pipeline >= NODE
        speed = network if crosses else nvlink
        return "network" if crosses else "nvlink", sent.sent / speed + sent.calls * LATENCY["network"]
    if hosts == 1:
        return "nvlink", sent.sent / nvlink + sent.calls * (ranks - 1) * LATENCY["node"]
    here = ranks / hosts
    steps = hosts * LATENCY["network"] + (ranks - hosts) * LATENCY["node"]
    if sent.kind == "experts":
        away = (ranks - here) / (ranks - 1)
        return "network", sent.sent * max(away / network, (1 - away) / nvlink) + sent.calls * math.sqrt(hosts) * 2e-5
    return "network", sent.sent / min(nvlink, here * network) + sent.calls * steps

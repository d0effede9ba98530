"""GPUs a run may be planned for: what they hold, compute and send, and what an hour of one is taken to cost.

Peaks, memory and links are the makers' data sheets'. What of a peak a step reaches was measured here on an H100
(docs/lab-notes.md) and is taken over, as a share, for the others: ``measured`` tells them apart. Prices are
placeholders in the range that is asked for a long lease; give your own.
"""

from __future__ import annotations

from dataclasses import dataclass

from kaiyuan.errors import ConfigError

NODE = 8
"""GPUs of a host, which NVLink joins."""


@dataclass(frozen=True)
class Kind:
    """One kind of GPU. FLOP/s, bytes and bytes/s; links are what one GPU sends in one direction."""

    name: str
    memory: float
    peak: float
    """Dense bfloat16 products."""
    bandwidth: float
    nvlink: float
    network: float
    price: float
    """US dollars an hour."""
    measured: bool = False
    dense_share: float = 745 / 989
    """Of the peak, in products with weights all tokens meet."""
    grouped_share: float = 695 / 989
    """Of the peak, in grouped products."""
    attention_forward_share: float = 428 / 989
    attention_backward_share: float = 367 / 989
    flash_share: float = 278 / 428
    """Of attention's rate, where a sequence is divided: flash attention's kernel takes fewer queries than keys."""
    bandwidth_share: float = 3.0 / 3.35
    link_share: float = 0.8
    """Of a link, in large collectives: an assumption."""


_GB, _GIB, _TERA = 1e9, 2**30, 1e12
KINDS = {
    kind.name: kind
    for kind in (
        Kind("h100", 79.2 * _GIB, 989 * _TERA, 3.35 * _TERA, 450 * _GB, 50 * _GB, 2.5, measured=True),
        Kind("h200", 140 * _GIB, 989 * _TERA, 4.8 * _TERA, 450 * _GB, 50 * _GB, 3.0),
        Kind("h800", 79.2 * _GIB, 989 * _TERA, 3.35 * _TERA, 200 * _GB, 50 * _GB, 2.0),
        Kind("h20", 95 * _GIB, 148 * _TERA, 4.0 * _TERA, 450 * _GB, 50 * _GB, 1.0, dense_share=0.9, grouped_share=0.85,
             attention_forward_share=0.8, attention_backward_share=0.7, flash_share=1.0),
        Kind("a100", 79.2 * _GIB, 312 * _TERA, 2.04 * _TERA, 300 * _GB, 25 * _GB, 1.5, dense_share=0.8,
             grouped_share=0.75, attention_forward_share=0.65, attention_backward_share=0.55, flash_share=1.0),
    )
}  # fmt: skip
"""H100, H800, A100: SXM with 80 GB. The shares of H20 and A100 are higher since less arithmetic waits for less memory;
they are assumptions."""

LATENCY = {"node": 3e-6, "network": 12e-6}
"""Seconds that one step of a ring takes beside its bytes: assumptions."""


def find_kind(name: str) -> Kind:
    """The kind called ``name``, in any case; ``ConfigError`` lists the others."""
    if name.lower() not in KINDS:
        raise ConfigError(f"no kind of GPU {name!r}; there are: {', '.join(KINDS)}")
    return KINDS[name.lower()]

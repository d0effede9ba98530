"""What the KV cache takes, beside what other ways of attention would take (paper, table 2)."""

from __future__ import annotations

from kaiyuan.report.html import Markup, table, tag
from kaiyuan.report.numbers import binary, integer, percent
from kaiyuan.report.sections.layout import Data, absent, section

_CONTEXTS = (4096, 32_768, 262_144)
_SCHEMES = (
    ("mha", "MHA", "keys and values for every head of every layer"),
    ("gqa", "GQA", "heads share keys and values in groups"),
    ("mqa", "MQA", "all heads of a layer share one"),
    ("cla", "CLA", "neighbouring layers share, heads do not"),
    ("ours", "GQA + CLA", "this model: groups of heads and pairs of layers"),
)


def memory(data: Data) -> Markup:
    model = data["model"]
    if model is None:
        return absent(data, "memory", "KV cache", "pretrain")
    config = model["config"]
    factor = config["cla_share_factor"]
    lead = (
        f"Bytes of keys and values, 16 bits each: {config['num_attention_heads']} query heads, "
        f"{config['num_kv_heads']} key/value heads of {config['head_dim']}, one cache for every {factor} layers."
    )
    own = _table(model["kv_bytes_per_token"], "This model")
    reference = _table(model["reference"]["kv_bytes_per_token"], f"For comparison: {model['reference']['name']}")
    return section("memory", "KV cache", lead, tag("div", own, reference, class_="pair"))


def _table(kv: Data, caption: str) -> Markup:
    rows = []
    for key, name, meaning in _SCHEMES:
        share = kv[key] / kv["mha"]
        cells = [tag("b", name) if key == "ours" else tag("span", name, title=meaning), integer(kv[key]), _bar(share)]
        rows.append([*cells, *(binary(kv[key] * length) for length in _CONTEXTS)])
    head = ["Attention", "bytes a token", "of MHA", *(f"at {length // 1024}K" for length in _CONTEXTS)]
    return table(head, rows, caption, "figures kv")


def _bar(share: float) -> Markup:
    digits = 1 if share < 0.1 else 0
    return tag("span", tag("span", percent(share, digits)), tag("i", style=f"width:{60 * share:.1f}px"), class_="bar")

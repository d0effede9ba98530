"""How tensors are called and cut in model folders, as data.

Three vocabularies meet here:

- *ours*: the model's ``state_dict``, experts stacked and gate and up projections joined;
- *released*: Hunyuan-Large's names, every matrix alone (HunYuan-V1 uses the same ones). This is what we write;
- *fused*: other joins found in folders (``qkv_proj``, ``gate_and_up_proj``, stacked experts). These are only read.

``layout`` says where released tensors lie in ours, ``fused_tensors`` where they lie in fused ones. Shapes are
PyTorch's: (out, in) for a linear layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from kaiyuan.model.config import LayerShape, ModelConfig

Shape = tuple[int, ...]
Index = tuple[int | slice, ...]

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Piece:
    """A released tensor and its place in one of ours: ``ours[index]`` is the released tensor."""

    name: str
    shape: Shape
    index: Index = ()


@dataclass(frozen=True)
class Part:
    """A released tensor's place in a fused one: ``fused.reshape(view)[index]``, reshaped to ``shape``."""

    view: Shape
    index: Index
    shape: Shape

    def take(self, fused: Tensor) -> Tensor:
        return fused.reshape(self.view)[self.index].reshape(self.shape)


@dataclass(frozen=True)
class Fused:
    """A fused tensor's shape and the released tensors it holds."""

    shape: Shape
    parts: dict[str, Part]


def layout(config: ModelConfig) -> dict[str, tuple[Piece, ...]]:
    """Each of our tensors, in the order they are written, with the released tensors that make it up."""
    hidden, table = config.hidden_size, (config.vocab_size, config.hidden_size)
    ours: dict[str, tuple[Piece, ...]] = {"embed.weight": (Piece(EMBEDDING, table),)}
    for layer in config.layers():
        ours.update(_attention(config, layer))
        ours.update(_moe(config, layer))
    ours["norm.weight"] = (Piece("model.norm.weight", (hidden,)),)
    if not config.tie_word_embeddings:
        ours["lm_head.weight"] = (Piece(HEAD, table),)
    return ours


def _attention(config: ModelConfig, layer: LayerShape) -> Iterator[tuple[str, tuple[Piece, ...]]]:
    hidden, head = config.hidden_size, config.head_dim
    query, key = config.num_attention_heads * head, config.num_kv_heads * head
    ours, released = f"layers.{layer.index}", f"model.layers.{layer.index}"
    shapes = {"q_proj": (query, hidden)}
    if layer.owns_kv:
        shapes |= {"k_proj": (key, hidden), "v_proj": (key, hidden)}
    shapes["o_proj"] = (hidden, query)
    yield f"{ours}.attention_norm.weight", (Piece(f"{released}.input_layernorm.weight", (hidden,)),)
    for name, shape in shapes.items():
        yield f"{ours}.attention.{name}.weight", (Piece(f"{released}.self_attn.{name}.weight", shape),)
    if config.qk_norm:
        yield f"{ours}.attention.q_norm.weight", (Piece(f"{released}.self_attn.query_layernorm.weight", (head,)),)
        yield f"{ours}.attention.k_norm.weight", (Piece(f"{released}.self_attn.key_layernorm.weight", (head,)),)


def _moe(config: ModelConfig, layer: LayerShape) -> Iterator[tuple[str, tuple[Piece, ...]]]:
    hidden, width = config.hidden_size, layer.expert_size
    ours, released = f"layers.{layer.index}", f"model.layers.{layer.index}"
    yield f"{ours}.moe_norm.weight", (Piece(f"{released}.post_attention_layernorm.weight", (hidden,)),)
    yield f"{ours}.moe.router.weight", (Piece(f"{released}.mlp.gate.wg.weight", (layer.num_experts, hidden)),)
    if layer.shared_size:
        prefix = f"{released}.mlp.shared_mlp"
        yield f"{ours}.moe.shared.gate_up.weight", tuple(_gate_up(prefix, hidden, layer.shared_size))
        yield f"{ours}.moe.shared.down.weight", (Piece(f"{prefix}.down_proj.weight", (hidden, layer.shared_size)),)
    prefixes = [f"{released}.mlp.experts.{expert}" for expert in range(layer.num_experts)]
    gate_up = (piece for e, prefix in enumerate(prefixes) for piece in _gate_up(prefix, hidden, width, (e,)))
    yield f"{ours}.moe.experts.gate_up", tuple(gate_up)
    down = (Piece(f"{prefix}.down_proj.weight", (hidden, width), (e,)) for e, prefix in enumerate(prefixes))
    yield f"{ours}.moe.experts.down", tuple(down)


def _gate_up(prefix: str, hidden: int, width: int, outer: Index = ()) -> Iterator[Piece]:
    yield Piece(f"{prefix}.gate_proj.weight", (width, hidden), (*outer, slice(0, width)))
    yield Piece(f"{prefix}.up_proj.weight", (width, hidden), (*outer, slice(width, 2 * width)))


def released_tensors(config: ModelConfig) -> dict[str, Shape]:
    """Every tensor of the model under its released name, in the order they are written, with its shape."""
    return {piece.name: piece.shape for pieces in layout(config).values() for piece in pieces}


def fused_tensors(config: ModelConfig) -> dict[str, Fused]:
    """Every fused tensor that may stand in for released ones."""
    fused: dict[str, Fused] = {}
    for layer in config.layers():
        prefix = f"model.layers.{layer.index}"
        fused[f"{prefix}.self_attn.qkv_proj.weight"] = _fused_qkv(config, layer, f"{prefix}.self_attn")
        mlp = f"{prefix}.mlp"
        if layer.shared_size:
            fused.update(_fused_up_gate(f"{mlp}.shared_mlp", config.hidden_size, layer.shared_size))
        for expert in range(layer.num_experts):
            fused.update(_fused_up_gate(f"{mlp}.experts.{expert}", config.hidden_size, layer.expert_size))
        fused.update(_stacked_experts(f"{mlp}.experts", config.hidden_size, layer))
    return fused


def _fused_qkv(config: ModelConfig, layer: LayerShape, prefix: str) -> Fused:
    """Per key/value head: its query heads, its key, its value; the queries alone in a layer without keys and values."""
    groups, head, hidden = config.num_kv_heads, config.head_dim, config.hidden_size
    repeats = config.num_attention_heads // groups
    slots = repeats + 2 if layer.owns_kv else repeats
    view, every = (groups, slots, head, hidden), slice(None)
    query, key = (groups * repeats * head, hidden), (groups * head, hidden)
    parts = {f"{prefix}.q_proj.weight": Part(view, (every, slice(0, repeats)), query)}
    if layer.owns_kv:
        parts[f"{prefix}.k_proj.weight"] = Part(view, (every, repeats), key)
        parts[f"{prefix}.v_proj.weight"] = Part(view, (every, repeats + 1), key)
    return Fused((groups * slots * head, hidden), parts)


def _fused_up_gate(prefix: str, hidden: int, width: int) -> Iterator[tuple[str, Fused]]:
    """Up rows first, then gate rows: the other way round than ours and transformers'."""
    view, shape = (2, width, hidden), (width, hidden)
    parts = {f"{prefix}.up_proj.weight": Part(view, (0,), shape), f"{prefix}.gate_proj.weight": Part(view, (1,), shape)}
    yield f"{prefix}.gate_and_up_proj.weight", Fused((2 * width, hidden), parts)


def _stacked_experts(prefix: str, hidden: int, layer: LayerShape) -> Iterator[tuple[str, Fused]]:
    """The stacked experts of transformers 5: (E, 2F, D) gate first, and (E, D, F)."""
    experts, width = layer.num_experts, layer.expert_size
    wide, narrow = (experts, 2 * width, hidden), (experts, hidden, width)
    gate_up, down = {}, {}
    for e in range(experts):
        one = f"{prefix}.{e}"
        gate_up[f"{one}.gate_proj.weight"] = Part(wide, (e, slice(0, width)), (width, hidden))
        gate_up[f"{one}.up_proj.weight"] = Part(wide, (e, slice(width, 2 * width)), (width, hidden))
        down[f"{one}.down_proj.weight"] = Part(narrow, (e,), (hidden, width))
    yield f"{prefix}.gate_up_proj", Fused(wide, gate_up)
    yield f"{prefix}.down_proj", Fused(narrow, down)

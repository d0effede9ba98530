"""Hunyuan-Large's forward pass in the plainest PyTorch, on tensors under released names and the raw ``config.json``.

Independent of the package: keys and values are recomputed for every layer that uses them, each layer norms the raw
shared keys with a gain of its own, attention is an explicit softmax, and every expert computes every token.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def _mlp(x: Tensor, weights: dict[str, Tensor], prefix: str) -> Tensor:
    gate = x @ weights[f"{prefix}.gate_proj.weight"].T
    up = x @ weights[f"{prefix}.up_proj.weight"].T
    return (gate / (1 + torch.exp(-gate)) * up) @ weights[f"{prefix}.down_proj.weight"].T


def _rope(x_BHTd: Tensor, base: float) -> Tensor:
    length, size = x_BHTd.shape[-2:]
    inverse = 1.0 / base ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = torch.outer(torch.arange(length, dtype=torch.float64), inverse).repeat(1, 2).to(x_BHTd.dtype)
    turned = torch.cat([-x_BHTd[..., size // 2 :], x_BHTd[..., : size // 2]], -1)
    return x_BHTd * angles.cos() + turned * angles.sin()


def _attention(x: Tensor, source: Tensor, weights: dict, config: dict, layer: int, owner: int) -> Tensor:
    """``source`` is the normed input of the layer ``owner`` that projects this layer's keys and values."""
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    size = config.get("head_dim", config["hidden_size"] // heads)
    here, there = f"model.layers.{layer}.self_attn", f"model.layers.{owner}.self_attn"
    batch, length, _ = x.shape

    def split(flat: Tensor, count: int) -> Tensor:
        return flat.view(batch, length, count, size).transpose(1, 2)

    base, scaling = config["rope_theta"], config["rope_scaling"]
    if scaling:
        base *= scaling["alpha"] ** (size / (size - 2))
    query = _rope(split(x @ weights[f"{here}.q_proj.weight"].T, heads), base)
    key = _rope(split(source @ weights[f"{there}.k_proj.weight"].T, groups), base)
    value = split(source @ weights[f"{there}.v_proj.weight"].T, groups)
    if config["use_qk_norm"]:
        query = _norm(query, weights[f"{here}.query_layernorm.weight"], config["rms_norm_eps"])
        key = _norm(key, weights[f"{here}.key_layernorm.weight"], config["rms_norm_eps"])
    key, value = (shared.repeat_interleave(heads // groups, dim=1) for shared in (key, value))
    scores = query @ key.transpose(-1, -2) / size**0.5
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    mixed = torch.softmax(scores.masked_fill(future, float("-inf")), -1) @ value
    return mixed.transpose(1, 2).reshape(batch, length, heads * size) @ weights[f"{here}.o_proj.weight"].T


def _moe(x: Tensor, weights: dict[str, Tensor], config: dict, layer: int) -> Tensor:
    prefix = f"model.layers.{layer}.mlp"
    probs = torch.softmax(x @ weights[f"{prefix}.gate.wg.weight"].T, -1)
    chosen, experts = probs.topk(config["moe_topk"], -1)
    if config["moe_topk"] > 1:
        chosen = chosen / chosen.sum(-1, keepdim=True)
    out = _mlp(x, weights, f"{prefix}.shared_mlp") if config["use_mixed_mlp_moe"] else torch.zeros_like(x)
    for e in range(config["num_experts"]):
        weight = (chosen * (experts == e)).sum(-1, keepdim=True)
        out = out + weight * _mlp(x, weights, f"{prefix}.experts.{e}")
    return out


def forward(weights: dict[str, Tensor], config: dict, ids: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the hidden states as transformers lists them: the last one after the final norm."""
    eps, factor = config["rms_norm_eps"], config["cla_share_factor"] if config["use_cla"] else 1
    x = weights["model.embed_tokens.weight"][ids]
    states, owner, source = [x], 0, x
    for layer in range(config["num_hidden_layers"]):
        normed = _norm(x, weights[f"model.layers.{layer}.input_layernorm.weight"], eps)
        if layer % factor == 0:
            owner, source = layer, normed
        x = x + _attention(normed, source, weights, config, layer, owner)
        normed = _norm(x, weights[f"model.layers.{layer}.post_attention_layernorm.weight"], eps)
        x = x + _moe(normed, weights, config, layer)
        states.append(x)
    states[-1] = _norm(x, weights["model.norm.weight"], eps)
    head = weights["model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"]
    return states[-1] @ head.T, states

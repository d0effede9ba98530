"""The model: embedding, decoder blocks of attention and mixture of experts, final norm, head.

Shapes: B batch, T tokens, D hidden size, V vocabulary, E experts, S cached slots.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kaiyuan.model.attention import Attention, Context, Documents, KeyValue, document_positions
from kaiyuan.model.config import LayerShape, ModelConfig
from kaiyuan.model.experts import Dispatch, Experts, SharedExpert
from kaiyuan.model.linear import cast, leaf
from kaiyuan.model.norm import RMSNorm
from kaiyuan.model.recompute import recomputing
from kaiyuan.model.rope import rope_frequencies, rope_tables
from kaiyuan.model.router import Router
from kaiyuan.model.routing import DROPLESS, RouterStats, RoutingPolicy, Seeds, mix_seed, route, router_stats

Recompute = Literal["none", "experts", "blocks"]
"""What the backward pass computes again instead of keeping it: nothing; the experts' inner activations (on a GPU: a
ninth more arithmetic in them for most of the memory); or whole blocks but for attention's outputs.
"""


@dataclass
class TrainingMode:
    """What a forward pass in training needs beyond its input; ``model.eval()`` ignores all of it."""

    routing: RoutingPolicy = field(default_factory=RoutingPolicy)
    step: int = 0
    """Changes the random choices of recycle routing from step to step."""
    seeds: list[Seeds] | None = None
    """Each layer's, in place of those that ``step`` gives."""
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.0
    """Dropout on what each attention and feed-forward layer adds to the residual stream (paper 3.1: 0.2 in SFT)."""
    recompute: Recompute = "none"

    def seed_of(self, layer: int) -> int | Seeds:
        """What recycle routing in ``layer`` draws from."""
        return mix_seed(self.step, layer) if self.seeds is None else self.seeds[layer]


class MoE(nn.Module):
    """The shared expert on every token plus ``top_k`` of E specialised experts, weighted by the router."""

    def __init__(self, config: ModelConfig, layer: LayerShape) -> None:
        super().__init__()
        self.top_k, self.index = layer.top_k, layer.index
        self.renormalize = config.renormalizes(layer.top_k)
        self.router = Router(config.hidden_size, layer.num_experts)
        self.shared = SharedExpert(config.hidden_size, layer.shared_size) if layer.shared_size else None
        self.experts = Experts(layer.num_experts, config.hidden_size, layer.expert_size)

    def forward(
        self, x_BTD: Tensor, mode: TrainingMode, *again: Tensor, residual_BTD: Tensor | None = None
    ) -> tuple[Tensor, RouterStats | None]:
        """``residual`` is added to the output if it is given. ``again`` may hold ``x`` two more times, for uses that
        add up their gradients elsewhere (RMSNorm.beside).
        """
        x_TD, routed_TD, shared_TD = (x.flatten(0, 1) for x in (x_BTD, *(again or (x_BTD, x_BTD))))
        logits_TE = self.router(x_TD)
        coded = self.experts.code_input(x_TD)
        # Before the routing: a GPU multiplies while the host hands over its small operations. That is for steps that
        # are not captured (dropout, several processes): a replay waits for no host.
        shared_out_TD = None if self.shared is None else self.shared(shared_TD, coded)
        probs_TE = logits_TE.softmax(-1)
        policy = mode.routing if self.training else DROPLESS
        seed = mode.seed_of(self.index) if self.training else 0
        routing = route(probs_TE, self.top_k, policy, seed=seed, renormalize=self.renormalize)
        residual_TD = None if residual_BTD is None else residual_BTD.flatten(0, 1)
        dispatch = Dispatch(routing, probs_TE.shape[1], self.top_k)
        out_TD = self.experts(routed_TD, dispatch, shared_out_TD, residual_TD, coded)
        stats = router_stats(logits_TE, probs_TE, routing) if self.training else None
        return out_TD.view_as(x_BTD), stats


class Block(nn.Module):
    """A pre-norm decoder block."""

    def __init__(self, config: ModelConfig, layer: LayerShape) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.attention = Attention(config, layer)
        self.moe_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.moe = MoE(config, layer)

    def forward(
        self, x_BTD: Tensor, shared: KeyValue | None, context: Context, mode: TrainingMode
    ) -> tuple[Tensor, KeyValue, RouterStats | None]:
        dropout = mode.hidden_dropout if self.training else 0.0
        x_BTD, normed_BTD, *again = self.attention_norm.beside(x_BTD, uses=self.attention.uses)
        attended_BTD, shared = self.attention(normed_BTD, shared, context, *again)
        x_BTD, normed_BTD, *again = self.moe_norm.beside(x_BTD, F.dropout(attended_BTD, dropout), uses=3)
        if dropout:
            computed_BTD, stats = self.moe(normed_BTD, mode, *again)
            return x_BTD + F.dropout(computed_BTD, dropout), shared, stats
        x_BTD, stats = self.moe(normed_BTD, mode, *again, residual_BTD=x_BTD)  # the sum costs no pass of its own
        return x_BTD, shared, stats


class Features(NamedTuple):
    """What the layers make of the input, before the head."""

    x_BTD: Tensor
    """After the final norm, in the compute dtype."""
    router: list[RouterStats]
    """One per layer in training, empty otherwise."""
    layers: list[Tensor]
    """Embedding and every layer's output if asked for; the last is ``x_BTD``."""


class Transformer(nn.Module):
    """A model of the Hunyuan-Large kind. ``model(input_ids)``: int64 (B, T) to float32 logits (B, T, V).

    ``compute_dtype`` is the activations' dtype; parameters may be kept in a wider one. Build it under
    ``torch.device("meta")`` to look at a model too large for the machine; ``init_weights`` fills the parameters of a
    new one.
    """

    def __init__(self, config: ModelConfig, compute_dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        self.mode = TrainingMode()
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in config.layers())
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.lm_head = None
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.packed_head: nn.Module | None = None
        """Computes the logits in place of ``head_weight`` (``kaiyuan.model.packed``)."""

    @property
    def head_weight(self) -> Tensor:
        """(V, D); the embedding itself if tied."""
        return self.embed.weight if self.lm_head is None else self.lm_head.weight

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def features(
        self,
        ids_BT: Tensor,
        *,
        documents_BT: Tensor | None = None,
        context: Context | None = None,
        keep_layers: bool = False,
    ) -> Features:
        """Run all layers. ``documents_BT`` numbers the documents packed in a row: none sees another, each starts at
        position 0.

        ``context`` takes the place of all that: positions, mask and cache as the caller has them.
        """
        x_BTD = F.embedding(ids_BT, leaf(self.embed.weight)).to(self.compute_dtype or self.embed.weight.dtype)
        context = context or self._context(ids_BT, documents_BT)
        shared: KeyValue | None = None
        router, layers = [], [x_BTD]
        run = recomputing if self.mode.recompute == "blocks" and torch.is_grad_enabled() else _run
        for block in self.layers:
            x_BTD, shared, stats = run(block, x_BTD, shared, context, self.mode)
            if stats is not None:
                router.append(stats)
            if keep_layers:
                layers.append(x_BTD)
        x_BTD = self.norm(x_BTD)
        return Features(x_BTD, router, [*layers[:-1], x_BTD] if keep_layers else [])

    def recompute(self, what: Recompute) -> None:
        """Choose what training keeps from its forward pass; see ``Recompute``."""
        self.mode.recompute = what
        for module in self.modules():
            if isinstance(module, Experts | SharedExpert):
                module.recompute = what == "experts"

    def multiply_in_fp8(self, wanted: bool) -> None:
        """Whether training multiplies in fp8 in feed-forward layers and attention's projections; see
        ``kaiyuan.model.kernels.feed_forward`` and ``projections``.
        """
        for module in self.modules():
            if isinstance(module, Experts | SharedExpert | Attention):
                module.fp8 = wanted

    def _context(self, ids_BT: Tensor, documents_BT: Tensor | None) -> Context:
        documents = None
        if documents_BT is not None:
            positions_BT, documents = document_positions(documents_BT), Documents.of(documents_BT)
        else:
            positions_BT = torch.arange(ids_BT.shape[1], device=ids_BT.device)[None]
        cos, sin = rope_tables(positions_BT, rope_frequencies(self.config, ids_BT.device))
        return Context(cos, sin, None, dropout=self.mode.attention_dropout, documents=documents)

    def logits(self, x: Tensor) -> Tensor:
        """Float32 logits (..., V) of features (..., D)."""
        if self.packed_head is not None:
            return self.packed_head(x).float()
        return F.linear(x, cast(self.head_weight, x.dtype)).float()

    def forward(self, ids_BT: Tensor, *, documents_BT: Tensor | None = None) -> Tensor:
        return self.logits(self.features(ids_BT, documents_BT=documents_BT).x_BTD)

    def hidden_states(self, ids_BT: Tensor) -> list[Tensor]:
        """The embedding and every layer's output (B, T, D); the last one after the final norm."""
        return self.features(ids_BT, keep_layers=True).layers

    @torch.no_grad()
    def init_weights(self, seed: int = 0) -> None:
        """Normal weights of ``config.init_std``, projections into the residual stream smaller by ``sqrt(2 L)``; gains
        1.

        Each parameter draws from a generator of its own, so its values depend on its name and the seed alone, not on
        what else the model has or on how it is sharded.
        """
        for name, parameter in self.named_parameters():
            parameter.copy_(self.initial_weight(name, parameter.shape, seed))

    def initial_weight(self, name: str, shape: torch.Size, seed: int) -> Tensor:
        """What ``init_weights`` gives the parameter ``name``: float32, on the CPU."""
        if name.endswith("norm.weight"):
            return torch.ones(shape)
        depth_scale = 1 / math.sqrt(2 * self.config.num_layers)
        generator = torch.Generator().manual_seed(mix_seed(seed, _number_of(name)))
        std = self.config.init_std * (depth_scale if name.endswith(("o_proj.weight", ".down.weight", ".down")) else 1.0)
        return torch.empty(shape, dtype=torch.float32).normal_(0.0, std, generator=generator)


def _run(block: nn.Module, *inputs: Any) -> Any:
    return block(*inputs)


def _number_of(name: str) -> int:
    """56 bits that stand for a parameter's name, the same in every process (unlike ``hash``)."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest())

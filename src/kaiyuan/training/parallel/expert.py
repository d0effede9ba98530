"""Mixture-of-experts layers over ranks: one decision about capacity for all tokens, and experts that live elsewhere.

Every rank gathers the router's probabilities of all tokens (64 bytes a token for 16 experts) and comes to the same
assignment as one device would; then each token travels to the rank of its expert and back (all-to-all).

Shapes: T tokens of this rank, D hidden size, E experts, K choices, N = T * K assignments, M rows that are sent, L
experts of one rank, P ranks that divide the experts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.tensor import Shard, distribute_tensor

from kaiyuan.model.experts import Dispatch, Experts
from kaiyuan.model.routing import DROPLESS, RouterStats, Routing, RoutingPolicy, count_each, mix_seed, route
from kaiyuan.model.transformer import MoE, TrainingMode
from kaiyuan.training.parallel.collectives import all_to_all, exchanged, gathered, summed
from kaiyuan.training.parallel.local_weights import local_weights, replace_forward
from kaiyuan.training.parallel.tokens import Tokens


def parallelize_experts(moe: MoE, tokens: Tokens) -> None:
    """Divide the experts of ``moe`` among the ranks of the mesh's ``expert`` dimension, and route across ranks."""
    layer = ParallelMoE(moe, tokens)
    replace_forward(moe, layer.forward)
    if tokens.layout.expert == 1:
        return
    experts, mesh = moe.experts, tokens.mesh.root["expert"]
    for name, weight in list(experts.named_parameters()):
        part = distribute_tensor(weight.detach(), mesh, [Shard(0)], src_data_rank=None)
        experts.register_parameter(name, nn.Parameter(part))
    compute = experts.forward

    def forward(x_MD: Tensor, dispatch: Dispatch) -> Tensor:
        with local_weights(experts):
            return compute(x_MD, dispatch)

    replace_forward(experts, forward)


class ParallelMoE:
    """What takes the place of ``MoE.forward``. The sums over ranks of the stats it returns are those of all tokens."""

    def __init__(self, moe: MoE, tokens: Tokens) -> None:
        self.moe, self.tokens = moe, tokens

    def forward(
        self, x_BTD: Tensor, mode: TrainingMode, *_: Tensor, residual_BTD: Tensor | None = None
    ) -> tuple[Tensor, RouterStats | None]:
        moe, x_TD = self.moe, x_BTD.flatten(0, 1)
        residual_TD = None if residual_BTD is None else residual_BTD.flatten(0, 1)
        logits_TE = moe.router(x_TD)
        shared_TD = None if moe.shared is None else moe.shared(x_TD)
        probs_TE = logits_TE.softmax(-1)
        policy = mode.routing if moe.training else DROPLESS
        seed = mix_seed(mode.step, moe.index) if moe.training else 0
        if self.tokens.layout.decide == "globally":
            routing, whole = self._globally(probs_TE, policy, seed)
        else:
            seed = mix_seed(seed, self.tokens.mesh.tokens.rank())
            routing = route(probs_TE, moe.top_k, policy, seed=seed, renormalize=moe.renormalize)
            whole = Counts.of(routing, probs_TE.shape[1])
        out_TD = self._compute(x_TD, routing, shared_TD, residual_TD)
        stats = self._stats(logits_TE, probs_TE, whole) if moe.training else None
        return out_TD.view_as(x_BTD), stats

    def _globally(self, probs_TE: Tensor, policy: RoutingPolicy, seed: int) -> tuple[Routing, Counts]:
        """This rank's rows of the routing of all tokens, and that routing's counts."""
        moe, mesh, experts = self.moe, self.tokens.mesh, probs_TE.shape[1]
        if policy.mode == "dropless":
            routing = route(probs_TE, moe.top_k, policy, seed=seed, renormalize=moe.renormalize)
            own = Counts.of(routing, experts)
            return routing, Counts(*(summed(value, mesh.tokens) for value in own))
        places = self.tokens.places(probs_TE.device)
        all_TE = torch.empty(len(places), experts, device=probs_TE.device)
        all_TE[places] = gathered(probs_TE.detach(), mesh.tokens)
        whole = route(all_TE, moe.top_k, policy, seed=seed, renormalize=moe.renormalize)
        mine = self.tokens.own_places(probs_TE.device)
        expert_N, choice_N, recycled_N = (
            value.view(-1, moe.top_k)[mine].flatten() for value in (whole.expert_N, whole.choice_N, whole.recycled_N)
        )
        kept_TK = (expert_N < experts).view(-1, moe.top_k)
        weight_TK = probs_TE.gather(1, expert_N.clamp(max=experts - 1).view(-1, moe.top_k)) * kept_TK
        if moe.renormalize:
            weight_TK = weight_TK / weight_TK.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).eps)
        routing = Routing(expert_N, weight_TK.flatten(), choice_N, recycled_N, whole.complete)
        return routing, Counts.of(whole, experts)

    def _compute(
        self, x_TD: Tensor, routing: Routing, base_TD: Tensor | None, residual_TD: Tensor | None
    ) -> Tensor:  # fmt: skip
        moe, experts = self.moe, self.moe.router.weight.shape[0]
        ranks = self.tokens.layout.expert
        dispatch = Dispatch(routing, experts, moe.top_k)
        if ranks == 1:
            return moe.experts(x_TD, dispatch, base_TD, residual_TD)
        group = self.tokens.mesh.group("expert")
        received_PL, sent, received = exchanged_counts(dispatch, group)
        token_M = dispatch.token_N[: sum(sent)]
        arrived_MD = all_to_all(x_TD[token_M], sent, received, group)
        made_MD = all_to_all(_of_own_experts(moe.experts, arrived_MD, received_PL), received, sent, group)
        weighted_MD = made_MD * dispatch.weight_N[: sum(sent), None].to(made_MD.dtype)
        out_TD = (torch.zeros_like(x_TD) if base_TD is None else base_TD).index_add(0, token_M, weighted_MD)
        return out_TD if residual_TD is None else residual_TD + out_TD

    def _stats(self, logits_TE: Tensor, probs_TE: Tensor, whole: Counts) -> RouterStats:
        experts, ranks = probs_TE.shape[1], self.tokens.mesh.token_ranks
        each = 1 / (whole.chosen_E.sum() * ranks)
        mean = 1 / (len(probs_TE) * ranks)
        with torch.no_grad():
            entropy = -(probs_TE * probs_TE.clamp(min=1e-30).log()).sum() * mean
        return RouterStats(
            balance_loss=experts * (whole.chosen_E / whole.chosen_E.sum() * probs_TE.sum(0)).sum() * mean,
            z_loss=torch.logsumexp(logits_TE, dim=-1).square().sum() * mean,
            chosen_E=whole.chosen_E * each,
            load_E=whole.load_E * each,
            dropped=1 / ranks - whole.load_E.sum() * each,
            recycled=whole.recycled * each,
            entropy=entropy,
        )


def exchanged_counts(dispatch: Dispatch, group: ProcessGroup) -> tuple[Tensor, list[int], list[int]]:
    """How many rows come from each rank for each own expert (P, L); rows sent to and received from each rank."""
    sent_PL = dispatch.counts_E.view(group.size(), -1).contiguous()
    received_PL = exchanged(sent_PL, [1] * group.size(), [1] * group.size(), group)
    return received_PL, *rows_each(dispatch, sent_PL, received_PL)


def rows_each(dispatch: Dispatch, sent_PL: Tensor, received_PL: Tensor) -> tuple[list[int], list[int]]:
    """Rows sent to and received from each rank: the one thing of a step's shapes that depends on data, for which the
    host waits.
    """
    return sent_PL.sum(1).tolist(), received_PL.sum(1).tolist()


class Counts(NamedTuple):
    """Assignments by chosen expert, by computing expert, and recycled ones, float32: of all tokens, or of this rank's
    if ranks decide for themselves.
    """

    chosen_E: Tensor
    load_E: Tensor
    recycled: Tensor

    @classmethod
    def of(cls, routing: Routing, experts: int) -> Counts:
        chosen_E, load_E = (count_each(value, experts).float() for value in (routing.choice_N, routing.expert_N))
        return cls(chosen_E, load_E, routing.recycled_N.sum().float())


def _of_own_experts(experts: Experts, x_MD: Tensor, received_PL: Tensor) -> Tensor:
    """What this rank's experts make of rows that came from P ranks, each sender's sorted by expert."""
    rows, (ranks, own) = len(x_MD), received_PL.shape
    expert_M = (
        torch.arange(own, device=x_MD.device).repeat(ranks).repeat_interleave(received_PL.flatten(), output_size=rows)
    )
    if rows == 0:  # kernels want a row, and every rank must take part in the gradient
        x_MD, expert_M = F.pad(x_MD, (0, 0, 0, 1)), expert_M.new_zeros(1)
    ones = torch.ones(len(expert_M), device=x_MD.device)
    routing = Routing(expert_M, ones, expert_M, torch.zeros_like(expert_M, dtype=torch.bool), True)
    return experts(x_MD, Dispatch(routing, own, 1))[:rows]

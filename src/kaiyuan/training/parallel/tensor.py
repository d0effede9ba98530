"""Tensor parallelism: attention's heads divided among ranks, everything else by tokens (sequence parallelism).

Between attention layers each rank holds its own part of the sequence. Attention gathers the sequence, computes its
share of the heads, and hands back the sum over ranks of the output at its own part: one gather and one
reduce-scatter a layer. Norms, router and feed-forward layers see a rank's own tokens and need no traffic.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from kaiyuan.model.attention import Attention, Context, KeyValue
from kaiyuan.training.parallel.collectives import gather, scatter_sum
from kaiyuan.training.parallel.local_weights import local_weights, replace_forward
from kaiyuan.training.parallel.mesh import Mesh


def parallelize_attention(attention: Attention, mesh: Mesh) -> None:
    """Leave this rank its share of the heads of ``attention``."""
    dim, group = mesh.root["tensor"], mesh.group("tensor")
    for name, weight in list(attention.named_parameters()):
        owner, _, last = name.rpartition(".")
        place = Replicate() if owner.endswith("norm") else Shard(1 if owner == "o_proj" else 0)
        part = distribute_tensor(weight.detach(), dim, [place], src_data_rank=None)
        attention.get_submodule(owner).register_parameter(last, nn.Parameter(part))
    attention.heads //= group.size()
    attention.kv_heads //= group.size()
    compute = attention.forward

    def forward(x_BTD: Tensor, shared: KeyValue | None, context: Context, *_: Tensor) -> tuple[Tensor, KeyValue]:
        with local_weights(attention):
            whole_BTD = gather(x_BTD, group, 1).contiguous()  # once, not by each of the products that keep it
            out_BTD, shared = compute(whole_BTD, shared, context)
        return scatter_sum(out_BTD, group, 1), shared

    replace_forward(attention, forward)

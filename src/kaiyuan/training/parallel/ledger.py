"""Keeping books on a step: bytes of tensors alive, and bytes of every collective.

Works on fake tensors, which have sizes and no memory: what a GPU would hold and send, without one.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass
class Traffic:
    """Collectives of one kind: how often, and the bytes one rank sends to others (a ring's, where it is one)."""

    calls: int = 0
    sent: float = 0.0

    def add(self, sent: float) -> None:
        self.calls += 1
        self.sent += sent


class Ledger(TorchDispatchMode):
    """Within it every storage and every collective is counted.

    ``kind`` names a collective from its operation (``gather``, ``reduce_scatter``, ``all_reduce``, ``all_to_all``,
    ``send``) and the name of its process group. Numbers read from fake tensors, which have none, are 1: as a loss or a
    norm one that any check takes.
    """

    def __init__(self, kind: Callable[[str, str], str]) -> None:
        super().__init__()
        self.kind = kind
        self.alive = self.peak = 0
        """Bytes, now and at most since ``reset_peak``."""
        self.traffic: dict[str, Traffic] = {}
        self._sizes: dict[int, int] = {}
        self.away = False

    def reset(self) -> None:
        """Begin a new step: forget its peak and its traffic, not what is alive."""
        self.peak, self.traffic = self.alive, {}

    def __enter__(self) -> Any:
        # DTensor asks what a whole tensor's result would look like: nothing that is held.
        ShardingPropagator._fake_mode_lock = _Away(self)  # type: ignore[assignment]
        self._resize = torch.UntypedStorage.resize_
        resize, ledger = self._resize, self

        def resized(storage: torch.UntypedStorage, size: int) -> Any:
            found = resize(storage, size)
            ledger._see(storage)
            return found

        torch.UntypedStorage.resize_ = resized  # type: ignore[method-assign,assignment]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        ShardingPropagator._fake_mode_lock = contextlib.nullcontext()
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.away:
            return func(*args, **(kwargs or {}))
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # what it does to its local tensor comes here then
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return 1.0 if args[0].is_floating_point() else 1
        if func.namespace == "c10d":
            self._send(func._schema.name.partition("::")[2], args)
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor) and value.device.type != "meta":
                self._see(value.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._sizes:
            weakref.finalize(storage, self._free, key)
        self.alive += size - self._sizes.get(key, 0)
        self._sizes[key] = size
        self.peak = max(self.peak, self.alive)

    def _free(self, key: int) -> None:
        self.alive -= self._sizes.pop(key, 0)

    def _send(self, name: str, args: Any) -> None:
        operation, sent, group = _sent(name, args)
        self.traffic.setdefault(self.kind(operation, group.group_name), Traffic()).add(sent)


class _Away:
    """Within it a ledger counts nothing."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def __enter__(self) -> None:
        self.ledger.away = True

    def __exit__(self, *error: Any) -> None:
        self.ledger.away = False


def _sent(name: str, args: Any) -> tuple[str, float, dist.ProcessGroup]:
    """Operation, bytes that a rank sends, and group of one call of ``torch.ops.c10d``."""
    place = 1 if name in ("allreduce_", "send", "recv_", "broadcast_", "barrier") else 2
    group = dist.ProcessGroup.unbox(args[place])
    ranks = group.size()
    others = (ranks - 1) / ranks
    if name == "_allgather_base_":
        return "gather", args[0].nbytes * others, group
    if name == "allgather_":  # of Python objects
        return "objects", sum(value.nbytes for value in args[1]) * (ranks - 1), group
    if name == "_reduce_scatter_base_":
        return "reduce_scatter", args[1].nbytes * others, group
    if name == "allreduce_":
        return "all_reduce", 2 * others * sum(value.nbytes for value in args[0]), group
    if name == "alltoall_base_":
        whole = args[1].nbytes
        splits = args[4]
        own = splits[group.rank()] / max(1, sum(splits)) if splits else 1 / ranks
        return "all_to_all", whole * (1 - own), group
    if name == "send":
        return "send", sum(value.nbytes for value in args[0]), group
    if name in ("recv_", "barrier"):
        return "receive", 0, group
    raise NotImplementedError(f"c10d.{name} in a traced step")

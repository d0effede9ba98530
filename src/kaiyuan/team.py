"""The processes that ``torchrun`` started for one run: one of them writes and talks, all of them train.

A run of a single process is a team of one, and imports no torch for it.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

T = TypeVar("T")

TOGETHER = ("pretrain", "extend", "sft", "dpo")
"""Stages that all processes work at; the first does the others alone while the rest wait."""
_PATIENCE = datetime.timedelta(days=30)


def is_main() -> bool:
    """Whether this process is the one that writes and talks."""
    return os.environ.get("RANK", "0") == "0"


def wait_for_all() -> None:
    """Returns when all processes have come here; at once if there is one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        import torch.distributed as dist

        dist.barrier()


class Team:
    """Lets the first process decide, and the others follow."""

    def __init__(self, world: int, group: Any = None) -> None:
        self.world, self._group = world, group

    def follow(self, decide: Callable[[], T]) -> T:
        """What ``decide()`` gives on the first process, on all of them."""
        if self.world == 1:
            return decide()
        import torch.distributed as dist

        found = [decide() if is_main() else None]
        dist.broadcast_object_list(found, src=0, group=self._group)
        return found[0]  # type: ignore[return-value]

    def alone(self, lock: AbstractContextManager[None]) -> AbstractContextManager[None]:
        """``lock``, held by the first process for all."""
        return lock if is_main() else contextlib.nullcontext()


def join(backend: str) -> None:
    """Make the process group of what ``torchrun`` started. A group of its own for every restart: the store may outlive
    the processes, and addresses in it that are gone would be tried.
    """
    import torch.distributed as dist

    store, rank, world = next(iter(dist.rendezvous("env://")))
    own = dist.PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group(backend, store=own, rank=rank, world_size=world)


@contextlib.contextmanager
def team() -> Iterator[Team]:
    """Joins the processes that ``torchrun`` started, if it did."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Team(1)
        return
    import torch
    import torch.distributed as dist

    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    join("cpu:gloo,cuda:nccl" if cuda else "gloo")
    yield Team(world, dist.new_group(backend="gloo", timeout=_PATIENCE))
    dist.destroy_process_group()

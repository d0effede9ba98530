"""A small harness: functions that run in real process groups on gloo, forked from one server that has imported torch.

``Group(n).run(function, *inputs)`` calls ``function(*inputs)`` on each of n ranks and returns what they return, in
order of rank. The processes live as long as the ``Group``, which several layouts can share.
"""

from __future__ import annotations

import contextlib
import datetime
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from kaiyuan.training.parallel.rank_state import pretend

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["torch._dynamo", "torch.distributed.pipelining", "kaiyuan.checkpoint.sharded", "kaiyuan.training.trainer",
     "kaiyuan.training.parallel.parallel", "kaiyuan.training.parallel.rank_state"]
)  # fmt: skip


def _serve(rank: int, world: int, rendezvous: str, pipe: Connection, gpus: bool, pretended: int) -> None:
    os.environ["RANK"] = str(rank)
    torch.set_num_threads(1)
    if gpus:
        torch.cuda.set_device(rank)
    if pretended:
        pretend(pretended)
        _answer(pipe)
        return
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    patience = datetime.timedelta(seconds=60)
    dist.init_process_group(backend, f"file://{rendezvous}", patience, world_size=world, rank=rank)
    _answer(pipe)
    dist.destroy_process_group()


def _answer(pipe: Connection) -> None:
    """Do what comes through ``pipe`` until None does."""
    while (work := pipe.recv()) is not None:
        function, inputs = work
        try:
            pipe.send((True, function(*inputs)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))


class Group:
    """``world`` processes in one process group, each with a GPU of its own if ``gpus``; or one
    process in a group that pretends to have ``pretended`` ranks.
    """

    def __init__(self, world: int, gpus: bool = False, pretended: int = 0) -> None:
        self._folder = tempfile.TemporaryDirectory()
        rendezvous = str(Path(self._folder.name) / "rendezvous")
        self.pipes, self.processes = [], []
        for rank in range(world):
            ours, theirs = _context.Pipe()
            process = _context.Process(
                target=_serve, args=(rank, world, rendezvous, theirs, gpus, pretended), daemon=True
            )
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)

    def start(self, function: Callable[..., Any], *inputs: Any) -> None:
        """Like ``run``, without waiting for the answer."""
        for pipe in self.pipes:
            pipe.send((function, inputs))

    def run(self, function: Callable[..., Any], *inputs: Any) -> list[Any]:
        """What ``function(*inputs)`` returns on every rank; ``AssertionError`` with the traces of those that failed."""
        self.start(function, *inputs)
        return self.answers()

    def answers(self) -> list[Any]:
        """What was started gave, by rank; an ``AssertionError`` if it failed anywhere."""
        answers = [pipe.recv() if pipe.poll(120) else (False, "no answer in two minutes") for pipe in self.pipes]
        failures = [f"rank {rank}: {answer}" for rank, (good, answer) in enumerate(answers) if not good]
        assert not failures, "\n".join(failures)
        return [answer for _, answer in answers]

    def kill(self) -> None:
        """End all processes as SIGKILL does."""
        for process in self.processes:
            process.kill()
            process.join()
        self._folder.cleanup()

    def close(self) -> None:
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            with contextlib.suppress(OSError):
                pipe.send(None)
            process.join(10)
            if process.is_alive():
                process.kill()
        self._folder.cleanup()

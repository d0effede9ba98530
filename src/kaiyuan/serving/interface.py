"""What the server needs of an engine, and nothing more: any object of this shape can be served."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from kaiyuan.inference.async_engine import EngineStats
from kaiyuan.inference.outputs import Piece
from kaiyuan.inference.params import SamplingParams
from kaiyuan.tokenizer import Tokenizer


class LoadedModel(Protocol):
    """The engine behind the asynchronous one."""

    @property
    def tokenizer(self) -> Tokenizer | None: ...

    @property
    def model(self) -> Any:
        """``.config.vocab_size`` is all that is read of it."""

    @property
    def context(self) -> int:
        """Most tokens of prompt and answer together."""


class Pieces(Protocol):
    """What comes of a request: an asynchronous iterator. Closing it, begun or not, aborts the request."""

    def __aiter__(self) -> AsyncIterator[Piece]: ...

    async def __anext__(self) -> Piece: ...

    async def aclose(self) -> None: ...


class ServedEngine(Protocol):
    """``kaiyuan.inference.async_engine.AsyncEngine``, as far as the server knows it."""

    @property
    def engine(self) -> LoadedModel: ...

    @property
    def draining(self) -> bool: ...

    @property
    def healthy(self) -> bool: ...

    def start(self) -> None: ...

    async def stop(self, drain_seconds: float = 30) -> None: ...

    async def submit(self, prompt_ids: list[int], params: SamplingParams, *, salt: str = "") -> Pieces:
        """Pieces of all completions, interleaved.

        Raises ``KaiyuanError`` at once for what cannot be run, ``QueueFull`` and ``Draining`` among them.
        """

    def stats(self) -> EngineStats: ...


def vocabulary_of(engine: ServedEngine) -> int:
    """Number of ids that a prompt may use."""
    return int(engine.engine.model.config.vocab_size)

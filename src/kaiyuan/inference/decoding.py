"""Steps in which every sequence gets one token, on a GPU: by kernels of their own, in CUDA graphs, several at a time.

Launching the operations of a layer one by one takes the host ten times as long as a GPU needs to read the layer's
weights; a graph launches them all at once. Where the most likely token is wanted and nothing else, the device
chooses it and goes on with it, and the host learns a burst of tokens at a time. To sample, it needs nothing from the
host but random numbers, which it gives for a whole burst.

Shapes: N rows (sequences), K steps of a burst, V vocabulary, D hidden size.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from kaiyuan.inference.decode_layer import DecodeLayer, How, Unsupported, product
from kaiyuan.inference.device_sampling import Draw, draw_tokens, is_restricted
from kaiyuan.inference.kernels import choosing, products
from kaiyuan.inference.kernels.choosing import Best
from kaiyuan.inference.kernels.paged_attention import Rows
from kaiyuan.inference.kernels.products import MOST_ROWS, Matrix, Tile
from kaiyuan.inference.page_tables import PageTables
from kaiyuan.inference.paged_cache import PagedCache
from kaiyuan.inference.runner import rows_wanted
from kaiyuan.inference.scheduler import Work
from kaiyuan.inference.sequence import Sequence
from kaiyuan.model.rope import rope_frequencies
from kaiyuan.model.transformer import Block, Transformer

BURST = 8
"""Tokens chosen on the device before the host looks at them."""
_SIZES = (*range(1, 17), 24, 32, 48, 64, 96, 128)
"""Rows of a graph; a batch between two of them is padded."""
_PADDING = (0, -1, 0, -1)
INVARIANT = Tile(64, 16, 64, stages=3)
_INVARIANT_SPLITS = 8


_Kind = Literal["choose", "logits", "sample", "restrict"]
"""What comes of a step: the most likely tokens, logits, sampled tokens, tokens sampled after ruling some out."""


class Token(NamedTuple):
    """One to be computed."""

    sequence: Sequence
    position: int
    id: int


def _token_of(work: Work) -> Token:
    return Token(work.sequence, work.start, work.sequence.tokens[work.start])


class _Program(NamedTuple):
    """What runs a step of so many rows, and where it reads and writes."""

    state_4N: Tensor
    """int32: token, position, slot, and the position at which the burst began."""
    run: Callable[[], None]
    draw: Draw
    """How rows are sampled, in a program that samples."""
    uniform_KN: Tensor
    """float64: what they are sampled with."""
    chosen_2KN: Tensor
    """int32: tokens, and the bits of their float32 log-probabilities."""
    best: Best | None
    """What a program that chooses leaves between its kernels; a graph knows addresses only and keeps nothing alive."""


class Decoder:
    """Computes steps of up to ``rows`` sequences of ``model`` with keys and values in ``cache``.

    Raises ``Unsupported`` for a model that the kernels cannot compute. With ``invariant`` a row's logits do not depend
    on the other rows: to the bit.
    """

    burst = BURST

    def __init__(
        self, model: Transformer, cache: PagedCache, rows: int, context: int, *,
        graphs: bool = True, invariant: bool = False,
    ) -> None:  # fmt: skip
        if model.compute_dtype not in (None, model.embed.weight.dtype):
            raise Unsupported(f"weights in {model.embed.weight.dtype} that compute in {model.compute_dtype}")
        self.model, self._cache, self._graphs = model, cache, graphs
        self.rows = min(rows, INVARIANT.rows if invariant else MOST_ROWS)
        self._widest = self.rows if invariant else MOST_ROWS
        """Rows of one pass over prompts, which are many rows of few sequences."""
        frequencies = rope_frequencies(model.config, model.device)
        self._how = How(frequencies, *((INVARIANT, _INVARIANT_SPLITS) if invariant else ()))
        self._layers = [DecodeLayer(cast(Block, block), cache) for block in model.layers]
        self._head = Matrix(model.head_weight.detach())
        self._tables = PageTables(rows, -(-(context + BURST) // cache.page_size), model.device)
        self._programs: dict[tuple[int, _Kind], _Program] = {}
        self._logits_NV: Tensor | None = None
        self._pool: Any = None

    @torch.inference_mode()
    def choose(self, plan: list[Work], steps: int = 1) -> tuple[list[list[int]], list[list[float]]]:
        """The most likely next ``steps`` tokens of every sequence, each (N, K), and their log-probabilities.

        The sequences must have pages for all of them but the last.
        """
        return self._burst(self._program(len(plan), "choose"), plan, steps)

    @torch.inference_mode()
    def sample(self, plan: list[Work], steps: int = 1) -> tuple[list[list[int]], list[list[float]]]:
        """As ``choose``, each sequence by its own parameters and generator: as ``sampling.sample`` would."""
        params = [work.sequence.params for work in plan]
        program = self._program(len(plan), "restrict" if any(map(is_restricted, params)) else "sample")
        program.draw.fill(params)
        uniform_NK = torch.zeros(len(plan), steps, dtype=torch.float64)
        for row, work in enumerate(plan):
            if not work.sequence.params.greedy:
                uniform_NK[row] = torch.rand(steps, dtype=torch.float64, generator=work.sequence.generator)
        program.uniform_KN[:steps, : len(plan)] = uniform_NK.t().to(self.model.device)
        return self._burst(program, plan, steps)

    def _burst(self, program: _Program, plan: list[Work], steps: int) -> tuple[list[list[int]], list[list[float]]]:
        self._fill(program, [_token_of(work) for work in plan])
        for _ in range(steps):
            program.run()
        chosen_2KN = program.chosen_2KN[:, :steps, : len(plan)].cpu()
        tokens_NK, logprobs_NK = chosen_2KN[0].t(), chosen_2KN[1].view(torch.float32).t()
        return tokens_NK.tolist(), logprobs_NK.tolist()

    @torch.inference_mode()
    def logits(self, tokens: list[Token]) -> Tensor:
        """Float32 (N, V) after each token; valid until the next call. A token sees the earlier ones of its sequence,
        which were computed before or are computed with it.
        """
        program = self._program(len(tokens), "logits")
        self._fill(program, tokens)
        program.run()
        assert self._logits_NV is not None
        return self._logits_NV[: len(tokens)]

    def next_logits(self, plan: list[Work]) -> Tensor:
        """Float32 (N, V) for the next token of every sequence; valid until the next call."""
        return self.logits([_token_of(work) for work in plan])

    def runner(self) -> RowRunner:
        """One that computes prompts as well."""
        return RowRunner(self, self._widest)

    def warm_up(self) -> None:
        """Compile and capture what any number of rows needs, before someone waits for it."""
        for kind in get_args(_Kind):
            for size in _SIZES[: _SIZES.index(_padded(self._widest if kind == "logits" else self.rows)) + 1]:
                self._program(size, kind)

    def _fill(self, program: _Program, tokens: list[Token]) -> None:
        slots = self._tables.slots(token.sequence for token in tokens)
        columns = [(token.id, token.position, slots[token.sequence], token.position) for token in tokens]
        columns += [_PADDING] * (program.state_4N.shape[1] - len(columns))
        program.state_4N.copy_(torch.tensor(list(zip(*columns, strict=True)), dtype=torch.int32))

    def _program(self, count: int, kind: _Kind) -> _Program:
        size = _padded(count)
        if (size, kind) not in self._programs:
            self._programs[size, kind] = self._prepare(size, kind)
        return self._programs[size, kind]

    @torch.inference_mode()
    def _prepare(self, size: int, kind: _Kind) -> _Program:
        device = self.model.device
        state_4N = torch.tensor([_PADDING] * size, dtype=torch.int32, device=device).t().contiguous()
        chosen_2KN = torch.zeros(2, BURST, size, dtype=torch.int32, device=device)
        draw, uniform_KN = Draw.room(size, device), torch.zeros(BURST, size, dtype=torch.float64, device=device)
        vocabulary = self.model.config.vocab_size
        best = Best.room(size, vocabulary, device) if kind == "choose" else None
        if best is None and self._logits_NV is None:
            self._logits_NV = torch.empty(_padded(self._widest), vocabulary, dtype=torch.float32, device=device)

        def run() -> None:
            x_ND = self._features(state_4N)
            if best is not None:
                return self._choose(x_ND, best, state_4N, chosen_2KN)
            assert self._logits_NV is not None
            logits_NV = self._logits_NV[:size]
            logits_NV.copy_(product(x_ND, self._head, self._how))
            if kind != "logits":
                _sample(logits_NV, draw, uniform_KN, kind == "restrict", state_4N, chosen_2KN)
            return None

        return _Program(state_4N, self._captured(run) if self._graphs else run, draw, uniform_KN, chosen_2KN, best)

    def _features(self, state_4N: Tensor) -> Tensor:
        ids_N, position_N, slot_N, _ = state_4N
        rows = Rows(self._tables.tables, slot_N, position_N, self._cache.page_size)
        x_ND = F.embedding(ids_N, self.model.embed.weight)
        parts_PND: Tensor | None = None
        for layer in self._layers:
            x_ND, parts_PND = layer(x_ND, parts_PND, rows, self._how)
        final = self.model.norm
        return products.norm(
            x_ND, final.weight, final.eps, torch.empty_like(x_ND), parts_PNI=parts_PND, out_NI=torch.empty_like(x_ND)
        )

    def _choose(self, x_ND: Tensor, best: Best, state_4N: Tensor, chosen_2KN: Tensor) -> None:
        choosing.head(x_ND, self._head, best)
        ids_N, position_N, _, start_N = state_4N
        choosing.choose(best, ids_N, position_N, start_N, chosen_2KN[0], chosen_2KN[1].view(torch.float32))

    def _captured(self, run: Callable[[], None]) -> Callable[[], None]:
        run()  # on padding, which leaves nothing behind: compiles, and lets libraries take their workspace
        torch.cuda.synchronize(self.model.device)
        graph = torch.cuda.CUDAGraph()
        with (
            torch.cuda.device(self.model.device),
            torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
        ):
            run()
        self._pool = self._pool or graph.pool()
        return graph.replay


def _sample(
    logits_NV: Tensor, draw: Draw, uniform_KN: Tensor, restricted: bool, state_4N: Tensor, chosen_2KN: Tensor
) -> None:
    """Sample every row, note token and log-probability, and make the token the row's next input."""
    ids_N, position_N, _, start_N = state_4N
    place_1N = (position_N - start_N).long()[None]
    token_N, logprob_N = draw_tokens(logits_NV, draw, uniform_KN.gather(0, place_1N)[0], restricted)
    chosen_2KN[0].scatter_(0, place_1N, token_N.int()[None])
    chosen_2KN[1].view(torch.float32).scatter_(0, place_1N, logprob_N[None])
    ids_N.copy_(token_N)
    position_N.add_((position_N >= 0).int())


def _padded(count: int) -> int:
    """Rows of the smallest graph that holds ``count``."""
    return _SIZES[bisect.bisect_left(_SIZES, count)]


class RowRunner:
    """Runs any work row by row through ``decoder``, ``rows`` at a time: prompts too.

    With an invariant decoder nothing depends on how prompts are cut; and for short ones it is quicker than the model's
    own forward pass, whose operations the host launches one by one.
    """

    def __init__(self, decoder: Decoder, rows: int) -> None:
        self._decoder, self._rows = decoder, rows

    @torch.inference_mode()
    def run(self, plan: list[Work]) -> list[Tensor]:
        """As ``Runner.run``."""
        tokens: list[Token] = []
        wanted: list[int] = []
        counts: list[int] = []
        for work in plan:
            tokens += [Token(work.sequence, work.start + place, id) for place, id in enumerate(work.tokens)]
            counts.append(rows_wanted(work, len(work.tokens)))
            wanted += range(len(tokens) - counts[-1], len(tokens))
        found = []
        for start in range(0, len(tokens), self._rows):
            part = tokens[start : start + self._rows]
            rows = [row - start for row in wanted if start <= row < start + len(part)]
            found.append(self._decoder.logits(part)[rows])
        return list(torch.cat(found).split(counts))

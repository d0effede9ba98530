"""Steps of any kind on a CPU by one call of the library: prompts in chunks, decoding, and bursts of likeliest tokens.

Shapes: N rows (new tokens of all sequences), W rows whose logits are wanted, K tokens of a burst, V vocabulary.
"""

from __future__ import annotations

import ctypes
import itertools
import time
from typing import Any

import torch
from torch import Tensor, nn

from kaiyuan.inference.native import structs
from kaiyuan.inference.native.library import library
from kaiyuan.inference.native.panels import PanelExperts, PanelGateUp, PanelLinear, Panels
from kaiyuan.inference.page_tables import PageTables
from kaiyuan.inference.paged_cache import PagedCache
from kaiyuan.inference.runner import rows_wanted
from kaiyuan.inference.scheduler import Work
from kaiyuan.model.rope import rope_frequencies
from kaiyuan.model.transformer import Block, Transformer

_LONGEST_BURST = 8
_PATIENCE = 0.02
"""Seconds that a burst may take: who streams should not see the text come in lumps."""
_NONE = structs.Matrix()


class Unsupported(Exception):
    """The library cannot compute this model; the message says why."""


class NativeRunner:
    """Computes steps of ``model``, whose matrices are panels, with keys and values in ``cache``.

    Raises ``Unsupported`` for a model that the library does not know.
    """

    def __init__(self, model: Transformer, cache: PagedCache, sequences: int, context: int) -> None:
        if cache.page_size != structs.PAGE:
            raise Unsupported(f"pages of {cache.page_size} tokens")
        self.model, self._cache, self.rows = model, cache, sequences
        self._tables = PageTables(sequences, -(-(context + _LONGEST_BURST) // cache.page_size), torch.device("cpu"))
        self._kept: list[Any] = []  # what the library has addresses of
        self._vocabulary = model.config.vocab_size
        self._seconds = 1.0
        layers = structs.array(structs.Layer, [self._layer(block) for block in model.layers])
        self._handle = library().kaiyuan_open(ctypes.byref(self._model(layers)))

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            library().kaiyuan_close(self._handle)

    @property
    def burst(self) -> int:
        """Likeliest tokens that are worth computing before anyone looks."""
        return max(1, min(_LONGEST_BURST, int(_PATIENCE / self._seconds)))

    def warm_up(self) -> None:
        """Nothing to do: the library is there already."""

    def run(self, plan: list[Work]) -> list[Tensor]:
        """As ``inference.runner.Runner.run``."""
        counts = [rows_wanted(work, len(work.tokens)) for work in plan]
        ends = itertools.accumulate(len(work.tokens) for work in plan)
        wanted = [row for end, count in zip(ends, counts, strict=True) for row in range(end - count, end)]
        return list(self._step(plan, wanted, 1)[0].split(counts))

    def next_logits(self, plan: list[Work]) -> Tensor:
        """Float32 (N, V) for the next token of every sequence."""
        return self._step(plan, list(range(len(plan))), 1)[0]

    def choose(self, plan: list[Work], steps: int = 1) -> tuple[list[list[int]], list[list[float]]]:
        """The most likely next ``steps`` tokens of every sequence, each (N, K), and their log-probabilities.

        The sequences must have pages for all of them but the last.
        """
        start = time.perf_counter()
        _, tokens_KN, logprobs_KN = self._step(plan, list(range(len(plan))), steps, choosing=True)
        self._seconds = (time.perf_counter() - start) / steps
        return tokens_KN.t().tolist(), logprobs_KN.t().tolist()

    def _step(
        self, plan: list[Work], wanted: list[int], burst: int, choosing: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        ids: list[int] = []
        spans = []
        slots = self._tables.slots(work.sequence for work in plan)
        tables = self._tables.tables
        for work in plan:
            new, start = work.tokens, len(ids)
            ids += new
            pages = tables.data_ptr() + 4 * tables.shape[1] * slots[work.sequence]
            spans.append(structs.Span(start, len(ids), work.start + len(new), pages))
        ids_N, wanted_W = torch.tensor(ids, dtype=torch.int32), torch.tensor(wanted, dtype=torch.int32)
        logits_WV = torch.empty(len(wanted), self._vocabulary)
        chosen_KN = torch.empty(burst, len(ids), dtype=torch.int32)
        logprobs_KN = torch.empty(burst, len(ids))
        step = structs.Step(
            structs.array(structs.Span, spans), ids_N.data_ptr(), wanted_W.data_ptr(), logits_WV.data_ptr(),
            chosen_KN.data_ptr() if choosing else None, logprobs_KN.data_ptr(),
            len(spans), len(ids), len(wanted), burst,
        )  # fmt: skip
        library().kaiyuan_step(self._handle, ctypes.byref(step), torch.get_num_threads())
        return logits_WV, chosen_KN, logprobs_KN

    def _model(self, layers: Any) -> structs.Model:
        model, config = self.model, self.model.config
        head = model.packed_head
        if not isinstance(head, PanelLinear):
            raise Unsupported("a head that is not in panels")
        if model.embed.weight.dtype not in structs.FORMATS:
            raise Unsupported(f"an embedding in {model.embed.weight.dtype}")
        embedding = model.embed.weight.detach()
        self._kept += [embedding, head.panels]
        return structs.Model(
            layers, self._floats(rope_frequencies(config)), self._floats(model.norm.weight),
            structs.address(embedding), head.panels.struct(), config.num_layers, config.hidden_size,
            config.num_attention_heads, config.num_kv_heads, config.head_dim, config.vocab_size,
            structs.FORMATS[self._cache.dtype], structs.FORMATS[embedding.dtype], config.norm_eps,
        )  # fmt: skip

    def _layer(self, module: nn.Module) -> structs.Layer:
        assert isinstance(module, Block)
        attention, moe = module.attention, module.moe
        if not isinstance(moe.experts, PanelExperts):
            raise Unsupported("experts that are not in panels")
        query_gain = None
        if attention.q_norm is not None and attention.k_norm is not None:
            query_gain = self._floats(attention.q_norm.weight.float() * attention.k_norm.weight.float())
        owns = attention.owns_kv
        inputs = [attention.q_proj, *([attention.k_proj, attention.v_proj] if owns else [])]
        q, *kv = self._alike(inputs)
        k, v = kv or (_NONE, _NONE)
        shared = moe.shared
        ups = self._alike([*moe.experts.up, *([] if shared is None else [shared.gate_up])])
        keys, values = self._cache.keys[attention.producer], self._cache.values[attention.producer]
        shape = self.model.config.layer(moe.index)
        return structs.Layer(
            self._floats(module.attention_norm.weight), query_gain, self._floats(module.moe_norm.weight),
            self._floats(moe.router.weight), q, k, v, self._alike([attention.o_proj])[0],
            _NONE if shared is None else ups[-1], _NONE if shared is None else self._alike([shared.down])[0],
            self._array(ups), self._array(self._alike(moe.experts.low)),
            structs.Store(structs.address(keys.data), structs.address(keys.scale)),
            structs.Store(structs.address(values.data), structs.address(values.scale)),
            owns, shape.num_experts, moe.top_k, moe.renormalize, shape.expert_size, shape.shared_size,
        )  # fmt: skip

    def _alike(self, modules: list[Any]) -> list[structs.Matrix]:
        """Their matrices; they read the same input, so they must want it in the same form."""
        panels: list[Panels] = []
        for module in modules:
            if isinstance(module, Panels):
                panels.append(module)
            elif isinstance(module, PanelLinear | PanelGateUp):
                panels.append(module.panels)
            else:
                raise Unsupported(f"weights of a {type(module).__name__}")
        self._kept += panels
        if len({(one.format, one.ins) for one in panels}) > 1:
            raise Unsupported("weights of different forms side by side")
        return [one.struct() for one in panels]

    def _floats(self, tensor: Tensor) -> int | None:
        floats = tensor.detach().float().contiguous()
        self._kept.append(floats)
        return structs.address(floats)

    def _array(self, matrices: list[structs.Matrix]) -> Any:
        self._kept.append(structs.array(structs.Matrix, matrices))
        return self._kept[-1]

"""Generation by continuous batching over the shared KV cache: the public face of ``kaiyuan.inference``.

A step takes whatever is to be computed now, answers under way and pieces of prompts alike, runs the model on it once
and reports what that added to each answer. ``generate`` and ``stream`` take steps until their own prompts are done;
a server calls ``add``, ``step`` and ``abort`` itself (``kaiyuan.inference.async_engine``).
"""

from __future__ import annotations

import importlib.util
import itertools
import secrets
from collections.abc import Iterator
from collections.abc import Sequence as Many
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kaiyuan.errors import KaiyuanError
from kaiyuan.inference.answering import Answering, wants_only_a_token
from kaiyuan.inference.blocks import BlockPool
from kaiyuan.inference.grammar import GrammarCompiler
from kaiyuan.inference.native.library import available
from kaiyuan.inference.native.panels import PanelLinear, can_panel, panel_model
from kaiyuan.inference.native.runner import NativeRunner
from kaiyuan.inference.native.runner import Unsupported as UnsupportedHere
from kaiyuan.inference.outputs import Completion, Piece
from kaiyuan.inference.paged_cache import KVDtype, PagedCache, bytes_per_token, storage_dtype
from kaiyuan.inference.params import SamplingParams
from kaiyuan.inference.runner import Runner, asks_about_prompt
from kaiyuan.inference.scheduler import Scheduler, Work
from kaiyuan.inference.sequence import Sequence
from kaiyuan.inference.text import TextStream
from kaiyuan.model.device import usable_device
from kaiyuan.model.packed import can_pack, pack_model
from kaiyuan.model.quantization import Scheme, quantize_model, scheme_named
from kaiyuan.model.transformer import Transformer

if TYPE_CHECKING:
    from kaiyuan.inference.decoding import Decoder, RowRunner
    from kaiyuan.tokenizer import Tokenizer

Prompt = str | Many[int]
PAGE = 32
"""Tokens of a page."""
_CPU_CACHE_BYTES = 2**30
_GPU_CACHE_SHARE = 0.85


class Engine:
    """Generates with one model.

    ``model`` is a folder or a ``Transformer``; a folder brings its tokenizer, if it has one. Without a tokenizer
    prompts are lists of token ids.

    ``cache_tokens`` is how many tokens the KV cache holds, of all sequences together: by default what 1 GiB holds, on
    a GPU what 85% of the free memory hold, at least one full context and at most what ``max_num_seqs`` sequences can
    use. ``kv_dtype`` is what it is kept in. ``quantize`` codes the weights when they are loaded (a folder that
    ``kaiyuan convert --quantize`` made is coded as it says); a ``Transformer`` is taken as it is. A step computes at
    most ``max_num_batched_tokens`` tokens of at most ``max_num_seqs`` sequences. ``speculative_tokens`` guesses so
    many tokens ahead from the text itself; the result is the same, sooner or later depending on the text.
    ``batch_invariant`` (on a GPU): what a request is answered does not depend on what is computed beside it, to the
    last bit; slower, above all for prompts.
    """

    few_tokens = 256
    """Up to so many tokens of prompts in a step go through the graphs of decoding on a GPU: launching the model's
    operations one by one takes longer than computing them."""

    def __init__(
        self,
        model: str | Path | Transformer,
        tokenizer: Tokenizer | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        kv_dtype: KVDtype = "auto",
        quantize: Scheme | None = None,
        cache_tokens: int | None = None,
        max_num_seqs: int = 64,
        max_num_batched_tokens: int = 2048,
        prefix_cache: bool = True,
        speculative_tokens: int = 0,
        batch_invariant: bool = False,
    ) -> None:
        quantize = None if quantize is None else scheme_named(quantize)
        for name, value in (("max_num_seqs", max_num_seqs), ("max_num_batched_tokens", max_num_batched_tokens)):
            if value < 1:
                raise KaiyuanError(f"{name}: {value} is under 1")
        if isinstance(model, Transformer):
            self.model, self.tokenizer = model, tokenizer
        else:
            self.model, loaded = load(Path(model), dtype, usable_device("device", device), quantize)
            self.tokenizer = tokenizer or loaded
        self.config = self.model.config
        compute = self.model.compute_dtype or self.model.embed.weight.dtype
        stored = storage_dtype(kv_dtype, compute)
        tokens = cache_tokens or self._affordable_tokens(stored, max_num_seqs)
        pages = -(-tokens // PAGE)
        self.context = min(self.config.max_position_embeddings, pages * PAGE)
        """Most tokens of prompt and answer together."""
        self.cache = PagedCache(self.config, pages, PAGE, stored, self.model.device)
        self.pool = BlockPool(pages, PAGE)
        self.scheduler = Scheduler(self.pool, max_num_seqs, max_num_batched_tokens, prefix_cache)
        self.answering = Answering(self.scheduler, speculative_tokens)
        self._batch_invariant = batch_invariant
        self._runner: Runner | RowRunner | NativeRunner = Runner(self.model, self.cache)
        self.decoder = self._decoder(max_num_seqs, batch_invariant)
        self._grammars: GrammarCompiler | None = None
        self._numbers = itertools.count()
        self._requests: dict[int, list[Sequence]] = {}

    def _decoder(self, max_num_seqs: int, invariant: bool) -> Decoder | NativeRunner | None:
        """What computes steps of one token a sequence, where there is something better than ``Runner`` for this device
        and model; what computes prompts too takes its place.
        """
        reason = "it needs a GPU and Triton"
        if isinstance(self.model.packed_head, PanelLinear) and not invariant:
            try:
                self._runner = native = NativeRunner(self.model, self.cache, max_num_seqs, self.context)
            except UnsupportedHere:
                return None
            return native
        if self.model.device.type == "cuda" and importlib.util.find_spec("triton"):
            from kaiyuan.inference.decode_layer import Unsupported
            from kaiyuan.inference.decoding import Decoder

            try:
                decoder = Decoder(self.model, self.cache, max_num_seqs, self.context, invariant=invariant)
            except Unsupported as error:
                reason = f"its kernels do not know {error}"
            else:
                if invariant:
                    self._runner = decoder.runner()
                return decoder
        if invariant:
            raise KaiyuanError(f"batch_invariant: {reason}")
        return None

    def warm_up(self) -> None:
        """Compile and capture what decoding needs, so that no request waits for it."""
        if self.decoder is not None:
            self.decoder.warm_up()

    def _affordable_tokens(self, stored: torch.dtype, max_num_seqs: int) -> int:
        context, device = self.config.max_position_embeddings, self.model.device
        budget = _CPU_CACHE_BYTES
        if device.type == "cuda":
            budget = int(_GPU_CACHE_SHARE * torch.cuda.mem_get_info(device)[0])
        affordable = budget // bytes_per_token(self.config, stored)
        return min(max(affordable, context), context * max_num_seqs)

    def __len__(self) -> int:
        """Requests under way."""
        return len(self._requests)

    def prepare(self, prompt: Prompt, params: SamplingParams, salt: str = "") -> list[Sequence]:
        """The sequences of a request, checked but not begun. Safe to call from another thread."""
        ids = self._ids(prompt, params)
        number = next(self._numbers)
        limit = min(len(ids) + params.max_tokens, self.context)
        return [
            Sequence(
                request=number,
                index=index,
                prompt_length=len(ids),
                tokens=list(ids),
                params=params,
                stops=self._stops(params),
                limit=limit,
                generator=_generator(params, index),
                text=None if self.tokenizer is None else TextStream(self.tokenizer, params.stop),
                matcher=self._matcher(params),
                salt=salt,
            )
            for index in range(params.n)
        ]

    def begin(self, sequences: list[Sequence]) -> int:
        """Put a prepared request in the queue; returns its number."""
        first = sequences[0]
        first.children = sequences[1:]
        self._requests[first.request] = list(sequences)
        self.scheduler.add(first)
        return first.request

    def add(self, prompt: Prompt, params: SamplingParams | None = None, salt: str = "") -> int:
        """Ask for completions of ``prompt``; returns the request's number. ``salt`` keeps its prefix apart from that
        of other tenants.
        """
        return self.begin(self.prepare(prompt, params or SamplingParams(), salt))

    def step(self) -> list[tuple[int, Piece]]:
        """Compute once; returns what it added, by request. Does nothing if there is nothing to do."""
        if self.model.training:  # asked first: to tell every module takes a millisecond
            self.model.eval()
        plan = self.scheduler.schedule()
        if not plan:
            return []
        decoding, rest = self._split(plan)
        pieces = self._decode(decoding, alone=not rest) if decoding else []
        if rest:
            pieces += self.answering.take(rest, self._run(rest))
        for number in {number for number, piece in pieces if piece.finish_reason}:
            if all(sequence.finish_reason for sequence in self._requests[number]):
                del self._requests[number]
        return pieces

    def _split(self, plan: list[Work]) -> tuple[list[Work], list[Work]]:
        """What the decoder computes, one token of each sequence, and what is left to the runner: prompts, and answers
        that something more is asked of. A runner that is the decoder itself takes all but pure decoding in one piece.
        """
        if self.decoder is None or self._batch_invariant:
            return [], plan
        single = [work.complete and len(work.tokens) == 1 and not asks_about_prompt(work) for work in plan]
        if self._runner is self.decoder:
            return (plan, []) if all(single) else ([], plan)
        decoding = [work for work, fits in zip(plan, single, strict=True) if fits][: self.decoder.rows]
        taken = set(map(id, decoding))
        return decoding, [work for work in plan if id(work) not in taken]

    def _run(self, plan: list[Work]) -> list[Tensor]:
        """Logits of prompts and of whatever the decoder does not choose tokens of."""
        few = sum(len(work.tokens) for work in plan) <= self.few_tokens
        if few and not (self.decoder is None or isinstance(self.decoder, NativeRunner)):
            return self.decoder.runner().run(plan)
        return self._runner.run(plan)

    def _decode(self, plan: list[Work], alone: bool) -> list[tuple[int, Piece]]:
        """A step of one token a sequence, or a burst of several if nobody else waits for the next step."""
        assert self.decoder is not None
        greedy = all(work.sequence.params.greedy for work in plan)
        sampler = None if isinstance(self.decoder, NativeRunner) else self.decoder
        if not all(wants_only_a_token(work.sequence) for work in plan) or not (greedy or sampler):
            return self.answering.take(plan, list(self.decoder.next_logits(plan).split(1)))
        full = len(self.scheduler.running) >= self.scheduler.max_num_seqs
        burst = self.decoder.burst if alone and (full or not self.scheduler.waiting) else 1
        steps = burst if not self.answering.ahead and self.scheduler.reserve(plan, burst - 1) else 1
        if greedy or sampler is None:
            return self.answering.take_chosen(plan, *self.decoder.choose(plan, steps))
        return self.answering.take_chosen(plan, *sampler.sample(plan, steps))

    def abort(self, request: int) -> None:
        """End a request now; its pages are free again. Nothing happens if it is not under way."""
        for sequence in self._requests.pop(request, []):
            if sequence.finish_reason is None:
                sequence.finish_reason = "abort"
                self.scheduler.remove(sequence)

    def generate(
        self, prompts: Many[Prompt], params: SamplingParams | Many[SamplingParams] | None = None
    ) -> list[Completion]:
        """Complete every prompt; ``params`` for all of them or one for each. With ``n > 1`` a prompt has n results
        in a row.
        """
        if isinstance(prompts, str) or any(isinstance(prompt, int) for prompt in prompts):
            raise KaiyuanError("prompts come as a list: put a single one in brackets")
        settings = _settings(params, len(prompts))
        prepared = [self.prepare(prompt, setting) for prompt, setting in zip(prompts, settings, strict=True)]
        texts: dict[tuple[int, int], list[str]] = {}
        for sequences in prepared:
            self.begin(sequences)
        waiting = {sequences[0].request for sequences in prepared}
        try:
            while waiting:
                for number, piece in self.step():
                    texts.setdefault((number, piece.index), []).append(piece.text)
                waiting &= self._requests.keys()
        finally:
            for number in waiting:
                self.abort(number)
        return [
            _completion(sequence, "".join(texts.get((sequence.request, sequence.index), [])))
            for sequences in prepared
            for sequence in sequences
        ]

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[Piece]:
        """What every step adds to the completions of one prompt. Closing the iterator stops the work."""
        number = self.add(prompt, params)
        try:
            while number in self._requests:
                yield from [piece for owner, piece in self.step() if owner == number]
        finally:
            self.abort(number)

    def _ids(self, prompt: Prompt, params: SamplingParams) -> list[int]:
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise KaiyuanError("this model has no tokenizer: give prompts as lists of token ids")
            prompt = self.tokenizer.encode(prompt)
        ids = [int(token) for token in prompt]
        if not ids:
            raise KaiyuanError("the prompt is empty: it needs at least one token")
        for what, tokens in (("the prompt", ids), ("logit_bias", list(params.logit_bias))):
            wrong = next((token for token in tokens if not 0 <= token < self.config.vocab_size), None)
            if wrong is not None:
                raise KaiyuanError(f"{what} has token {wrong}, ids go from 0 to {self.config.vocab_size - 1}")
        if len(ids) >= self.context:
            raise KaiyuanError(f"the prompt has {len(ids)} tokens, the context is {self.context}")
        return ids

    def _matcher(self, params: SamplingParams) -> Any:
        if params.grammar is None:
            return None
        if self.tokenizer is None:
            raise KaiyuanError("this model has no tokenizer: its answers cannot be constrained by a grammar")
        if self._grammars is None:
            self._grammars = GrammarCompiler(self.tokenizer, self.config.vocab_size)
        return self._grammars.matcher(params.grammar)

    def _stops(self, params: SamplingParams) -> frozenset[int]:
        ends: tuple[int, ...] = ()
        if self.tokenizer is not None and not params.ignore_eos:
            ends = tuple(self.tokenizer.end_ids)
        return frozenset((*ends, *params.stop_token_ids))


def _settings(params: SamplingParams | Many[SamplingParams] | None, count: int) -> Many[SamplingParams]:
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * count
    if len(params) != count:
        raise KaiyuanError(f"{count} prompts with {len(params)} sampling parameters: give one, or one for each prompt")
    return params


def _completion(sequence: Sequence, text: str) -> Completion:
    return Completion(
        token_ids=sequence.answer,
        text=text,
        finish_reason=sequence.finish_reason or "abort",
        logprobs=[token.logprob for token in sequence.logprobs],
        tops=sequence.logprobs if sequence.params.logprobs else [],
        prompt_logprobs=sequence.prompt_logprobs,
        cached_tokens=sequence.cached_tokens,
    )


def _generator(params: SamplingParams, copy: int) -> torch.Generator:
    seed = secrets.randbits(62) if params.seed is None else params.seed + copy * 0x9E3779B97F4A7C1
    return torch.Generator().manual_seed(seed % 2**63)


def load(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    quantize: Scheme | None = None,
) -> tuple[Transformer, Any]:
    """The model in ``folder`` for inference, quantised if it is so stored or asked for, and its tokenizer or None."""
    from kaiyuan.checkpoint import load_model, stored_scheme
    from kaiyuan.tokenizer import has_tokenizer, load_tokenizer

    tokenizer = load_tokenizer(folder) if has_tokenizer(folder) else None
    model = load_model(folder, dtype=dtype, device=device).eval()
    scheme = quantize or stored_scheme(folder)
    if scheme is not None:
        quantize_model(model, scheme)
    if can_panel(model) and available():
        return panel_model(model), tokenizer
    return pack_model(model) if scheme is None and can_pack(model) else model, tokenizer

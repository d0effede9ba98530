"""Decoding by kernels, end to end: the engine with them answers as it does without. Needs Triton, not a GPU."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton", reason="Triton is not installed (it exists for Linux only)")

from kaiyuan import ModelConfig, SamplingParams  # noqa: E402
from kaiyuan.errors import KaiyuanError  # noqa: E402
from kaiyuan.inference import Engine  # noqa: E402
from kaiyuan.inference.decode_layer import Unsupported  # noqa: E402
from kaiyuan.inference.decoding import BURST, Decoder  # noqa: E402
from kaiyuan.inference.kernels.choosing import Best  # noqa: E402
from kaiyuan.inference.page_tables import PageTables  # noqa: E402
from kaiyuan.model.quantization import quantize_model  # noqa: E402
from kaiyuan.model.transformer import Transformer  # noqa: E402

TINY = ModelConfig(
    vocab_size=61, hidden_size=16, num_layers=2, num_attention_heads=2, num_kv_heads=1, head_dim=8,
    intermediate_size=16, num_experts=4, max_position_embeddings=256, init_std=0.4,
)  # fmt: skip


def changed(**values: Any) -> ModelConfig:
    return ModelConfig(**(TINY.model_dump() | values))


PROMPTS = [[5, 9, 13], list(range(40)), [1]]
GREEDY = SamplingParams(temperature=0, max_tokens=11, ignore_eos=True)


def build(config: ModelConfig = TINY, quantize: str | None = None) -> Transformer:
    model = Transformer(config).to(DEVICE)
    model.init_weights(3)
    model.eval()
    return model if quantize is None else quantize_model(model, quantize)  # type: ignore[arg-type]


def with_kernels(model: Transformer, *, invariant: bool = False, **settings: Any) -> Engine:
    engine = Engine(model, cache_tokens=1024, **settings)
    decoder = Decoder(model, engine.cache, 64, engine.context, graphs=DEVICE == "cuda", invariant=invariant)
    decoder._how = decoder._how._replace(splits=2)  # the interpreter is slow
    engine.decoder = decoder
    engine.few_tokens = 0  # prompts by the model, as long ones are
    if invariant:
        engine._batch_invariant, engine._runner = True, decoder.runner()
    return engine


def without(model: Transformer, **settings: Any) -> Engine:
    engine = Engine(model, cache_tokens=1024, **settings)
    engine.decoder = None
    return engine


@pytest.fixture(scope="module")
def model() -> Iterator[Transformer]:
    yield build()


def same(found: list[Any], expected: list[Any], tolerance: float = 1e-4) -> None:
    for mine, other in zip(found, expected, strict=True):
        assert mine.token_ids == other.token_ids
        assert mine.finish_reason == other.finish_reason
        assert mine.logprobs == pytest.approx(other.logprobs, abs=tolerance)


@pytest.mark.parametrize(
    "config",
    [TINY, changed(top_k=2), changed(num_shared_experts=0, qk_norm=False, head_dim=12)],
)
def test_answers_are_those_of_the_model(config: ModelConfig) -> None:
    model = build(config)
    same(with_kernels(model).generate(PROMPTS, GREEDY), without(model).generate(PROMPTS, GREEDY))


@pytest.mark.parametrize("scheme", ["int8", "int4", "fp8"])
def test_with_coded_weights(scheme: str) -> None:
    if scheme == "fp8" and DEVICE == "cuda":
        pytest.skip("without the kernels a GPU codes activations as well, so the results differ")
    wide = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 8, "num_kv_heads": 2}  # groups of 64
    model = build(changed(**wide) if scheme == "int4" else TINY, quantize=scheme)
    prompts, params = PROMPTS[::2], replace(GREEDY, max_tokens=5)
    same(with_kernels(model).generate(prompts, params), without(model).generate(prompts, params), 1e-3)


@pytest.mark.parametrize("kv_dtype", ["int8", "float16"])
def test_with_a_smaller_cache(model: Transformer, kv_dtype: Any) -> None:
    expected = without(model, kv_dtype=kv_dtype).generate(PROMPTS, GREEDY)
    same(with_kernels(model, kv_dtype=kv_dtype).generate(PROMPTS, GREEDY), expected, 2e-2)


def test_sampling_penalties_and_top_logprobs_go_one_step_at_a_time(model: Transformer) -> None:
    settings = [
        SamplingParams(temperature=0.8, top_p=0.9, seed=4, max_tokens=9, ignore_eos=True),
        SamplingParams(temperature=0, logprobs=3, max_tokens=9, ignore_eos=True),
        SamplingParams(temperature=0, repetition_penalty=1.5, prompt_logprobs=True, max_tokens=9, ignore_eos=True),
    ]
    found, expected = (engine.generate(PROMPTS, settings) for engine in (with_kernels(model), without(model)))
    same(found, expected)
    assert [len(top.top) for top in found[1].tops] == [3] * 9
    assert len(found[0].token_ids) == 9


def test_ends_within_a_burst(model: Transformer) -> None:
    """By a token or by the number of tokens, a token before the end of a burst or after it."""
    whole = without(model).generate(PROMPTS, GREEDY)
    for even, odd in ((BURST - 1, BURST + 1), (BURST + 1, BURST - 1)):
        ends = [
            replace(GREEDY, max_tokens=odd) if number % 2 else replace(GREEDY, stop_token_ids=(answer.token_ids[even],))
            for number, answer in enumerate(whole)
        ]
        same(with_kernels(model).generate(PROMPTS, ends), without(model).generate(PROMPTS, ends))


def test_a_burst_leaves_what_the_prefix_cache_may_keep(model: Transformer) -> None:
    engine = with_kernels(model)
    first = engine.generate([[3] * 30], replace(GREEDY, max_tokens=30))[0]
    prompt = [3] * 30 + first.token_ids[:25]
    again = engine.generate([prompt], GREEDY)[0]
    assert again.cached_tokens == 32
    same([again], without(model).generate([prompt], GREEDY))


def test_few_pages_and_many_sequences(model: Transformer) -> None:
    """Sequences push each other out, come back on other pages, and take the slots of others."""
    prompts = [[number, 2] * 14 for number in range(5)]
    params = replace(GREEDY, max_tokens=9)
    engine = Engine(model, cache_tokens=32 * 6, max_num_seqs=4)
    engine.decoder = Decoder(model, engine.cache, 4, engine.context, graphs=DEVICE == "cuda")
    engine.decoder._how = engine.decoder._how._replace(splits=2)
    engine.few_tokens = 0
    found = engine.generate(prompts, params)
    assert engine.scheduler.counts.preemptions > 0
    assert engine.pool.used == 0
    same(found, without(model).generate(prompts, params))


def test_guesses_and_bursts_get_along(model: Transformer) -> None:
    engine = with_kernels(model, speculative_tokens=3)
    same(engine.generate(PROMPTS, GREEDY), without(model).generate(PROMPTS, GREEDY))


@pytest.mark.usefixtures("rows_apart")
def test_batch_invariant_logits_are_equal_to_the_bit(model: Transformer) -> None:
    """Alone or beside others, in one piece or in chunks, with or without a cached prefix."""
    params = replace(GREEDY, logprobs=5, max_tokens=2)
    prompts = [[5, 9, 13], list(range(34))]
    alone = [with_kernels(model, invariant=True).generate([prompt], params)[0] for prompt in prompts]
    together = with_kernels(model, invariant=True).generate(prompts, params)
    chunked = with_kernels(model, invariant=True, max_num_batched_tokens=17).generate(prompts, params)
    engine = with_kernels(model, invariant=True)
    engine.generate([prompts[1]], replace(params, max_tokens=1))
    cached = engine.generate(prompts, params)
    assert cached[1].cached_tokens == 32
    for others in (together, chunked, cached):
        assert [answer.tops for answer in others] == [answer.tops for answer in alone]
    same(alone, without(model).generate(prompts, params))


def test_batch_invariance_is_refused_where_it_cannot_be_had() -> None:
    if DEVICE == "cuda":
        pytest.skip("here it can be had")
    with pytest.raises(KaiyuanError, match="batch_invariant: it needs a GPU"):
        Engine(build(), batch_invariant=True)


def test_a_model_without_kernels_is_named() -> None:
    model = build()
    model.layers[1].attention.o_proj = torch.nn.Linear(16, 16, bias=False)
    engine = without(model)
    with pytest.raises(Unsupported, match="weights of a Linear in this form"):
        Decoder(model, engine.cache, 4, 64)


def test_weights_in_one_precision_that_compute_in_another_are_left_to_the_model(model: Transformer) -> None:
    mixed = Transformer(TINY, compute_dtype=torch.bfloat16).to(DEVICE)
    with pytest.raises(Unsupported, match=r"compute in torch\.bfloat16"):
        Decoder(mixed, without(model).cache, 4, 64)


def test_parameters_stay_those_that_an_optimiser_holds() -> None:
    model = build()
    before = dict(model.named_parameters())
    values = {name: parameter.detach().clone() for name, parameter in before.items()}
    with_kernels(model)
    after = dict(model.named_parameters())
    assert all(after[name] is parameter and parameter.requires_grad for name, parameter in before.items())
    assert all(torch.equal(after[name], value) for name, value in values.items())


SAMPLED = [
    SamplingParams(temperature=0.8, max_tokens=11, seed=1, ignore_eos=True),
    SamplingParams(temperature=1.2, top_k=7, top_p=0.7, max_tokens=13, seed=2, ignore_eos=True),
    SamplingParams(temperature=0, max_tokens=9, ignore_eos=True),
]


def test_bursts_are_sampled_as_single_steps_are(model: Transformer) -> None:
    """Each by its own parameters and generator, beside one that wants the likeliest."""
    engine = with_kernels(model)
    assert isinstance(engine.decoder, Decoder)
    steps: list[int] = []
    sample = engine.decoder.sample
    engine.decoder.sample = lambda plan, count: steps.append(count) or sample(plan, count)  # type: ignore[method-assign]
    same(engine.generate(PROMPTS, SAMPLED), without(model).generate(PROMPTS, SAMPLED))
    assert max(steps) == BURST


def test_prompts_in_chunks_beside_answers_under_way(model: Transformer) -> None:
    """The decoder computes the answers, the model the prompts, in the same step."""
    prompts = [*PROMPTS, list(range(50)), [2, 3]]
    params = [replace(GREEDY, max_tokens=count) for count in (14, 5, 9, 6, 12)]
    engine = with_kernels(model, max_num_batched_tokens=11, max_num_seqs=3)
    mixed = 0
    split = engine._split

    def counted(plan: list[Any]) -> tuple[list[Any], list[Any]]:
        nonlocal mixed
        decoding, rest = split(plan)
        mixed += bool(decoding and rest)
        return decoding, rest

    engine._split = counted  # type: ignore[method-assign]
    same(engine.generate(prompts, params), without(model).generate(prompts, params))
    assert mixed > 3
    assert engine.pool.used == 0


def test_short_prompts_and_guesses_go_through_the_decoder(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """In chunks, with and without a cached beginning, with log-probabilities of the prompt; in passes of a few rows."""
    some = replace(GREEDY, max_tokens=4)
    settings = [
        some,
        replace(some, prompt_logprobs=True),
        replace(some, max_tokens=2),
        replace(SAMPLED[0], max_tokens=4),
    ]
    prompts = [PROMPTS[0], PROMPTS[1][:35], PROMPTS[2], [*PROMPTS[1][:35], 7, 7, 7]]
    engine = with_kernels(model, max_num_batched_tokens=20, max_num_seqs=3, speculative_tokens=2)
    assert isinstance(engine.decoder, Decoder)
    engine.few_tokens, engine.decoder._widest = 20, 8
    monkeypatch.setattr(engine, "_runner", None)  # the model computes nothing itself
    found, expected = engine.generate(prompts, settings), without(model).generate(prompts, settings)
    same(found, expected)
    for one, other in zip(found[1].prompt_logprobs, expected[1].prompt_logprobs, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
    assert engine.pool.used == 0


def test_long_prompts_are_left_to_the_model(model: Transformer) -> None:
    engine = with_kernels(model)
    engine.few_tokens = 39
    asked = []
    run = engine._runner.run
    engine._runner.run = lambda plan: asked.append(sum(len(work.tokens) for work in plan)) or run(plan)  # type: ignore[method-assign]
    engine.generate([PROMPTS[1]], GREEDY)
    engine.generate([PROMPTS[0]], GREEDY)
    assert asked == [40]


def test_tables_follow_the_pages(model: Transformer) -> None:
    engine = without(model)
    tables = PageTables(2, 4, torch.device(DEVICE))
    first, second, third = (engine.prepare([1, 2], GREEDY)[0] for _ in range(3))
    first.blocks, second.blocks, third.blocks = [3, 4], [9], [7, 8, 6]

    def rows(*sequences: Any) -> list[list[int]]:
        slots = tables.slots(sequences)
        return [tables.tables[slots[each], : len(each.blocks)].tolist() for each in sequences]

    assert rows(first, second) == [[3, 4], [9]]
    first.blocks.append(1)
    assert rows(second, first) == [[9], [3, 4, 1]]
    first.blocks = [5]
    assert rows(first) == [[5]]
    assert rows(third, first) == [[7, 8, 6], [5]]
    assert rows(second, third) == [[9], [7, 8, 6]]
    second.finish_reason = "stop"  # an ended one makes room first
    assert rows(first) == [[5]]
    held = dict(tables._rows)
    assert second not in held and third in held


def test_what_a_graph_writes_into_lives_as_long_as_its_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph holds addresses, not tensors: what it writes to must not go back to the allocator."""
    made: list[weakref.ref[torch.Tensor]] = []
    room = Best.room

    def watched(*sizes: Any) -> Best:
        best = room(*sizes)
        made.extend(map(weakref.ref, best))
        return best

    def captured(_: Decoder, run: Callable[[], None]) -> Callable[[], None]:
        run()
        return lambda: None  # as a graph's replay: nothing of ``run`` is kept

    monkeypatch.setattr(Best, "room", watched)
    monkeypatch.setattr(Decoder, "_captured", captured)
    model = build()
    decoder = Decoder(model, Engine(model, cache_tokens=64).cache, 4, 64, graphs=True)
    decoder._program(1, "choose")
    gc.collect()
    assert len(made) == 3
    assert all(tensor() is not None for tensor in made)

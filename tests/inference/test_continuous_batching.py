"""Continuous batching against full forward passes: whatever is scheduled how, the numbers stay the same."""

from __future__ import annotations

from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import TINY, build

from kaiyuan.errors import KaiyuanError
from kaiyuan.inference import Completion, Engine, SamplingParams
from kaiyuan.inference.engine import PAGE
from kaiyuan.inference.native.library import available
from kaiyuan.inference.native.panels import panel_model
from kaiyuan.model.transformer import Transformer

CONFIG = TINY.replace(max_position_embeddings=256)
PREFIX = [(7 * place + 3) % 48 for place in range(200)]


REFERENCE = build(CONFIG)


@pytest.fixture(scope="module", params=["torch", "native"])
def model(request: pytest.FixtureRequest) -> Transformer:
    """What the engine computes with: PyTorch, or the library of its own where there is a compiler."""
    if request.param == "torch":
        return build(CONFIG)
    if not available():
        pytest.skip("there is no C++ compiler")
    return panel_model(build(CONFIG))


def expected_logprobs(prompt: list[int], answer: list[int]) -> list[float]:
    with torch.no_grad():
        scores = REFERENCE(torch.tensor([prompt + answer]))[0].log_softmax(-1)
    return [float(scores[len(prompt) - 1 + place, token]) for place, token in enumerate(answer)]


def check(prompt: list[int], found: Completion) -> None:
    assert found.logprobs == pytest.approx(expected_logprobs(prompt, found.token_ids), abs=1e-4)


requests = st.lists(
    st.tuples(st.integers(0, 150), st.lists(st.integers(0, 47), min_size=1, max_size=30), st.integers(1, 40)),
    min_size=1,
    max_size=7,
)


@given(
    requests=requests,
    budget=st.integers(1, 120),
    pages=st.integers(8, 14),
    most=st.integers(1, 7),
    prefix_cache=st.booleans(),
    ahead=st.sampled_from([0, 3]),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_any_schedule_gives_what_a_full_pass_gives(
    model: Transformer, requests: list, budget: int, pages: int, most: int, prefix_cache: bool, ahead: int, seed: int
) -> None:
    """Chunks of any size, too little room (pre-emption), shared prefixes, guesses, and neighbours that are aborted."""
    prompts = [[*PREFIX[:shared], *tail] for shared, tail, _ in requests]
    engine = Engine(
        model, cache_tokens=pages * PAGE, max_num_batched_tokens=budget, max_num_seqs=most,
        prefix_cache=prefix_cache, speculative_tokens=ahead,
    )  # fmt: skip
    params = [SamplingParams(temperature=1.3, max_tokens=count, seed=seed) for *_, count in requests]
    numbers = [engine.add(prompt, setting) for prompt, setting in zip(prompts, params, strict=True)]
    doomed = engine.add([5] * 40, SamplingParams(max_tokens=99, seed=1))
    tokens: dict[int, list] = {number: [] for number in numbers}
    reasons, rng = {}, Random(seed)
    for _ in range(20_000):
        if not any(number in tokens for number in engine._requests):
            break
        if rng.random() < 0.1:
            engine.abort(doomed)
        for number, piece in engine.step():
            tokens.get(number, []).extend(piece.tokens)
            if piece.finish_reason:
                reasons[number] = piece.finish_reason
    engine.abort(doomed)
    for prompt, number, setting in zip(prompts, numbers, params, strict=True):
        ids = [token.token_id for token in tokens[number]]
        assert len(ids) == setting.max_tokens
        assert reasons[number] == "length"
        found = [token.logprob for token in tokens[number]]
        assert found == pytest.approx(expected_logprobs(prompt, ids), abs=1e-4)
        if pages * PAGE >= 256:
            assert ids == Engine(model).generate([prompt], setting)[0].token_ids
    assert engine.pool.used == 0, "no page is leaked"
    assert len(engine) == len(engine.scheduler) == 0


def test_too_little_room_leads_to_preemption_and_the_same_answers(model: Transformer) -> None:
    prompts = [[place + 1] * 60 for place in range(4)]
    params = SamplingParams(temperature=0, max_tokens=60)
    tight = Engine(model, cache_tokens=8 * PAGE)
    found = tight.generate(prompts, params)
    assert tight.scheduler.counts.preemptions > 0
    roomy = Engine(model)
    expected = roomy.generate(prompts, params)
    assert [completion.token_ids for completion in found] == [completion.token_ids for completion in expected]
    for prompt, completion in zip(prompts, found, strict=True):
        check(prompt, completion)
    assert roomy.scheduler.counts.preemptions == 0


def test_a_known_prefix_is_not_computed_again(model: Transformer) -> None:
    engine, params = Engine(model), SamplingParams(temperature=0, max_tokens=5)
    first = engine.generate([PREFIX[:100]], params)[0]
    again = engine.generate([PREFIX[:100], [*PREFIX[:70], 1, 2]], params)
    assert (first.cached_tokens, [found.cached_tokens for found in again]) == (0, [96, 64])
    assert again[0].token_ids == first.token_ids
    check([*PREFIX[:70], 1, 2], again[1])
    engine.add(PREFIX[:100], params, salt="another tenant")
    assert {piece.cached_tokens for _ in range(5) for _, piece in engine.step()} == {0}
    exactly = engine.generate([PREFIX[:96]], params)[0]
    assert exactly.cached_tokens == 64, "at least one token is computed, for its logits"


def test_completions_of_one_prompt_share_its_pages(model: Transformer) -> None:
    engine = Engine(model)
    found = engine.generate([PREFIX[:130]], SamplingParams(temperature=1.5, max_tokens=3, n=4, seed=3))
    assert [completion.cached_tokens for completion in found] == [0, 128, 128, 128]
    for completion in found:
        check(PREFIX[:130], completion)


def test_pages_of_finished_requests_are_reused_oldest_first(model: Transformer) -> None:
    engine, params = Engine(model, cache_tokens=8 * PAGE), SamplingParams(temperature=0, max_tokens=2)
    for start in (1, 2, 3, 4, 5):
        engine.generate([[start] * (2 * PAGE)], params)
    assert engine.generate([[5] * (2 * PAGE)], params)[0].cached_tokens == PAGE
    assert engine.generate([[1] * (2 * PAGE)], params)[0].cached_tokens == 0


@pytest.mark.parametrize("ahead", [1, 4, 10])
def test_guessing_ahead_changes_the_steps_and_not_the_answer(model: Transformer, ahead: int) -> None:
    for params in (
        SamplingParams(temperature=0, max_tokens=60),
        SamplingParams(temperature=0.3, max_tokens=60, seed=4),
    ):
        plain, guessing = Engine(model), Engine(model, speculative_tokens=ahead)
        prompts = [[1, 2, 3, 4] * 6, [9]]
        expected, found = plain.generate(prompts, params), guessing.generate(prompts, params)
        assert [completion.token_ids for completion in found] == [completion.token_ids for completion in expected]
        for prompt, completion in zip(prompts, found, strict=True):
            check(prompt, completion)
    engine, steps = Engine(model, speculative_tokens=4), 0
    greedy = Engine(model).generate([[1, 2]], SamplingParams(temperature=0, max_tokens=40))[0].token_ids
    engine.add([1, 2, *greedy, 1, 2], SamplingParams(temperature=0, max_tokens=40))
    while len(engine):
        engine.step()
        steps += 1
    assert steps < 40, "a greedy answer that repeats itself takes fewer steps than tokens"


@pytest.mark.parametrize(("kv_dtype", "worst"), [("bfloat16", 0.03), ("fp8", 0.15), ("int8", 0.03)])
def test_a_smaller_cache_dtype_costs_little(model: Transformer, kv_dtype: str, worst: float) -> None:
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=True)
    exact = Engine(model).generate([PREFIX], params)[0].prompt_logprobs
    rough_engine = Engine(model, kv_dtype=kv_dtype, max_num_batched_tokens=17)  # type: ignore[arg-type]
    rough = rough_engine.generate([PREFIX], params)[0].prompt_logprobs
    off = torch.tensor([a.logprob - b.logprob for a, b in zip(exact, rough, strict=True)]).abs()
    assert 0 < float(off.mean()) < worst
    assert rough_engine.cache.nbytes < Engine(model).cache.nbytes / 1.5


@pytest.mark.parametrize("budget", [7, 2048])
def test_log_probabilities_of_the_prompt_and_the_most_likely_tokens(model: Transformer, budget: int) -> None:
    prompt = PREFIX[:40]
    params = SamplingParams(temperature=0, max_tokens=3, prompt_logprobs=True, logprobs=2)
    engine = Engine(model, max_num_batched_tokens=budget)
    engine.generate([prompt], SamplingParams(max_tokens=1))  # what it leaves in the prefix cache must not be used
    found = engine.generate([prompt], params)[0]
    with torch.no_grad():
        scores = REFERENCE(torch.tensor([prompt + found.token_ids]))[0].log_softmax(-1)
    assert [token.token_id for token in found.prompt_logprobs] == prompt[1:]
    assert [token.token_id for token in found.tops] == found.token_ids
    for place, token in enumerate([*found.prompt_logprobs, *found.tops]):
        best = scores[place].topk(2)
        assert token.logprob == pytest.approx(float(scores[place, token.token_id]), abs=1e-4)
        assert [chosen for chosen, _ in token.top] == best.indices.tolist()
        assert [logprob for _, logprob in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_a_prompt_that_the_cache_cannot_hold_is_refused(model: Transformer) -> None:
    engine = Engine(model, cache_tokens=2 * PAGE)
    with pytest.raises(KaiyuanError, match="the prompt has 64 tokens, the context is 64"):
        engine.generate([[1] * 64])
    assert len(engine.generate([[1] * 60], SamplingParams(temperature=0, max_tokens=50))[0].token_ids) == 4
    for setting in ("max_num_seqs", "max_num_batched_tokens"):
        with pytest.raises(KaiyuanError, match=f"{setting}: 0 is under 1"):
            Engine(model, **{setting: 0})

"""The engine where requests differ: limits, ends, seeds, log-probabilities, memory, and prompts that cannot be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import TINY, build

from kaiyuan.errors import KaiyuanError
from kaiyuan.inference import Completion, Engine, SamplingParams
from kaiyuan.model.transformer import Transformer

CONFIG = TINY.replace(max_position_embeddings=32)
PROMPTS = [[5], [7, 8, 9], list(range(20)), [1, 2], [3] * 11]


@pytest.fixture(scope="module")
def model() -> Transformer:
    return build(CONFIG)


def greedy(tokens: int, **more: Any) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=tokens, **more)


def check_logprobs(model: Transformer, prompt: list[int], found: Completion) -> None:
    """Each log-probability is that of a full pass over all before it."""
    with torch.no_grad():
        scores = model(torch.tensor([prompt + found.token_ids]))[0].log_softmax(-1)
    expected = [float(scores[len(prompt) - 1 + place, token]) for place, token in enumerate(found.token_ids)]
    assert found.logprobs == pytest.approx(expected, abs=1e-4)


def test_requests_of_one_batch_keep_their_own_limits(model: Transformer) -> None:
    limits = [1, 9, 3, 30, 2]
    found = Engine(model).generate(PROMPTS, [greedy(limit) for limit in limits])
    assert [len(completion.token_ids) for completion in found] == [1, 9, 3, 30, 2]
    for prompt, limit, completion in zip(PROMPTS, limits, found, strict=True):
        assert completion.token_ids == Engine(model).generate([prompt], greedy(limit))[0].token_ids
        check_logprobs(model, prompt, completion)


@pytest.mark.parametrize("max_num_seqs", [1, 2, 5, 64])
def test_the_size_of_batches_changes_nothing(model: Transformer, max_num_seqs: int) -> None:
    params = SamplingParams(temperature=0.9, top_p=0.95, max_tokens=6, seed=3, n=2)
    expected = [completion.token_ids for completion in Engine(model).generate(PROMPTS, params)]
    found = Engine(model, max_num_seqs=max_num_seqs).generate(PROMPTS, params)
    assert [completion.token_ids for completion in found] == expected


def test_samples_report_the_models_own_log_probabilities(model: Transformer) -> None:
    """At temperature 1 and without restrictions, whatever the sample was drawn with."""
    params = SamplingParams(temperature=3.0, top_k=30, top_p=0.9, max_tokens=8, seed=1)
    for prompt, completion in zip(PROMPTS, Engine(model).generate(PROMPTS, params), strict=True):
        check_logprobs(model, prompt, completion)


def test_completions_of_one_prompt_are_next_to_each_other_and_reproducible(model: Transformer) -> None:
    params = SamplingParams(temperature=1.5, max_tokens=5, seed=8, n=4)
    found = [completion.token_ids for completion in Engine(model).generate([[1, 2], [9]], params)]
    assert len(found) == 8
    assert len({tuple(tokens) for tokens in found[:4]}) == 4
    again = Engine(model).generate([[9]], params)
    assert [completion.token_ids for completion in again] == found[4:]
    same = Engine(model).generate([[9]], greedy(5, n=3))
    assert same[0].token_ids == same[1].token_ids == same[2].token_ids


def test_without_a_seed_samples_differ_and_the_global_generator_does_not_decide(model: Transformer) -> None:
    params, drawn = SamplingParams(temperature=2.0, max_tokens=8), set()
    for _ in range(3):
        torch.manual_seed(0)
        drawn.add(tuple(Engine(model).generate([[1]], params)[0].token_ids))
    assert len(drawn) == 3


def test_an_end_token_ends_only_its_own_request(model: Transformer) -> None:
    free = [completion.token_ids for completion in Engine(model).generate(PROMPTS, greedy(8))]
    stop = free[1][2]
    found = Engine(model).generate(PROMPTS, greedy(8, stop_token_ids=(stop,)))
    for tokens, completion in zip(free, found, strict=True):
        cut = tokens.index(stop) if stop in tokens else len(tokens)
        assert completion.token_ids == tokens[:cut]
        assert len(completion.logprobs) == cut
        assert completion.finish_reason == ("stop" if stop in tokens else "length")


def test_an_end_token_at_once_gives_an_empty_answer(model: Transformer) -> None:
    first = Engine(model).generate([[4]], greedy(1))[0].token_ids[0]
    found = Engine(model).generate([[4]], greedy(5, stop_token_ids=(first,)))[0]
    assert (found.token_ids, found.logprobs, found.finish_reason) == ([], [], "stop")
    (piece,) = Engine(model).stream([4], greedy(5, stop_token_ids=(first,)))
    assert (piece.tokens, piece.finish_reason) == ((), "stop")


@pytest.mark.parametrize(("length", "room"), [(1, 31), (20, 12), (30, 2), (31, 1)])
def test_the_context_is_filled_to_its_last_token_and_no_further(model: Transformer, length: int, room: int) -> None:
    prompt = [(3 * place) % 48 for place in range(length)]
    found = Engine(model).generate([prompt, [1]], greedy(100))
    assert len(found[0].token_ids) == room
    assert [completion.finish_reason for completion in found] == ["length", "length"]
    check_logprobs(model, prompt, found[0])
    exactly = Engine(model).generate([prompt], greedy(room))[0]
    assert exactly.token_ids == found[0].token_ids


def test_the_cache_really_allocated_is_half_of_one_without_sharing(model: Transformer) -> None:
    def allocated(engine: Engine) -> int:
        stores = [*engine.cache.keys.values(), *engine.cache.values.values()]
        return sum(store.data.untyped_storage().nbytes() for store in stores)

    shared = allocated(Engine(model, cache_tokens=640))
    assert shared == 640 * CONFIG.kv_bytes_per_token(4)
    unshared = build(CONFIG.replace(cla_share_factor=1))
    assert allocated(Engine(unshared, cache_tokens=640)) == 2 * shared
    assert 2 * allocated(Engine(model, cache_tokens=640, kv_dtype="bfloat16")) == shared
    model.compute_dtype = torch.bfloat16
    halved = allocated(Engine(model, cache_tokens=640))
    model.compute_dtype = None
    assert 2 * halved == shared


def test_streams_equal_batches_and_may_be_left_early(model: Transformer) -> None:
    params = SamplingParams(temperature=1.2, max_tokens=10, seed=6)
    expected = Engine(model).generate([[1, 2, 3]], params)[0].token_ids
    stream = Engine(model).stream([1, 2, 3], params)
    assert [next(stream).tokens[0].token_id for _ in range(2)] == expected[:2]
    assert not torch.is_inference_mode_enabled(), "a stream waiting for its reader leaves the reader's mode alone"
    stream.close()
    pieces = list(Engine(model).stream([1, 2, 3], params))
    assert [token.token_id for piece in pieces for token in piece.tokens] == expected
    assert [piece.finish_reason for piece in pieces] == [None] * 9 + ["length"]


def test_a_model_can_be_trained_after_it_generated(model: Transformer) -> None:
    made = build(CONFIG)
    Engine(made).generate([[1, 2]], greedy(2))
    made(torch.tensor([[1, 2, 3]])).sum().backward()
    assert all(parameter.grad is not None for name, parameter in made.named_parameters() if "attention" in name)


def test_nothing_is_kept_for_gradients(model: Transformer) -> None:
    features = []
    hook = model.norm.register_forward_hook(lambda _module, _inputs, output: features.append(output))
    Engine(model).generate(PROMPTS, greedy(3))
    hook.remove()
    assert len(features) == 3
    assert not any(output.requires_grad for output in features)


def test_nothing_asked_nothing_done(model: Transformer) -> None:
    assert Engine(model).generate([]) == []


@pytest.mark.parametrize(
    ("prompts", "params", "message"),
    [
        ("hello", None, "put a single one in brackets"),
        ([1, 2, 3], None, "put a single one in brackets"),
        ([[1], []], None, "the prompt is empty: it needs at least one token"),
        ([[1], [47, 48]], None, "the prompt has token 48, ids go from 0 to 47"),
        ([[5, -2]], None, "the prompt has token -2, ids go from 0 to 47"),
        ([[1] * 32], None, "the prompt has 32 tokens, the context is 32"),
        (["hello"], None, "this model has no tokenizer: give prompts as lists of token ids"),
        ([[1], [2]], [SamplingParams()], "2 prompts with 1 sampling parameters: give one, or one for each prompt"),
    ],
)
def test_what_cannot_be_generated_is_refused_in_one_line(
    model: Transformer, prompts: Any, params: Any, message: str
) -> None:
    with pytest.raises(KaiyuanError) as caught:
        Engine(model).generate(prompts, params)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": "fp7"}, "quantize 'fp7': there are int8, int4, fp8"),
        ({"kv_dtype": "half"}, "kv_dtype 'half': there are auto, float32, bfloat16, float16, fp8, int8"),
        ({"max_num_seqs": 0}, "max_num_seqs: 0 is under 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(model: Transformer, options: Any, message: str) -> None:
    with pytest.raises(KaiyuanError) as caught:
        Engine(model, **options)
    assert str(caught.value) == message

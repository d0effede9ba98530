"""The C++ library against PyTorch and float64: products in every format, steps in every cache, and what happens without
a compiler.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import TINY, build

from kaiyuan.inference import Engine, SamplingParams
from kaiyuan.inference.native import library as native
from kaiyuan.inference.native import panels as panels_module
from kaiyuan.inference.native.memory import Arena
from kaiyuan.inference.native.panels import Panels, by_turns, can_panel, in_turn, panel_model
from kaiyuan.inference.native.runner import NativeRunner
from kaiyuan.model.config import ModelConfig
from kaiyuan.model.quantization import dequantize, quantize, quantize_model
from kaiyuan.model.transformer import Transformer

pytestmark = pytest.mark.skipif(not native.available(), reason="there is no C++ compiler")

AVERAGE = ("-march=x86-64-v3",)
"""A processor of ten years ago: without matrix units and bfloat16, so that the plain code is what is tested."""
WIDE = TINY.replace(hidden_size=64, num_kv_heads=1, head_dim=24, intermediate_size=72, num_experts=6, top_k=2)
ODD = TINY.replace(hidden_size=36, head_dim=12, num_shared_experts=0, qk_norm=False, tie_word_embeddings=False)
EIGHTY = TINY.replace(head_dim=80, num_attention_heads=6)
CONFIGS = {"tiny": TINY, "wide": WIDE, "odd": ODD, "eighty": EIGHTY}
ERRORS = {"float32": 1e-6, "bfloat16": 4e-3, "int8": 2e-4, "int4": 5e-3}
"""Of a product, relative: what rounding activations to bfloat16 or 15 bits costs, with room."""


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def coded(weight: torch.Tensor, kind: str) -> tuple[Panels, torch.Tensor]:
    """``weight`` in panels, and as what it is worth there."""
    if kind in ("int8", "int4"):
        codes, scale = quantize(weight, kind)  # type: ignore[arg-type]
        return Panels(Arena(), codes, scale), dequantize(codes, scale)
    weight = weight.to(getattr(torch, kind))
    return Panels(Arena(), weight), weight.float()


@pytest.fixture(params=["this processor", "an average one"])
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which code is tested: that for this machine, or that for any."""
    if request.param != "this processor":
        try:
            average = native.library(AVERAGE)
        except native.Unavailable as error:
            pytest.skip(f"no library for x86-64-v3: {error}")
        monkeypatch.setattr(panels_module, "library", lambda: average)
        monkeypatch.setattr("kaiyuan.inference.native.runner.library", lambda: average)
    return str(request.param)


@pytest.mark.parametrize("kind", list(ERRORS))
@pytest.mark.parametrize(("outs", "ins"), [(48, 64), (33, 192), (96, 320)])
def test_products_equal_those_in_float64(processor: str, kind: str, outs: int, ins: int) -> None:
    panels, worth = coded(numbers(outs, ins), kind)
    for rows in (1, 2, 3, 5, 8, 13, 16, 17, 33, 300):
        x = numbers(rows, ins, seed=rows)
        expected = x.double() @ worth.double().T
        assert float((panels(x) - expected).norm() / expected.norm()) < ERRORS[kind], f"{rows} rows"


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize(("outs", "ins"), [(5, 3), (31, 17), (64, 100)])
def test_products_of_odd_sizes(processor: str, kind: str, outs: int, ins: int) -> None:
    panels, worth = coded(numbers(outs, ins), kind)
    for rows in (1, 7, 20):
        x = numbers(rows, ins, seed=rows)
        expected = x.double() @ worth.double().T
        assert float((panels(x) - expected).norm() / expected.norm()) < ERRORS[kind]


def test_a_row_of_zeros_and_one_with_an_outlier() -> None:
    panels, worth = coded(numbers(32, 64), "int8")
    x = numbers(2, 64)
    x[0], x[1, 5] = 0, 1000.0
    found = panels(x)
    assert found[0].eq(0).all()
    torch.testing.assert_close(found[1], x[1] @ worth.T, rtol=1e-3, atol=1.0)


def test_gates_by_turns_and_back() -> None:
    gate_up = numbers(2 * 20, 3)
    turned = by_turns(gate_up)
    assert turned.shape == (64, 3)
    assert torch.equal(in_turn(turned.t().contiguous(), 20), gate_up.t())


def pair(config: ModelConfig, dtype: torch.dtype, scheme: str | None = None) -> tuple[Transformer, Transformer]:
    """The same model for PyTorch and for the library."""
    models = []
    for _ in range(2):
        model = build(config)
        if scheme is not None:
            quantize_model(model, scheme)  # type: ignore[arg-type]
        routers = [block.moe.router.weight.data.clone() for block in model.layers]
        model.to(dtype)
        for block, router in zip(model.layers, routers, strict=True):
            block.moe.router.weight.data = router
        models.append(model)
    return models[0], panel_model(models[1])


def prompts(count: int = 3) -> list[list[int]]:
    return [[(7 * place + 3 * row) % 48 for place in range(length)] for row, length in enumerate((70, 5, 33)[:count])]


def answers(model: Transformer, **settings: Any) -> list[Any]:
    engine = Engine(model, cache_tokens=512, **settings)
    assert isinstance(engine.decoder, NativeRunner) == (model.packed_head is not None)
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, prompt_logprobs=True)
    return engine.generate(prompts(), params)


def differences(found: list[Any], expected: list[Any]) -> Iterator[float]:
    for mine, other in zip(found, expected, strict=True):
        for one, two in zip(mine.prompt_logprobs, other.prompt_logprobs, strict=True):
            yield abs(one.logprob - two.logprob)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("kv_dtype", ["auto", "float16", "fp8", "int8"])
def test_every_cache_gives_what_it_gives_in_pytorch(processor: str, config: ModelConfig, kv_dtype: str) -> None:
    """To the last rounding of a code: that may fall the other way."""
    torch_model, native_model = pair(config, torch.float32)
    found, expected = answers(native_model, kv_dtype=kv_dtype), answers(torch_model, kv_dtype=kv_dtype)
    assert max(differences(found, expected)) < (1e-4 if kv_dtype == "auto" else 0.02)
    if kv_dtype == "auto":
        assert [one.token_ids for one in found] == [one.token_ids for one in expected]
        for mine, other in zip(found, expected, strict=True):
            assert mine.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_coded_weights_give_what_they_give_in_pytorch(processor: str, scheme: str) -> None:
    config = WIDE.replace(intermediate_size=64, head_dim=16)
    torch_model, native_model = pair(config, torch.float32, scheme)
    errors = list(differences(answers(native_model), answers(torch_model)))
    assert sum(errors) / len(errors) < (0.002 if scheme == "int8" else 0.02)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_bfloat16_is_as_near_to_float32_as_pytorch_is(processor: str, config: ModelConfig) -> None:
    exact = answers(pair(config, torch.float32)[0])
    torch_model, native_model = pair(config, torch.bfloat16)
    ours, theirs = list(differences(answers(native_model), exact)), list(differences(answers(torch_model), exact))
    assert sum(ours) < 1.5 * sum(theirs) + 0.01 * len(ours)


def test_long_prompts_in_bfloat16_in_any_chunks() -> None:
    """Where a matrix unit does attention: blocks of 64 keys, partly visible, and a prefix in the cache."""
    config = TINY.replace(max_position_embeddings=1024, head_dim=40)
    exact, (_, native_model) = build(config), pair(config, torch.bfloat16)
    prompt = torch.randint(48, (1, 500), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        scores = exact(prompt)[0].log_softmax(-1)
    expected = scores[:-1].gather(1, prompt[0, 1:, None])[:, 0]
    for chunk in (500, 190, 64, 7):
        engine = Engine(native_model, max_num_batched_tokens=chunk)
        params = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True, prompt_logprobs=True)
        (found,) = engine.generate(prompt.tolist(), params)
        logprobs = torch.tensor([token.logprob for token in found.prompt_logprobs])
        assert float((logprobs - expected).abs().mean()) < 0.05


def test_sampled_answers_and_guesses_are_those_of_pytorch() -> None:
    torch_model, native_model = pair(TINY, torch.float32)
    params = [SamplingParams(temperature=0.9, top_p=0.8, max_tokens=20, seed=seed) for seed in range(3)]
    for ahead in (0, 3):
        both = [
            Engine(model, cache_tokens=512, speculative_tokens=ahead).generate(prompts(), params)
            for model in (native_model, torch_model)
        ]
        assert [one.token_ids for one in both[0]] == [one.token_ids for one in both[1]]


def test_a_model_of_the_library_keeps_its_weights_once_and_computes_alone_too() -> None:
    torch_model, native_model = pair(WIDE, torch.float32)
    ids = torch.tensor(prompts()[:1])
    with torch.no_grad():
        torch.testing.assert_close(native_model(ids), torch_model(ids), rtol=1e-4, atol=1e-4)
    left = sum(parameter.numel() for parameter in native_model.layers.parameters())
    assert left < 0.1 * sum(parameter.numel() for parameter in torch_model.layers.parameters())


def test_what_the_library_does_not_know_is_left_to_pytorch() -> None:
    assert can_panel(build(TINY))
    assert not can_panel(build(TINY).to(torch.float16))
    assert not can_panel(quantize_model(build(TINY), "fp8"))


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A machine where the library was never built."""
    native.library.cache_clear()
    monkeypatch.setenv("KAIYUAN_CACHE", str(tmp_path))
    yield tmp_path / "native"
    native.library.cache_clear()


def test_no_compiler_a_broken_one_and_none_wanted(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAIYUAN_NATIVE", "0")
    with pytest.raises(native.Unavailable, match="KAIYUAN_NATIVE is 0"):
        native.library()
    monkeypatch.setenv("KAIYUAN_NATIVE", "1")
    monkeypatch.setenv("CXX", "/nowhere/g++")
    with pytest.raises(native.Unavailable, match="/nowhere/g\\+\\+ cannot be run: No such file"):
        native.library()
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(native.Unavailable, match="false cannot build it"):
        native.library()
    assert not list(fresh.iterdir()), "nothing half-built is left"
    assert not native.available()


@pytest.mark.slow
def test_it_is_built_once(fresh: Path) -> None:
    native.library()
    (built,) = fresh.iterdir()
    when = built.stat().st_mtime_ns
    native.library.cache_clear()
    native.library()
    assert [path.stat().st_mtime_ns for path in fresh.iterdir()] == [when]
    assert fresh.stat().st_mode & 0o077 == 0

"""vLLM with our plugin against our own engine: the same log-probabilities and answers, and twice the room for tokens.

vLLM runs in a process of its own.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers_folders import like_the_release
from vllm_models import LARGE, random_model

import kaiyuan

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (make test-vllm)"),
]
MODELS = {
    "large": LARGE,
    "unshared": LARGE.replace(cla_share_factor=1),
    "head of 80": LARGE.replace(hidden_size=160, num_attention_heads=4, num_kv_heads=1, head_dim=80),
    "v1": LARGE.replace(
        cla_share_factor=1, top_k=2, moe_intermediate_size=32, tie_word_embeddings=False, rope_alpha=None
    ),
    "own": LARGE.replace(
        cla_share_factor=3,
        top_k=(1, 2, 1, 3),
        num_experts=(4, 8, 2, 8),
        num_shared_experts=(1, 0, 2, 1),
        qk_norm=False,
        tie_word_embeddings=False,
    ),
}
KV_BYTES = 2**26
GREEDY = kaiyuan.SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=5, prompt_logprobs=True)
Job = dict[str, Any]


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 160, (length,), generator=generator).tolist() for length in (2, 33, 150)]


def vllm(*jobs: Job) -> list[dict[str, Any]]:
    """What vLLM does with each job, all in one process."""
    common = {"dtype": "float32", "prompts": prompts(), "max_tokens": GREEDY.max_tokens, "kv_bytes": KV_BYTES}
    script = Path(__file__).with_name("vllm_process.py")
    command = [sys.executable, str(script), json.dumps([{**common, **job} for job in jobs])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    results = [json.loads(line[len("RESULT ") :]) for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert len(results) == len(jobs), done.stderr[-3000:]
    return results


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    for name, config in MODELS.items():
        kaiyuan.save_model(random_model(config), root / name)
    return {name: root / name for name in MODELS}


@pytest.fixture(scope="module")
def results(folders: dict[str, Path]) -> dict[str, dict[str, Any]]:
    jobs: dict[str, Job] = {name: {"folder": str(folders[name])} for name in MODELS}
    jobs["bfloat16"] = {"folder": str(folders["head of 80"]), "dtype": "bfloat16"}
    jobs["chunks"] = {"folder": str(folders["large"]), "options": {"max_num_batched_tokens": 16}}
    jobs["compiled"] = {"folder": str(folders["large"]), "options": {"enforce_eager": False}}
    return dict(zip(jobs, vllm(*jobs.values()), strict=True))


def assert_same(found: dict[str, Any], folder: Path) -> None:
    """Equal to our engine in float32: every log-probability within 2e-4, every token of the answers."""
    expected = kaiyuan.Engine(folder).generate(prompts(), GREEDY)
    for ours, theirs in zip(expected, found["answers"], strict=True):
        assert theirs["prompt_logprobs"] == pytest.approx([item.logprob for item in ours.prompt_logprobs], abs=2e-4)
        assert theirs["token_ids"] == ours.token_ids
        assert theirs["logprobs"] == pytest.approx(ours.logprobs, abs=2e-4)


@pytest.mark.parametrize("name", MODELS)
def test_same_numbers_and_answers_as_our_engine(
    name: str, results: dict[str, dict[str, Any]], folders: dict[str, Path]
) -> None:
    assert_same(results[name], folders[name])


@pytest.mark.parametrize("way", ["chunks", "compiled"])
def test_same_numbers_in_chunks_and_compiled(
    way: str, results: dict[str, dict[str, Any]], folders: dict[str, Path]
) -> None:
    assert_same(results[way], folders["large"])


def test_tensor_parallel(folders: dict[str, Path]) -> None:
    """Two ranks: one key/value head each, and one that both hold where the model has only one."""
    names = ("large", "head of 80")
    for name in names:
        (found,) = vllm({"folder": str(folders[name]), "options": {"tensor_parallel_size": 2}})
        assert_same(found, folders[name])


def test_bfloat16_is_as_near_to_float32_as_our_engine(
    results: dict[str, dict[str, Any]], folders: dict[str, Path]
) -> None:
    exact = logprobs(kaiyuan.Engine(folders["head of 80"]))
    ours = logprobs(kaiyuan.Engine(folders["head of 80"], dtype=torch.bfloat16))
    theirs = torch.tensor([value for item in results["bfloat16"]["answers"] for value in item["prompt_logprobs"]])
    assert (theirs - exact).abs().median() < 2 * (ours - exact).abs().median()
    assert (theirs - exact).abs().median() < 0.05


def logprobs(engine: kaiyuan.Engine) -> torch.Tensor:
    return torch.tensor([item.logprob for made in engine.generate(prompts(), GREEDY) for item in made.prompt_logprobs])


def test_the_cache_holds_twice_as_many_tokens(results: dict[str, dict[str, Any]]) -> None:
    assert results["large"]["capacity"] == 2 * results["unshared"]["capacity"]
    assert results["large"]["capacity"] == KV_BYTES // LARGE.kv_bytes_per_token(4)
    assert results["own"]["capacity"] == KV_BYTES // MODELS["own"].kv_bytes_per_token(4)


def test_layers_read_the_cache_of_their_producer(results: dict[str, dict[str, Any]]) -> None:
    for name in ("large", "unshared", "own"):
        layers = [
            (f"model.layers.{layer.index}.self_attn.attn", f"model.layers.{layer.producer}.self_attn.attn")
            for layer in MODELS[name].layers()
        ]
        assert results[name]["layers"] == {mine: None if mine == other else other for mine, other in layers}


def test_folders_that_do_not_fit_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    config = json.loads((folders["large"] / "config.json").read_text())
    tensors = load_file(folders["large"] / "model.safetensors")
    key = "model.layers.1.self_attn.key_layernorm.weight"
    broken = {
        "missing": ({name: tensor for name, tensor in tensors.items() if name != key}, config),
        "surplus": ({**tensors, "model.layers.1.self_attn.k_proj.weight": torch.ones(64, 128)}, config),
        "quantised": (tensors, {**config, "quantization_config": {"quant_method": "kaiyuan", "scheme": "int8"}}),
        "unknown": (tensors, {**config, "use_mla": True}),
    }
    for name, (stored, keys) in broken.items():
        (tmp_path / name).mkdir()
        save_file(stored, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text(json.dumps(keys))
    found = vllm(*({"folder": str(tmp_path / name)} for name in broken))
    errors = {name: one["error"] for name, one in zip(broken, found, strict=True)}
    assert f"{key}: missing" in errors["missing"]
    assert "model.layers.1.self_attn.k_proj.weight: surplus" in errors["surplus"]
    assert "kaiyuan convert" in errors["quantised"]
    assert "use_mla" in errors["unknown"]


def test_vllm_finds_the_plugin_by_itself() -> None:
    (found,) = entry_points(group="vllm.general_plugins", name="kaiyuan")
    from kaiyuan.integrations.vllm.plugin import register

    assert found.load() is register


@pytest.mark.parametrize("order", ["plugin first", "transformers first"])
def test_plugin_and_transformers_share_a_process(order: str, folders: dict[str, Path]) -> None:
    """Both register the same model types; whichever comes last, Auto classes and vLLM's config reader must work."""
    first, last = (
        "import kaiyuan.integrations.transformers",
        "from kaiyuan.integrations.vllm import plugin; plugin.register()",
    )
    if order == "plugin first":
        first, last = last, first
    code = f"""
{first}
{last}
import sys
from transformers import AutoConfig, AutoModelForCausalLM
from vllm.transformers_utils.config import get_config
for folder in sys.argv[1:]:
    config = get_config(folder, trust_remote_code=False)
    assert type(config) is type(AutoConfig.from_pretrained(folder)), type(config)
    model = AutoModelForCausalLM.from_pretrained(folder)
    print("FOUND", config.num_hidden_layers, config.num_key_value_heads, type(model).__name__)
"""
    names = ("large", "own")
    command = [sys.executable, "-c", code, *(str(folders[name]) for name in names)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    found = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert found == ["FOUND 4 2 HunYuanForCausalLM", "FOUND 4 2 KaiyuanForCausalLM"], done.stderr[-3000:]


def test_the_releases_tokenizer_needs_no_remote_code(tmp_path: Path) -> None:
    folder = like_the_release(tmp_path)
    code = """
import sys
from kaiyuan.integrations.vllm.plugin import register
register()
from vllm.tokenizers import get_tokenizer
print("FOUND", get_tokenizer(sys.argv[1], trust_remote_code=False).encode("hello"))
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=200)
    assert f"FOUND {kaiyuan.load_tokenizer(folder).encode('hello')}" in done.stdout, done.stderr[-3000:]

"""Traces and tables of where a step's time goes, and the share of a GPU's arithmetic that it uses."""

from __future__ import annotations

import ast
import gzip
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_process import CONFIG, SETTINGS, RandomTokens
from typer.testing import CliRunner

from kaiyuan import cli
from kaiyuan.model import transformer
from kaiyuan.model.transformer import Transformer
from kaiyuan.training import mfu
from kaiyuan.training.objective import language_model_loss
from kaiyuan.training.profiling import kind_of, table
from kaiyuan.training.trainer import Trainer


def test_a_profiled_run_leaves_a_trace_of_two_steps(tmp_path: Path) -> None:
    model = Transformer(CONFIG, torch.float32)
    model.init_weights()
    settings = replace(SETTINGS, steps=9, profile=True, checkpoint_every=100)
    Trainer("test", model, RandomTokens(), language_model_loss, settings, tmp_path).fit()
    with gzip.open(tmp_path / "profile" / "trace.json.gz") as stream:
        events = json.load(stream)["traceEvents"]
    assert (
        sum(event["name"].startswith("ProfilerStep") and event.get("cat") == "user_annotation" for event in events) == 2
    )
    assert any("addmm" in event["name"] or "aten::mm" in event["name"] for event in events)
    assert re.search(r"^products  .*\d+\.\d .*aten::mm", (tmp_path / "profile" / "kernels.txt").read_text(), re.M)


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("nvjet_sm90_tst_192x192_64x3_2x1_v_bz_coopB_NNN", "products"),
        ("_ZN7cutlass13device_kernel...GroupProblemShape...GemmUniversal", "grouped products"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16", "attention"),
        ("_adamw_update", "optimiser"),
        ("_adamw_coded", "optimiser"),
        ("_square_sum", "optimiser"),
        ("_fp8_rows", "codes in fp8"),
        ("_fp8_largest", "codes in fp8"),
        ("_fp8_matrices", "codes in fp8"),
        ("_grouped_product", "grouped products"),
        ("_route_choose", "routing"),
        ("_route_random_bits", "routing"),
        ("_dispatch_put", "routing"),
        ("_router_stats_sums", "routing"),
        ("_swiglu_backward", "SwiGLU"),
        ("_rope_norm_forward", "norms and RoPE"),
        ("_combine_rows", "rows to experts and back"),
        (
            "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<c10::BFloat16>>",
            "other elementwise",
        ),
    ],
)
def test_kernels_are_sorted_by_kind(kernel: str, kind: str) -> None:
    assert kind_of(kernel) == kind


def _launched(module: Path) -> set[str]:
    """The kernels of a module that it launches: jitted functions that are named elsewhere than in plain calls."""
    tree = ast.parse(module.read_text())
    jitted = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and any("triton.jit" in ast.unparse(one) for one in node.decorator_list)
    }
    plain = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return {
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in jitted and id(node) not in plain
    }


def test_every_kernel_of_training_has_a_kind() -> None:
    modules = sorted((Path(transformer.__file__).parent / "kernels").glob("*.py"))
    found = {name: kind_of(name) for module in modules for name in _launched(module)}
    assert {"_route_choose", "_route_recycle", "_dispatch_count", "_fp8_rows", "_adamw_coded"} <= found.keys()
    assert "_choose_tokens" not in found  # a part of a kernel
    assert [name for name, kind in found.items() if kind == "other elementwise"] == []


def test_the_table_adds_up() -> None:
    text = table({"nvjet_a": 6.0, "_swiglu_forward": 2.0, "nvjet_b": 1.0}, steps=2, step_ms=10.0)
    assert "products                          3.50   35.0%   3.0 nvjet_a; 0.5 nvjet_b" in text
    assert "SwiGLU                            1.00   10.0%" in text
    assert "no kernel (or overlapped)         5.50   55.0%" in text


def test_utilisation_is_model_flops_over_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    gpu = torch.device("cuda", 0)
    flops = CONFIG.flops(128).training
    assert mfu.mfu(CONFIG, 128, 1e9, gpu) == pytest.approx(1e9 * flops / 989e12)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card of tomorrow")
    assert mfu.mfu(CONFIG, 128, 1e9, gpu) is None


@pytest.mark.parametrize("command", ["run", "pretrain", "extend", "sft", "dpo"])
def test_the_commands_that_train_can_profile(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []
    monkeypatch.setattr(cli, "_execute", lambda *arguments: given.append(arguments[1]))
    for more in ([], ["--profile"], ["--profile", "--set", "a.b=1"]):
        assert CliRunner().invoke(cli.app, [command, "recipe.toml", *more]).exit_code == 0
    assert given == [[], ["run.profile=true"], ["a.b=1", "run.profile=true"]]

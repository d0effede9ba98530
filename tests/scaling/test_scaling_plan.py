"""``kaiyuan plan``: the numbers, the text, and bad input."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import pytest

from kaiyuan.checkpoint import write_config
from kaiyuan.cli import main
from kaiyuan.errors import ConfigError
from kaiyuan.model import presets
from kaiyuan.model.config import ModelConfig
from kaiyuan.scaling.law import PAPER_COST, PAPER_LAW
from kaiyuan.scaling.plan import describe_plan, plan

close = pytest.approx


def test_hunyuan_large() -> None:
    found = plan("hunyuan-large", gpus=2048, gpu_memory_gib=80, tflops=350, tokens=7e12, context=4096)
    assert found.parameters.total == close(388.7e9, rel=1e-3)
    assert found.parameters.active == close(51.3e9, rel=1e-3)
    assert found.exact_flops == found.flops.training * 7e12 == close(2.23e24, rel=0.01)
    assert found.days == close(2.226e24 / (2048 * 350e12) / 86400, rel=0.01)
    assert found.paper_flops == PAPER_COST.flops(found.parameters.active_without_embedding, 7e12)
    assert found.optimum == PAPER_LAW.optimum(found.paper_flops)
    assert (found.kv.ours, found.kv.mha) == (81_920, 1_638_400)
    assert not found.fits and found.least_gpus is None
    assert found.fits_recomputing and found.least_gpus_recomputing is not None
    fewest = found.least_gpus_recomputing
    assert plan("hunyuan-large", fewest).fits_recomputing and not plan("hunyuan-large", fewest - 1).fits_recomputing


def test_the_text_says_the_numbers() -> None:
    text = describe_plan("hunyuan-large", 2048, 80.0, 350.0, 7e12, 4096)
    for line in (
        r"in all +389B +51\.3B",
        r"gradients +724 MiB",
        r"layers recomputed .* yes +134",
        r"all activations kept .* no +none",
        r"exact count +3\.18e11 +2\.23e24 +35\.9 days",
        r"paper's 9\.59 N D \+ 2\.3e8 D +4\.84e11 +3\.39e24 +54\.8 days",
        r"this plan +50\.5B +7T",
        r"this model +80 KiB +320 MiB +2\.5 GiB +20 GiB +0\.05",
        r"MHA +1\.56 MiB +6\.25 GiB +50 GiB +400 GiB +1",
        r"bf16 +724 GiB",
        r"fp8 weights and cache +363 GiB +160 MiB",
    ):
        assert re.search(line, text), line
    assert text.isascii() and "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


@pytest.mark.parametrize("name", presets.names())
@pytest.mark.parametrize("gpus", [1, 64])
def test_every_preset_can_be_planned(name: str, gpus: int) -> None:
    text = describe_plan(name, gpus, 80.0, 350.0, 1e11, 8192)
    assert text.startswith(f"{name}: parameters") and "nan" not in text and "inf" not in text.split()


def test_extreme_but_possible_numbers() -> None:
    text = describe_plan("1m", 10_000_000, 0.1, 1e6, 1, 1_000_000_000)
    assert "max_position_embeddings is 4,096" in text
    text = describe_plan("hunyuan-large", 1, 1e6, 0.001, 1e18, 1)
    assert "years" in text and "one GPU" in text


def test_a_model_folder(tmp_path: Path) -> None:
    write_config(ModelConfig.preset("10m", vocab_size=5000), tmp_path)
    assert plan(str(tmp_path)).parameters == ModelConfig.preset("10m", vocab_size=5000).parameters()
    assert str(tmp_path) in describe_plan(str(tmp_path), 1, 24.0, 50.0, 1e9, 1024).splitlines()[0]


@pytest.mark.parametrize("model", ["nope", "no/such/folder", "a" * 5000, "\0", "[bold]x[/bold]", __file__])
def test_no_such_model(model: str) -> None:
    with pytest.raises(ConfigError, match=r"neither a model folder nor a preset \(hunyuan-large, .*1b"):
        plan(model)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: no such file"):
        plan(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json"):
        plan(tmp_path)


def test_all_bad_numbers_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        plan("1m", gpus=0, gpu_memory_gib=math.nan, tflops=math.inf, tokens=1e30, context=-5)
    for name in ("gpus: 0", "gpu_memory_gib: nan", "tflops: inf", "tokens: 1e+30", "context: -5"):
        assert f"{name} is not a number from" in str(error.value)


def test_emphasis_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "140")
    shown = describe_plan("1m", 1, 80.0, 350.0, 1e9, 1024)
    assert "\x1b[1m" in shown
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    plain = describe_plan("1m", 1, 80.0, 350.0, 1e9, 1024)
    assert [line.rstrip() for line in re.sub("\x1b\\[[0-9;]*m", "", shown).splitlines()] == plain.splitlines()


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as finished:
        main(["plan", "1b", "--gpus", "8", "--tokens", "1e11"])
    assert finished.value.code == 0 and "1b: parameters" in capsys.readouterr().out
    with pytest.raises(SystemExit) as failed:
        main(["plan", "nope"])
    printed = capsys.readouterr()
    assert failed.value.code == 1 and printed.out == "" and printed.err.startswith("kaiyuan: nope: neither")
    assert printed.err.count("\n") == 1

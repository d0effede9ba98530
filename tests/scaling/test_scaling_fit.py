"""``kaiyuan scale``: the shipped recipe, sweeps, plans, pictures, and bad recipes."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from kaiyuan.cli import main
from kaiyuan.errors import ConfigError, DataError, KaiyuanError
from kaiyuan.model.config import ModelConfig
from kaiyuan.scaling.fit import PlanSection, load_scale_recipe, plan_budget, run_scale
from kaiyuan.scaling.law import PAPER_BUDGETS, PAPER_COST, PAPER_LAW, TrainingCost
from kaiyuan.scaling.runs import read_runs
from kaiyuan.scaling.sweep import LADDER, sweep_plan
from kaiyuan.scaling.synthetic import synthetic_runs

close = pytest.approx
RECIPES = Path(__file__).parents[2] / "recipes"
LINE = '{{"active_parameters": {}, "tokens": {}, "loss": {}}}\n'


def recipe(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_shipped_table_is_the_synthetic_one() -> None:
    """Anyone can make it again: it is no measurement, and its name says so."""
    shipped, made = read_runs(RECIPES / "scale-synthetic.jsonl"), synthetic_runs()
    assert len(shipped) == len(made) == 63
    for one, other in zip(shipped, made, strict=True):
        assert one.active_parameters == round(other.active_parameters)
        assert one.tokens == round(other.tokens)
        assert one.loss == close(other.loss, abs=6e-5)
        assert one.flops == close(other.flops, rel=1e-5)


def test_the_shipped_recipe(tmp_path: Path) -> None:
    text = run_scale(RECIPES / "scale.toml", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fit.json", "plan.json", "scaling.svg"]
    found = read(tmp_path / "fit.json")
    alpha = found["law"]["parameters"]
    assert alpha["exponent"] == close(0.5305, abs=0.005)
    assert alpha["exponent_interval"][0] < 0.5305 < alpha["exponent_interval"][1]
    assert alpha["coefficient_interval"][0] < 5.9e-3 < alpha["coefficient_interval"][1]
    assert found["cost"]["per_parameter"] == close(9.59, rel=1e-3)
    assert found["cost"]["per_token"] == close(2.3e8, rel=1e-3)
    assert len(found["curves"]) == 9 and found["warnings"] == []
    for phrase in (
        "IsoFLOP curves",
        "alpha",
        "0.5305",
        "fitted isoFLOP law",
        "paper's law",
        str(tmp_path / "fit.json"),
    ):
        assert phrase in text


def test_a_plan_spends_its_budget(tmp_path: Path) -> None:
    run_scale(RECIPES / "scale.toml", tmp_path)
    best = read(tmp_path / "plan.json")
    assert best["flops"] == close(2048 * 30 * 86400 * 350e12) == best["minimum_flops"]
    fitted, parametric, paper = best["laws"]
    for law in (fitted, parametric):
        assert law["flops"] == close(best["flops"], rel=1e-6)
    assert paper["active_parameters"] == close(PAPER_LAW.parameters(best["flops"]))
    assert fitted["active_parameters"] == close(paper["active_parameters"], rel=0.1)
    low, high = fitted["active_parameters_interval"]
    assert low < paper["active_parameters"] < high and low < fitted["active_parameters"] < high
    assert fitted["tokens_interval"][0] < fitted["tokens"] < fitted["tokens_interval"][1]


def test_a_plan_alone_follows_the_paper(tmp_path: Path) -> None:
    text = run_scale(recipe(tmp_path, "[plan]\nflops = 3.11e24\n"), tmp_path / "out")
    assert "58.1B" in text and "5.64T" in text
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["plan.json"]


def test_a_batch_at_the_critical_size_halves_the_budget() -> None:
    best = plan_budget(PlanSection(flops=2e24, batch_over_critical=1.0), None)
    assert (best["flops"], best["minimum_flops"]) == (2e24, 1e24)
    assert best["laws"][0]["active_parameters"] == PAPER_LAW.parameters(1e24)


def test_the_folder_s_default_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_scale(recipe(tmp_path, "[plan]\nflops = 1e20\n"))
    assert (tmp_path / "runs" / "mine" / "plan.json").is_file()


def test_the_picture_is_an_svg_with_every_run(tmp_path: Path) -> None:
    run_scale(RECIPES / "scale.toml", tmp_path)
    root = ElementTree.parse(tmp_path / "scaling.svg").getroot()
    circles = root.findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == 63 + 9 + 9
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for circle in circles:
        assert 0 < float(circle.attrib["cx"]) < width and 0 < float(circle.attrib["cy"]) < height


def test_a_sweep_becomes_a_table(tmp_path: Path) -> None:
    """The runs listed, each with the loss it might reach, are a table that [scale] fits."""
    text = run_scale(recipe(tmp_path, "[sweep]\nbudgets = [5e18, 2e19, 9.5e19]\n"), tmp_path)
    assert "12 runs, 4.80e20 FLOPs" in text
    lines = [json.loads(line) for line in (tmp_path / "sweep.jsonl").read_text().splitlines()]
    for line in lines:
        line["loss"] = 1.7 + 160 / line["active_parameters"] ** 0.34 + 410 / line["tokens"] ** 0.28
    (tmp_path / "done.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run_scale(recipe(tmp_path, '[scale]\nruns = "done.jsonl"\n'), tmp_path / "out")
    found = read(tmp_path / "out" / "fit.json")
    assert [len(curve["runs"]) for curve in found["curves"]] == [4, 4, 4]
    assert found["parametric"]["size_exponent"] == close(0.34, abs=1e-3)


def test_sweeps_surround_the_best_size() -> None:
    runs = sweep_plan()
    assert {run.preset for run in runs} == set(LADDER) and {run.flops for run in runs} == set(PAPER_BUDGETS)
    for budget in PAPER_BUDGETS:
        curve = [run for run in runs if run.flops == budget]
        best = PAPER_LAW.parameters(budget)
        assert len(curve) >= 3 and curve[0].active_parameters < best < curve[-1].active_parameters
        for run in curve:
            config = ModelConfig.preset(run.preset)
            assert run.active_parameters == config.parameters().active_without_embedding
            assert PAPER_COST.flops(run.active_parameters, run.tokens) == close(budget)
            assert best / 10 <= run.active_parameters <= best * 10
    assert sweep_plan(cost=TrainingCost(6.0, 0.0))[0].tokens > runs[0].tokens


def test_sweeps_that_would_show_no_minimum() -> None:
    with pytest.raises(ConfigError) as error:
        sweep_plan([1e19, 1e24, 1e15])
    assert "1e+24 FLOPs: best near 3.18e+10" in str(error.value) and "none" in str(error.value)
    assert "1e+15" in str(error.value) and "1e+19" not in str(error.value)
    with pytest.raises(ConfigError, match="no preset 'huge'"):
        sweep_plan(sizes=["huge"])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "nothing to do"),
        ("x = 1", "x: no such setting"),
        ("[scale", "not valid TOML"),
        ("[scale]", "scale.runs: missing"),
        ("[scale]\nruns = 3", "scale.runs: 3 is not allowed"),
        ('[scale]\nruns = "a"\nbudgets = []', "the list is empty"),
        ('[scale]\nruns = "a"\nbudgets = [-1.0]', "-1.0 is not a number of FLOPs"),
        ('[scale]\nruns = "a"\nbudgets = [nan]', "nan is not a number of FLOPs"),
        ('[scale]\nruns = "a"\ndraws = 1', "scale.draws: 1 is not allowed"),
        ('[scale]\nruns = "a"\nrun = 1', "scale.run: no such setting"),
        ("[plan]\ngpus = 8", "give either flops, or gpus and days"),
        ("[plan]\ngpus = 8\ndays = 2\nflops = 1e20", "give either flops, or gpus and days"),
        ("[plan]\nflops = inf", "plan.flops: inf is not allowed"),
        ("[plan]\nflops = -1", "plan.flops: -1"),
        ("[sweep]\nbudgets = [1e30]", "three sizes on both sides"),
        ('[sweep]\nsizes = ["1x"]', "no preset '1x'"),
    ],
)
def test_bad_recipes(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        run_scale(recipe(tmp_path, text), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_scale_recipe(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="a folder"):
        load_scale_recipe(tmp_path)
    (tmp_path / "b.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_scale_recipe(tmp_path / "b.toml")


def test_bad_tables(tmp_path: Path) -> None:
    path = recipe(tmp_path, '[scale]\nruns = "t.jsonl"\n')
    with pytest.raises(DataError, match=r"t\.jsonl: no such file"):
        run_scale(path, tmp_path / "out")
    for lines in (LINE.format(1e7, 1e9, 3.0), "".join(LINE.format(10.0**n, 1e9, 3.0) for n in range(5, 9))):
        (tmp_path / "t.jsonl").write_text(lines)
        with pytest.raises(KaiyuanError):
            run_scale(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_fitted_is_said(tmp_path: Path) -> None:
    """Three runs a curve leave no noise to estimate; a loss that grows with compute is no parametric law's."""
    runs = synthetic_runs(budgets=[1e19, 2e19, 4e19], sizes=3, noise=0)
    lines = [LINE.format(run.active_parameters, run.tokens, run.loss * run.flops / 1e19) for run in runs]
    (tmp_path / "t.jsonl").write_text("".join(lines))
    text = run_scale(recipe(tmp_path, '[scale]\nruns = "t.jsonl"\n[plan]\nflops = 1e21\n'), tmp_path / "out")
    assert "no confidence intervals" in text and "no parametric law fits" in text
    found = read(tmp_path / "out" / "fit.json")
    assert found["parametric"] is None and found["law"]["parameters"]["exponent_interval"] is None
    assert [law["name"] for law in read(tmp_path / "out" / "plan.json")["laws"]] == [
        "fitted isoFLOP law",
        "paper's law",
    ]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as finished:
        main(["scale", str(RECIPES / "scale.toml"), "--out", str(tmp_path / "out")])
    assert finished.value.code == 0 and "Scaling law" in capsys.readouterr().out
    with pytest.raises(SystemExit) as failed:
        main(["scale", str(tmp_path / "none.toml")])
    printed = capsys.readouterr()
    assert failed.value.code == 1 and printed.out == "" and "no such file" in printed.err

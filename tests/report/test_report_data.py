from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_run import KINDS, make_run
from scipy.stats import binomtest

from kaiyuan.errors import DataError
from kaiyuan.files import read_json, read_jsonl, write_jsonl
from kaiyuan.model.config import ModelConfig
from kaiyuan.report import report_data, write_report
from kaiyuan.training.schedule import Schedule


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "demo")


def test_the_clock_decides_nothing_outside_of_time(run: Path, tmp_path: Path) -> None:
    quick = report_data(make_run(tmp_path / "other", speed=3.0))
    slow = report_data(run)
    assert quick.pop("time") != slow.pop("time")
    assert json.dumps(quick) == json.dumps(slow)


def test_the_data_lie_beside_the_page(run: Path) -> None:
    path = write_report(run)
    assert path == run / "report.html"
    assert read_json(run / "report.json") == json.loads(json.dumps(report_data(run)))


def test_segments_follow_each_other_and_anneal_as_the_schedule_does(run: Path) -> None:
    segments = report_data(run)["training"]["segments"]
    assert [(part["stage"], part["length"], part["steps"]) for part in segments] == [
        ("pretrain", 256, 732), ("extend", 1024, 20), ("extend", 4096, 20),
    ]  # fmt: skip
    assert segments[0]["start"] == 0 and segments[0]["end"] == segments[1]["start"] == 732 * 4096
    assert segments[1]["end"] == segments[2]["start"] == 732 * 4096 + 20 * 8192
    schedule = Schedule(1.0, 732, anneal_share=0.05)
    first = next(step for step in range(732) if schedule.annealing(step))
    assert segments[0]["anneal_start"] == first * 4096
    assert segments[1]["anneal_start"] == segments[1]["start"] + 14 * 8192


def test_curves_hold_what_the_logs_say(run: Path) -> None:
    found = report_data(run)
    lines = list(read_jsonl(run / "pretrain" / "metrics.jsonl"))
    loss = dict(zip(found["training"]["curves"]["loss"]["x"], found["training"]["curves"]["loss"]["y"], strict=True))
    assert all(loss[x] == pytest.approx(lines[int(x / 4096) - 1]["loss"], rel=1e-5) for x in loss if x <= 732 * 4096)
    assert max(loss.values()) == pytest.approx(max(line["loss"] for line in lines), rel=1e-5)
    assert found["training"]["tokens"] == 732 * 4096 + 40 * 8192
    assert found["training"]["refused_updates"] == 1
    assert {"margin", "online_pairs", "sample_reward"} <= set(found["dpo"]["curves"])
    assert found["dpo"]["steps"] == 40 and found["sft"]["tokens"] == 240 * 3100
    rates = {row["stage"]: row["mean"] for row in found["time"]["throughput"]}
    assert rates["pretrain"] == pytest.approx(4096 / 0.41, rel=1e-3)


def test_the_model_is_counted_from_its_config(run: Path) -> None:
    model = report_data(run)["model"]
    config = ModelConfig.preset("1m", vocab_size=4096)
    assert model["parameters"]["total"] == config.parameters().total
    assert model["kv_bytes_per_token"]["ours"] == config.kv_bytes_per_token()
    assert model["reference"]["kv_bytes_per_token"]["mha"] == 1_638_400, "the paper's table 2"
    assert model["reference"]["kv_bytes_per_token"]["ours"] == 81_920


def test_accuracies_have_wilson_intervals(run: Path) -> None:
    tasks = read_json(run / "evaluation" / "results.json")["stages"]["sft"]["tasks"]
    found = report_data(run)["evaluation"]["stages"]["sft"]["tasks"]
    for row, given in ((found["all"], tasks), (found["by_kind"]["sorting"], tasks["by_kind"]["sorting"])):
        correct = round(given["accuracy"] * given["count"])
        expected = binomtest(correct, given["count"]).proportion_ci(method="wilson")
        assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))


def test_answers_are_not_picked_by_how_they_turned_out(run: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other")
    results = read_json(other / "evaluation" / "results.json")
    for result in results["stages"].values():
        for row in result["tasks"]["answers"]:
            row["correct"] = not row["correct"]
    (other / "evaluation" / "results.json").write_text(json.dumps(results), encoding="utf-8")
    here, there = (report_data(folder)["evaluation"]["answers"] for folder in (run, other))
    assert [row["prompt"] for row in here] == [row["prompt"] for row in there]
    assert [row["kind"] for row in here] == list(KINDS[:12])
    assert [row["language"] for row in here] == ["en", "zh"] * 6
    assert all(set(row["answers"]) == {"pretrain", "extend", "sft", "dpo"} for row in here)
    assert here[0]["answers"]["sft"]["correct"] != there[0]["answers"]["sft"]["correct"]


def test_few_kinds_give_several_answers_each(run: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other")
    results = read_json(other / "evaluation" / "results.json")
    for result in results["stages"].values():
        result["tasks"]["answers"] = [row for row in result["tasks"]["answers"] if row["kind"] in KINDS[:2]]
    (other / "evaluation" / "results.json").write_text(json.dumps(results), encoding="utf-8")
    answers = report_data(other)["evaluation"]["answers"]
    assert len({row["prompt"] for row in answers}) == 12
    assert {(row["kind"], row["language"]) for row in answers} == {(k, c) for k in KINDS[:2] for c in ("en", "zh")}


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "sft" / "metrics.jsonl").write_text('{"step": 0\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"sft/metrics\.jsonl:1"):
        write_report(run)
    with pytest.raises(DataError, match="no such run folder"):
        write_report(tmp_path / "nowhere")


def test_steps_without_a_finite_loss_are_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    path = run / "pretrain" / "metrics.jsonl"
    lines: list[dict[str, Any]] = list(read_jsonl(path))
    lines[5]["loss"] = lines[5]["grad_norm"] = float("nan")
    lines[6]["loss"] = float("inf")
    write_jsonl(path, lines)
    write_report(run)
    json.loads((run / "report.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)

"""Steps as a captured graph: the same weights as steps launched one operation at a time.

Without a GPU the capture is played: a replay runs the same operations again on the tensors that were captured, and
writes its results where those of the capture are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_process import CONFIG, SETTINGS, RandomTokens

from kaiyuan.model.linear import leaf
from kaiyuan.model.transformer import Transformer
from kaiyuan.training import step_graph
from kaiyuan.training.batch import Batch, Whole
from kaiyuan.training.metrics import read_metrics
from kaiyuan.training.objective import language_model_loss
from kaiyuan.training.trainer import Trainer, TrainerSettings

STEADY = replace(SETTINGS, steps=9, hidden_dropout=0.0)


class PlayedGraph:
    def __init__(self, model: Transformer, run: Callable[[], Any]) -> None:
        self.run, self.seeds, self.model, self.replays = run, model.mode.seeds, model, 0
        self.found = run()
        self.gradients = self._gradients()

    def _gradients(self) -> list[Tensor]:
        holders = [h for p in self.model.parameters() for h in ([p] if leaf(p) is p else [p, leaf(p)])]
        return [holder.grad for holder in holders if holder.grad is not None]

    def replay(self) -> None:
        self.replays += 1
        for parameter in self.model.parameters():  # a graph writes gradients where they were, whatever holds them now
            leaf(parameter).grad = parameter.grad = None
        self.model.mode.seeds = self.seeds
        totals, router = self.run()
        self.model.mode.seeds = None
        for name, value in totals.items():
            self.found[0][name].copy_(value)
        for kept, new in zip(self.found[1], router, strict=True):
            for place, value in zip(kept, new, strict=True):
                place.detach().copy_(value.detach())
        for place, value in zip(self.gradients, self._gradients(), strict=True):
            place.copy_(value)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[PlayedGraph]:
    """The graphs that are captured from here on."""
    made: list[PlayedGraph] = []
    monkeypatch.setattr(step_graph, "on_gpu", lambda x: True)
    begin = step_graph._StepGraph.__init__

    def beginning(self: Any, model: Transformer, *rest: Any) -> None:
        def captured(run: Callable[[], Any]) -> tuple[PlayedGraph, Any]:
            made.append(PlayedGraph(model, run))
            return made[-1], made[-1].found

        monkeypatch.setattr(step_graph, "captured", captured)
        begin(self, model, *rest)

    monkeypatch.setattr(step_graph._StepGraph, "__init__", beginning)
    return made


def trained(folder: Path, settings: TrainerSettings, source: Any = None) -> tuple[dict[str, Tensor], list[Any]]:
    model = Transformer(CONFIG, torch.bfloat16)
    model.init_weights()
    folder.mkdir(exist_ok=True)
    Trainer("", model, source or RandomTokens(), language_model_loss, settings, folder).fit()
    lines = read_metrics(folder / "metrics.jsonl")
    return model.state_dict(), [{name: value for name, value in line.items() if name != "time"} for line in lines]


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_replayed_steps_are_those_launched_one_by_one(
    micro_batches: int, tmp_path: Path, graphs: list[PlayedGraph]
) -> None:
    settings = replace(STEADY, micro_batches=micro_batches)
    weights, lines = trained(tmp_path / "graph", settings)
    assert [graph.replays for graph in graphs] == [settings.steps - step_graph.WARM_UP]
    plain, plain_lines = trained(tmp_path / "plain", replace(settings, graphs=False))
    assert len(graphs) == 1
    assert lines == plain_lines
    assert any(sum(line["router"]["recycled"]) > 0 for line in lines if "router" in line)
    for name, value in plain.items():
        assert torch.equal(weights[name], value), name


class TwoShapes(RandomTokens):
    """Rows of another length from the fourth step on."""

    def batch(self, step: int, model: Transformer) -> Batch:
        batch = super().batch(step, model)
        if step < 4:
            return batch
        return Batch(batch.ids_BT[:, :9], batch.targets_BT[:, :9], batch.weights_BT[:, :9])


def test_another_shape_is_captured_anew(tmp_path: Path, graphs: list[PlayedGraph]) -> None:
    weights, _ = trained(tmp_path / "graph", STEADY, TwoShapes())
    assert [graph.replays for graph in graphs] == [4 - step_graph.WARM_UP, 5 - 2 * step_graph.WARM_UP]
    plain, _ = trained(tmp_path / "plain", replace(STEADY, graphs=False), TwoShapes())
    assert all(torch.equal(weights[name], value) for name, value in plain.items())


def test_a_batch_that_cannot_be_captured_ends_the_graph(tmp_path: Path, graphs: list[PlayedGraph]) -> None:
    class Documents(RandomTokens):
        def batch(self, step: int, model: Transformer) -> Batch:
            batch = super().batch(step, model)
            return replace(batch, documents_BT=torch.arange(16).expand(4, 16) // 8) if step == 4 else batch

    weights, _ = trained(tmp_path / "graph", STEADY, Documents())
    assert [graph.replays for graph in graphs] == [4 - step_graph.WARM_UP, 4 - step_graph.WARM_UP]
    plain, _ = trained(tmp_path / "plain", replace(STEADY, graphs=False), Documents())
    assert all(torch.equal(weights[name], value) for name, value in plain.items())


def test_a_refused_step_leaves_its_batch_and_the_graph_goes_on(tmp_path: Path, graphs: list[PlayedGraph]) -> None:
    class Spoilt(RandomTokens):
        def batch(self, step: int, model: Transformer) -> Batch:
            batch = super().batch(step, model)
            return replace(batch, weights_BT=torch.full((4, 16), torch.nan)) if step == 5 else batch

    weights, lines = trained(tmp_path / "graph", STEADY, Spoilt())
    assert [line["applied"] for line in lines] == [step != 5 for step in range(STEADY.steps)]
    assert len(list((tmp_path / "graph" / "incidents").glob("step-*5.safetensors"))) == 1
    assert [graph.replays for graph in graphs] == [STEADY.steps - step_graph.WARM_UP]
    plain, _ = trained(tmp_path / "plain", replace(STEADY, graphs=False), Spoilt())
    assert all(torch.equal(weights[name], value) for name, value in plain.items())


@pytest.mark.usefixtures("graphs")
def test_a_run_that_was_cut_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole, _ = trained(tmp_path / "whole", STEADY)

    class Cut(RandomTokens):
        def batch(self, step: int, model: Transformer) -> Batch:
            if step == 6:
                raise KeyboardInterrupt
            return super().batch(step, model)

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", STEADY, Cut())
    again, _ = trained(tmp_path / "cut", STEADY)
    assert all(torch.equal(again[name], value) for name, value in whole.items())


@pytest.mark.usefixtures("graphs")
def test_where_a_capture_fails_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(self: Any, model: Transformer, passes: Callable[[Batch], Any], batch: Batch) -> None:
        passes(batch)
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(step_graph._StepGraph, "__init__", fails)
    weights, _ = trained(tmp_path / "graph", STEADY)
    assert capsys.readouterr().err.count("cannot be captured as a CUDA graph") == 1
    plain, _ = trained(tmp_path / "plain", replace(STEADY, graphs=False))
    assert all(torch.equal(weights[name], value) for name, value in plain.items())


BATCH = RandomTokens().batch(0, Transformer(CONFIG))


@pytest.mark.parametrize(
    ("batch", "mode", "dtype"),
    [
        (replace(BATCH, documents_BT=torch.zeros(4, 16, dtype=torch.int64)), {}, torch.bfloat16),
        (replace(BATCH, extra={"reference": torch.zeros(4)}), {}, torch.bfloat16),
        (replace(BATCH, group=2), {}, torch.bfloat16),
        (replace(BATCH, whole=Whole(8, 128.0)), {}, torch.bfloat16),
        (BATCH, {"hidden_dropout": 0.1}, torch.bfloat16),
        (BATCH, {"attention_dropout": 0.1}, torch.bfloat16),
        (BATCH, {"recompute": "blocks"}, torch.bfloat16),
        (BATCH, {}, torch.float32),
    ],
)
def test_what_a_graph_cannot_hold_is_launched_as_before(
    batch: Batch, mode: dict[str, Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Transformer(CONFIG, torch.bfloat16)
    assert not step_graph.can_capture(model, BATCH)  # no GPU
    monkeypatch.setattr(step_graph, "on_gpu", lambda x: True)
    assert step_graph.can_capture(model, BATCH)
    model.compute_dtype = dtype
    for name, value in mode.items():
        setattr(model.mode, name, value)
    assert not step_graph.can_capture(model, batch)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("micro_batches", "fp8"), [(1, False), (2, False), (1, True)])
def test_a_graph_on_a_gpu_trains_to_the_same_bits(
    micro_batches: int, fp8: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    capture = step_graph.captured
    monkeypatch.setattr(step_graph, "captured", lambda run: made.append(run) or capture(run))
    found = []
    for graphs in (True, False):
        with torch.device("cuda"):
            model = Transformer(CONFIG.replace(hidden_size=64, head_dim=32), torch.bfloat16)
        model.init_weights()
        (tmp_path / str(graphs)).mkdir()
        settings = replace(STEADY, graphs=graphs, micro_batches=micro_batches, fp8=fp8)
        Trainer("", model, RandomTokens(), language_model_loss, settings, tmp_path / str(graphs)).fit()
        found.append(model.state_dict())
    assert len(made) == 1
    lines = read_metrics(tmp_path / "True" / "metrics.jsonl")
    assert any(sum(line["router"]["recycled"]) > 0 for line in lines if "router" in line)
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name

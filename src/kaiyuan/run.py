"""A run: stages that read their section of the recipe and the folders of earlier stages, and write a folder of their
own.

A stage works in ``<run>/<stage>.partial`` and is renamed to ``<run>/<stage>`` when it is whole, with a manifest of
its inputs, settings, counts and files. Rerunning skips what is done and goes on with what was interrupted; a stage
whose settings or inputs have changed is not silently kept.
"""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from kaiyuan import __version__
from kaiyuan.errors import KaiyuanError
from kaiyuan.files import fingerprint, read_json, replace_folder, sha256_of, write_json, write_text
from kaiyuan.progress import duration, say, size
from kaiyuan.recipe import Recipe, dump
from kaiyuan.team import TOGETHER, Team, is_main, team

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Stage:
    """One step of a run. ``function`` is ``module:name``: it takes a ``StageContext`` and returns its report."""

    name: str
    inputs: tuple[str, ...]
    sections: tuple[str, ...]
    """Sections of the recipe that it reads; a change in one makes the stage due again."""
    function: str
    states: str = ""
    """``module:name`` of what tells the state of input that is no single file: it takes the recipe and returns a hash
    by name, None for what is gone."""

    def load(self) -> Callable[[StageContext], dict[str, Any]]:
        return _named(self.function)

    def states_of(self, recipe: Recipe) -> dict[str, str | None]:
        return _named(self.states)(recipe) if self.states else {}


def _named(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


STAGES = (
    Stage("corpus", (), ("corpus",), "kaiyuan.corpus.stage:run", "kaiyuan.corpus.stage:states"),
    Stage("tokenizer", ("corpus",), ("tokenizer",), "kaiyuan.tokenizer.stage:run"),
    Stage("synthesis", ("corpus",), ("synthesis",), "kaiyuan.synthesis.stage:run"),
    Stage("pretrain", ("tokenizer",), ("model", "pretrain"), "kaiyuan.training.pretrain:run"),
    Stage("extend", ("tokenizer", "pretrain"), ("extend",), "kaiyuan.training.long_context:run"),
    Stage("sft", ("tokenizer", "synthesis", "pretrain", "extend"), ("sft",), "kaiyuan.alignment.stages:run_sft"),
    Stage("dpo", ("synthesis", "sft"), ("dpo",), "kaiyuan.alignment.stages:run_dpo"),
    Stage(
        "evaluation",
        ("corpus", "synthesis", "pretrain", "extend", "sft", "dpo"),
        ("evaluation",),
        "kaiyuan.evaluation.stage:run",
    ),
)
"""In the order in which a whole run goes through them."""


@dataclass(frozen=True)
class StageContext:
    """What a stage's function gets."""

    recipe: Recipe
    run: Path
    folder: Path
    """Where to write. May hold what an interrupted run of the same stage left."""
    stage: Stage

    def input(self, name: str) -> Path:
        """The finished folder of an earlier stage."""
        return self.run / name

    def latest_model(self) -> Path:
        """The model folder of the last training stage among the inputs that the recipe has."""
        found = [name for name in self.stage.inputs if (self.run / name / "model").is_dir()]
        if not found:
            raise KaiyuanError(f"{self.run}: no trained model for {self.stage.name}; run kaiyuan pretrain first")
        return self.run / found[-1] / "model"


def stage(name: str) -> Stage:
    return next(item for item in STAGES if item.name == name)


def execute(recipe: Recipe, folder: Path, only: str | None = None, overwrite: bool = False) -> Path:
    """Run all stages that ``recipe`` has, or one, in ``folder``; returns the report's path, or the stage's folder.

    A finished stage whose settings or inputs differ from the recipe's stops the run with an error, unless
    ``overwrite`` allows doing it again.
    """
    with team() as processes, processes.alone(_lock(folder)):
        if is_main():
            write_text(folder / "recipe.json", dump(recipe) + "\n")
            write_json(folder / "versions.json", versions())
        for item in STAGES if only is None else (stage(only),):
            if _wanted(recipe, item):
                _run_stage(recipe, folder, item, overwrite, processes)
            elif only is not None:
                raise KaiyuanError(f"the recipe has no [{only}] section: add one, or run another stage")
        if only is not None or not is_main():
            return folder / (only or "report.html")
        from kaiyuan.report import write_report

        path = write_report(folder)
        say(f"report: {path}")
        return path


def _wanted(recipe: Recipe, item: Stage) -> bool:
    return all(recipe.has(section) for section in item.sections)


def _run_stage(recipe: Recipe, run: Path, item: Stage, overwrite: bool, processes: Team) -> None:
    """One stage, by the first process alone or, if it trains, by all of them."""
    partial = run / f"{item.name}.partial"
    work = item.load()
    start = time.monotonic()
    due = processes.follow(lambda: _begin(recipe, run, item, overwrite))
    if due and item.name in TOGETHER:
        report = work(StageContext(recipe, run, partial, item))
        processes.follow(lambda: _finish(run, item, due, report, start))
    elif due:
        context = StageContext(recipe, run, partial, item)
        processes.follow(lambda: _finish(run, item, due, work(context), start))


def _begin(recipe: Recipe, run: Path, item: Stage, overwrite: bool) -> dict[str, Any] | None:
    """Make the stage's folder ready; returns what its manifest will say, or None if nothing is to do."""
    done, partial = run / item.name, run / f"{item.name}.partial"
    inputs = {name: _manifest_of(run, name)["fingerprint"] for name in item.inputs if recipe.has(name)}
    inputs |= {str(path): _hash_of(path) for path in recipe.files(item.sections)} | _states(recipe, item, done)
    settings = {section: getattr(recipe, section).model_dump() for section in item.sections}
    whole = {"stage": item.name, "settings": settings, "seed": recipe.run.seed, "precision": recipe.run.precision}
    # What an interrupted stage has done holds whatever has become of the files that may change under way.
    mark = fingerprint({**whole, "inputs": inputs})
    inputs |= {str(path): _hash_of(path) for path in recipe.changing_files(item.sections)}
    begun = {"stage": item.name, "fingerprint": fingerprint({**whole, "inputs": inputs}), "inputs": inputs,
             "settings": settings}  # fmt: skip
    if done.exists() and not _is_due(done, begun, overwrite):
        say(f"{item.name}: done before")
        return None
    _prepare(partial, mark)
    say(f"{item.name}: starts")
    return begun


def _states(recipe: Recipe, item: Stage, done: Path) -> dict[str, str]:
    """States of the stage's further input. What is gone by now is taken to be as it was when the stage was done."""
    before = read_json(done / MANIFEST)["inputs"] if done.exists() else {}
    states = {name: state or before.get(name) for name, state in item.states_of(recipe).items()}
    return {name: state for name, state in states.items() if state is not None}


def _finish(run: Path, item: Stage, begun: dict[str, Any], report: dict[str, Any], start: float) -> None:
    """Write the manifest and give the stage's folder its name."""
    done, partial = run / item.name, run / f"{item.name}.partial"
    seconds = time.monotonic() - start
    shutil.rmtree(partial / "checkpoints", ignore_errors=True)
    (partial / "seal.json").unlink()
    manifest = {
        **begun, "report": report, "files": _files(partial), "kaiyuan": __version__,
        "time": {"seconds": round(seconds, 2), "peak_memory_bytes": peak_memory()},
    }  # fmt: skip
    write_json(partial / MANIFEST, manifest)
    replace_folder(partial, done)
    say(f"{item.name}: done in {duration(seconds)}, peak memory {size(peak_memory())}")


def _hash_of(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise KaiyuanError(f"{path}: cannot be read ({error.strerror}); the recipe names it") from None


def _manifest_of(run: Path, name: str) -> dict[str, Any]:
    if not (run / name / MANIFEST).exists():
        command = "synthesize" if name == "synthesis" else name
        raise KaiyuanError(f"{run / name}: not there yet; run kaiyuan {command} with this recipe first")
    return dict(read_json(run / name / MANIFEST))


def _is_due(done: Path, begun: dict[str, Any], overwrite: bool) -> bool:
    """Whether the finished stage must be done again: False if up to date, else True or an error."""
    manifest = read_json(done / MANIFEST)
    if manifest["fingerprint"] == begun["fingerprint"]:
        return False
    if overwrite:
        return True
    changed = [
        f"{section}.{key}"
        for section, values in begun["settings"].items()
        for key in values
        if values[key] != manifest["settings"].get(section, {}).get(key)
    ]
    what = f"its settings have changed ({', '.join(changed)})"
    if not changed:
        other = [name for name, state in begun["inputs"].items() if manifest["inputs"].get(name) != state]
        shown = f" ({', '.join(other)})" if other else ""
        what = f"what it was made from has changed{shown}"
    raise KaiyuanError(
        f"{done}: {what}. Use --overwrite to do this stage and those after it again, or --out for another folder"
    )


def _prepare(partial: Path, seal: str) -> None:
    """An empty working folder, unless it was left by an interrupted run of the very same stage."""
    if partial.exists():
        mark = partial / "seal.json"
        if mark.exists() and read_json(mark)["fingerprint"] == seal:
            return
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    write_json(partial / "seal.json", {"fingerprint": seal})


def _files(folder: Path) -> dict[str, str]:
    """sha256 of every file, but for logs that hold times."""
    names = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "metrics.jsonl")
    return {str(path.relative_to(folder)): sha256_of(path) for path in names}


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Only one process at a time works in a run folder; the lock dies with its process."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise KaiyuanError(f"{folder}: another process is working in this run folder") from None
        yield


def peak_memory() -> int:
    """Bytes of memory that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def versions() -> dict[str, str]:
    """What a result depends on besides the recipe."""
    import numpy
    import safetensors
    import tokenizers
    import torch

    return {
        "kaiyuan": __version__, "python": platform.python_version(), "torch": torch.__version__,
        "numpy": numpy.__version__, "tokenizers": tokenizers.__version__, "safetensors": safetensors.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }  # fmt: skip

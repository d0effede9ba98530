"""The units under datatrove's executors: shares, interruption, another number of tasks, Slurm's own scripts."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("datatrove")

from kaiyuan.corpus.cluster import UnitStep, executor, run_on_cluster
from kaiyuan.corpus.sources import Source
from kaiyuan.corpus.work import Store, Unit, plan, run_units
from kaiyuan.errors import ConfigError, KaiyuanError


@pytest.fixture
def units(tmp_path: Path) -> list[Unit]:
    (tmp_path / "in").mkdir()
    for name in "abc":
        rows = [json.dumps({"text": f"{name} {n} " + "x" * 50}) for n in range(400)]
        rows[7] = "{broken"
        (tmp_path / "in" / f"{name}.jsonl").write_text("\n".join(rows))
    return plan([Source(path=str(tmp_path / "in"))], unit_bytes=4000)


def rows(store: Store, units: list[Unit]) -> list[dict]:
    return [document.row() for document in store.documents(units)]


def whole(units: list[Unit], folder: Path) -> list[dict]:
    run_units(units, Store(folder))
    return rows(Store(folder), units)


@pytest.mark.parametrize("world_size", [1, 2, 5, 100])
def test_every_unit_is_the_turn_of_one_task_and_loads_are_even(units: list[Unit], tmp_path: Path, world_size: int):
    step = UnitStep(units, tmp_path / "out")
    shares = [step.share(rank, world_size) for rank in range(world_size)]
    assert sorted(unit.number for share in shares for unit in share) == list(range(len(units)))
    loads = [sum(unit.size for unit in share) for share in shares]
    assert max(loads) - min(loads) <= max(unit.size for unit in units)


def test_tasks_that_failed_are_gone_on_with_by_another_number_of_tasks(units: list[Unit], tmp_path: Path):
    out = tmp_path / "out"
    step = UnitStep(units, out)
    for rank in (0, 2):
        assert list(step.run(None, rank, 3)) == []
    left = UnitStep(units, out).units
    assert 0 < len(left) < len(units)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    run_on_cluster(units, out, "local", tasks=2, workers=2)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert rows(Store(out), units) == whole(units, tmp_path / "whole")
    run_on_cluster(units, out, "local", tasks=7)


SCRIPT = """
import sys, time
from pathlib import Path
from kaiyuan.corpus.cluster import run_on_cluster
from kaiyuan.corpus.sources import Source
from kaiyuan.corpus.work import plan

def slowly(items):
    for item in items:
        time.sleep(0.002)
        yield item

if __name__ == "__main__":
    units = plan([Source(path=sys.argv[1])], unit_bytes=4000)
    run_on_cluster(units, Path(sys.argv[2]), "local", tasks=int(sys.argv[3]), workers=2, step=slowly)
"""


def test_local_executor_killed_and_gone_on_with(units: list[Unit], tmp_path: Path):
    (tmp_path / "script.py").write_text(SCRIPT)
    out = tmp_path / "out"

    def start(tasks: int) -> subprocess.Popen:
        command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "in"), str(out), str(tasks)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    process = start(3)
    deadline = time.monotonic() + 60
    while len(list(out.glob("??/*.json"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, 9)
    process.wait()
    assert 0 < len(UnitStep(units, out).units) < len(units)
    assert start(2).wait(timeout=120) == 0
    assert rows(Store(out), units) == whole(units, tmp_path / "whole")


def test_documents_are_handed_on_to_steps_of_datatroves_own(units: list[Unit], tmp_path: Path):
    step = UnitStep(units, tmp_path / "out", emit=True)
    given = [document for rank in range(2) for document in step.run(None, rank, 2)]
    expected = whole(units, tmp_path / "whole")
    assert sorted(document.id for document in given) == sorted(row["id"] for row in expected)
    assert given[0].metadata["place"].startswith("a.jsonl@0")
    again = UnitStep(units, tmp_path / "out", emit=True)
    assert [document.text for document in again.run(None, 0, 1)] == [row["text"] for row in expected]


def test_slurm_gets_an_array_of_tasks_that_do_the_units(units: list[Unit], tmp_path: Path, monkeypatch):
    """With a stand-in for sbatch that runs the array's tasks here and now, one of them not at all."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sbatch").write_text(
        "#!/bin/sh\nfor script; do :; done\n"
        "export RUN_OFFSET=0 SLURM_JOB_ID=7 SLURM_NODELIST=here\n"
        'for task in 0 2; do SLURM_ARRAY_TASK_ID=$task bash "$script" >&2; done\n'
        "echo Submitted batch job 7\n"
    )
    (tools / "srun").write_text(
        '#!/bin/sh\nwhile [ "${1#-}" != "$1" ]; do [ "$1" = -n ] && shift; shift; done\nexec "$@"\n'
    )
    (tools / "scontrol").write_text("#!/bin/sh\necho localhost\n")
    for tool in tools.iterdir():
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    out = tmp_path / "out"
    with pytest.raises(KaiyuanError, match="run the same command again when they have ended"):
        run_on_cluster(units, out, "slurm", tasks=3, time="01:00:00", partition="cpu")
    left = UnitStep(units, out).units
    assert 0 < len(left) < len(units)
    run_units(units, Store(out))
    assert rows(Store(out), units) == whole(units, tmp_path / "whole")


def test_wrong_settings_of_a_cluster(units: list[Unit], tmp_path: Path):
    step = UnitStep(units, tmp_path / "out")
    for kind, options, message in [
        ("pbs", {}, "no executor"), ("slurm", {}, "needs time and partition"),
        ("local", {"colour": 1}, "does not take"),
    ]:  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            executor(kind, step, tasks=1, folder=tmp_path, **options)

"""Units of work: keys, borders, any number of workers, kill -9 at any moment, and the checks that stop a run."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kaiyuan.corpus.sources import Item, Source
from kaiyuan.corpus.work import Store, Unit, plan, run_units
from kaiyuan.errors import DataError

SMALL = 20_000


def make_corpus(root: Path) -> None:
    """JSON lines with damage, many small texts, Parquet in row groups."""
    root.mkdir()
    rng = random.Random(1)
    with (root / "rows.jsonl").open("w") as stream:
        for n in range(1500):
            stream.write(
                "{broken\n" if n % 100 == 7 else json.dumps({"text": f"row {n} " + "x" * rng.randrange(100)}) + "\n"
            )
    (root / "texts").mkdir()
    for n in range(300):
        (root / "texts" / f"{n:03d}.txt").write_text(f"text {n} " * 10)
    texts = [f"cell {n} {rng.random()}" for n in range(2000)]
    pq.write_table(pa.table({"text": texts}), root / "table.parquet", row_group_size=250)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus") / "mine"
    make_corpus(root)
    return root


def merged(units: list[Unit], store: Store) -> str:
    return "\n".join(json.dumps(document.row()) for document in store.documents(units))


def test_borders_do_not_change_what_is_read(corpus: Path, tmp_path: Path):
    texts = []
    for number, unit_bytes in enumerate((SMALL, 10**9)):
        units = plan([Source(path=str(corpus))], unit_bytes=unit_bytes)
        store = Store(tmp_path / str(number))
        counts = run_units(units, store).total()
        assert (counts.documents, counts.dead, counts.kinds) == (1485 + 300 + 2000, 15, {"not valid JSON": 15})
        texts.append([document.text for document in store.documents(units)])
        assert max(unit.size for unit in units) <= unit_bytes
        assert sum(unit.size for unit in units) == pytest.approx(
            sum(f.stat().st_size for f in corpus.rglob("*.*")), rel=0.1
        )
    assert texts[0] == texts[1]
    assert len(plan([Source(path=str(corpus))], unit_bytes=SMALL)) > 10


def test_keys_hold_where_the_files_lie_elsewhere_and_change_with_what_matters(corpus: Path, tmp_path: Path):
    def keys(root: Path, **settings) -> list[str]:
        return [unit.key for unit in plan([Source(path=str(root), name="n", **settings)], unit_bytes=SMALL)]

    copy = tmp_path / "copy"
    shutil.copytree(corpus, copy)
    before = keys(copy)
    assert before == keys(corpus)
    assert before == keys(copy, limit=3, max_dead_share=0.5)
    for changed in (keys(copy, label="books"), keys(copy, max_bytes=5)):
        assert not set(before) & set(changed)
    assert [u.key for u in plan([Source(path=str(copy), name="n")], unit_bytes=SMALL, step="other")] != before
    by_content = keys(copy, identity="content")
    for path in copy.rglob("*.txt"):
        os.utime(path, (1, 1))
    assert keys(copy, identity="content") == by_content
    untouched = [unit for unit in plan([Source(path=str(copy))], unit_bytes=SMALL) if unit.source.format != "text"]
    assert len(set(keys(copy)) & set(before)) == len(untouched)
    twice = plan([Source(path=str(copy), name="n"), Source(path=str(corpus), name="n", identity="content")] * 2)
    assert len({unit.key for unit in twice}) == len(twice)


def test_a_file_that_is_added_makes_few_units_due(tmp_path: Path):
    for n in range(3000):
        (tmp_path / f"{n:04d}.txt").write_text("x")
    before = {unit.key for unit in plan([Source(path=str(tmp_path), name="n")])}
    (tmp_path / "1500a.txt").write_text("x")
    after = {unit.key for unit in plan([Source(path=str(tmp_path), name="n")])}
    assert len(before) > 5
    assert len(after - before) <= 2


@pytest.mark.parametrize("compress", [True, False])
def test_the_result_does_not_depend_on_the_workers(corpus: Path, tmp_path: Path, compress: bool):
    units = plan([Source(path=str(corpus), max_dead_share=1)], unit_bytes=SMALL)
    results = []
    for workers in (1, 3):
        store = Store(tmp_path / str(workers), compress)
        run_units(units, store, workers=workers)
        store.write_dead(units, tmp_path / f"dead{workers}.jsonl")
        results.append((merged(units, store), (tmp_path / f"dead{workers}.jsonl").read_bytes()))
    assert results[0] == results[1]
    assert results[0][1].count(b"\n") == 15


def test_what_is_done_is_not_done_again_and_damage_is_noticed(corpus: Path, tmp_path: Path):
    units = plan([Source(path=str(corpus))], unit_bytes=SMALL)
    store = Store(tmp_path)
    run_units(units, store)
    whole = merged(units, store)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json*")}
    victim = next(tmp_path.glob(f"*/{units[3].key}.jsonl*"))
    victim.write_bytes(victim.read_bytes()[:-9])
    next(tmp_path.glob(f"*/{units[5].key}.json")).write_text("{broken")
    run_units(units, store)
    again = {path.name.split(".")[0] for path, before in times.items() if path.stat().st_mtime_ns != before}
    assert again == {units[3].key, units[5].key}
    assert merged(units, store) == whole
    with pytest.raises(DataError, match="not done yet; run again"):
        list(Store(tmp_path / "empty").documents(units))


def test_pruning_keeps_what_is_of_use(corpus: Path, tmp_path: Path):
    units = plan([Source(path=str(corpus))], unit_bytes=SMALL)
    store = Store(tmp_path)
    run_units(units, store)
    whole = merged(units, store)
    (tmp_path / "aa").mkdir(exist_ok=True)
    (tmp_path / "aa" / "aa11.jsonl.host-1-2.tmp").write_text("left behind")
    files = len(list(tmp_path.rglob("*.*")))
    assert store.prune(units) == 1
    assert merged(units, store) == whole
    assert store.prune(units[:1]) >= files - 4


def test_too_many_damaged_records_stop_the_run_in_one_line(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"content": "x"}\n' * 150 + '{"text": "x"}\n' * 100)
    sources = [Source(path=str(tmp_path / "rows.jsonl"))]
    with pytest.raises(DataError) as caught:
        run_units(plan(sources), Store(tmp_path / "out"))
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "rows.jsonl: 150 of 250 records (60%)",
        "rows.jsonl:1: no text field",
        "(content)",
        "max_dead_share (0.05)",
    ):
        assert part in message
    loose = [sources[0].model_copy(update={"max_dead_share": 0.7})]
    assert run_units(plan(loose), Store(tmp_path / "out")).total().documents == 100
    (tmp_path / "rows.jsonl").write_text('{"content": "x"}\n' * 99)
    assert run_units(plan(sources), Store(tmp_path / "out")).total().dead == 99


def test_a_limit_takes_the_first_documents_whoever_is_faster(corpus: Path, tmp_path: Path):
    for workers in (1, 3):
        sources = [Source(path=str(corpus / "rows.jsonl"), limit=700), Source(path=str(corpus / "texts"), limit=5)]
        units = plan(sources, unit_bytes=SMALL)
        store = Store(tmp_path / str(workers))
        counts = run_units(units, store, workers=workers).total()
        texts = [document.text.split()[1] for document in store.documents(units)]
        assert texts == [str(n) for n in range(800) if n % 100 != 7][:700] + [str(n) for n in range(5)]
        assert counts.documents == 705
    assert len(list((tmp_path / "1").rglob("*.json"))) < len(units)


def dies(items: Iterator[Item]) -> Iterator[Item]:
    for number, item in enumerate(items):
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        yield item


def fails(items: Iterator[Item]) -> Iterator[Item]:
    yield from ()
    raise ZeroDivisionError("in a step")


def upper(items: Iterator[Item]) -> Iterator[Item]:
    for item in items:
        yield Source(path="x", name="y").document(item.text.upper(), item.place) if hasattr(item, "text") else item


def test_a_worker_that_dies_or_fails_ends_the_run(corpus: Path, tmp_path: Path):
    units = plan([Source(path=str(corpus))], unit_bytes=SMALL)
    with pytest.raises(DataError, match=r"a worker was killed \(exit code -9\) at mine, .*run again to go on"):
        run_units(units, Store(tmp_path), workers=2, step=dies)
    with pytest.raises(Exception, match="in a step"):
        run_units(units, Store(tmp_path), workers=2, step=fails)
    run_units(units, Store(tmp_path), workers=2, step=upper)
    assert next(iter(Store(tmp_path).documents(units))).text.startswith("ROW 0")


SCRIPT = """
import json, sys, time
from pathlib import Path
from kaiyuan.corpus.sources import Source
from kaiyuan.corpus.work import Store, plan, run_units

def slowly(items):
    for item in items:
        time.sleep(float(sys.argv[4]))
        yield item

if __name__ == "__main__":
    root, out, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    units, store = plan([Source(path=str(root))], unit_bytes=20_000), Store(out)
    run_units(units, store, workers=workers, step=slowly)
    with (out / "merged.jsonl").open("w") as stream:
        for document in store.documents(units):
            stream.write(json.dumps(document.row()) + "\\n")
    store.write_dead(units, out / "dead.jsonl")
    print("pruned", store.prune(units))
"""


def children_of(pid: int) -> set[int]:
    tasks = Path(f"/proc/{pid}/task/{pid}/children")
    return {int(child) for child in tasks.read_text().split()} if tasks.exists() else set()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
def test_kill_9_at_any_moment_and_other_numbers_of_workers_give_the_same_bytes(corpus: Path, tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def start(out: str, workers: int, pause: float) -> subprocess.Popen:
        command = [sys.executable, str(script), str(corpus), str(tmp_path / out), str(workers), str(pause)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    whole = start("whole", 1, 0)
    _, errors = whole.communicate(timeout=120)
    assert whole.returncode == 0, errors
    rng, kills, orphans = random.Random(), 0, set()
    for attempt in range(12):
        process = start("killed", rng.choice((1, 2, 3)), 0.002 if attempt < 5 else 0)
        if attempt < 5:
            time.sleep(rng.uniform(0.4, 1.6))
            orphans |= children_of(process.pid)
            kills += process.poll() is None
            process.kill()
            process.wait()
        elif process.wait(timeout=120) == 0:
            break
    assert kills >= 3
    for name in ("merged.jsonl", "dead.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    deadline = time.monotonic() + 10
    while any(map(alive, orphans)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, orphans)), "workers outlive the process that was killed"
    assert not list((tmp_path / "killed").rglob("*.tmp"))

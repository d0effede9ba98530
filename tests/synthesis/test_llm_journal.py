"""The journal: on disk before it is used, whole after any kill, one process at a time."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kaiyuan.errors import KaiyuanError
from kaiyuan.synthesis.llm.calls import Call
from kaiyuan.synthesis.llm.journal import Journal, records


def record(number: int) -> dict[str, Any]:
    key = hashlib.sha256(str(number).encode()).hexdigest()
    return {
        "key": key,
        "text": f"答案 {number}\n\ud800",
        "finish": "stop",
        "model": "m",
        "in": 3,
        "out": 5,
        "seconds": 0.25,
    }


def write(path: Path, count: int) -> Path:
    async def fill() -> None:
        with Journal(path) as journal:
            await asyncio.gather(*(journal.append(record(number)) for number in range(count)))

    asyncio.run(fill())
    return path


def test_what_was_appended_is_there_again(tmp_path: Path) -> None:
    path = write(tmp_path / "journal.jsonl", 20)
    with Journal(path) as journal:
        assert len(journal) == 20
        assert [journal.get(record(number)["key"]) for number in range(20)] == [record(number) for number in range(20)]
        assert journal.get(record(99)["key"]) is None and record(99)["key"] not in journal


def test_every_cut_of_the_last_line_is_recognised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = write(tmp_path / "whole.jsonl", 3).read_bytes()
    last = content.rindex(b"\n", 0, -1) + 1
    for cut in range(last + 1, len(content)):
        path = tmp_path / f"torn{cut}.jsonl"
        path.write_bytes(content[:cut])
        with Journal(path) as journal:
            assert len(journal) == 2 and record(2)["key"] not in journal
        assert path.read_bytes() == content[:last]
    assert "torn write; cut off" in capsys.readouterr().err


def test_a_torn_journal_goes_on_cleanly(tmp_path: Path) -> None:
    path = write(tmp_path / "journal.jsonl", 3)
    path.write_bytes(path.read_bytes()[:-7] + b"\0" * 50)
    write(path, 5)
    assert [found["key"] for found in records(path)] == [record(number)["key"] for number in (0, 1, 0, 1, 2, 3, 4)]


def test_damage_in_the_middle_costs_only_what_it_hit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "journal.jsonl", 3)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\x00\xff" + lines[1][9:] + b'{"key": "zz"}\n' + lines[2])
    with Journal(path) as journal:
        assert [record(number)["key"] in journal for number in range(3)] == [True, False, True]
    assert "2 damaged lines are skipped" in capsys.readouterr().err


def test_append_returns_only_when_it_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "journal.jsonl", []
    real = os.fsync

    def watched(descriptor: int) -> None:
        real(descriptor)
        synced.append(path.read_bytes().count(b"\n"))

    async def fill() -> list[bool]:
        with Journal(path) as journal:
            monkeypatch.setattr(os, "fsync", watched)

            async def one(number: int) -> bool:
                await journal.append(record(number))
                return max(synced) > number and record(number)["key"] in journal

            return await asyncio.gather(*(one(number) for number in range(50)))

    assert all(asyncio.run(fill()))
    assert len(synced) < 10, "answers that come together are synced together"


def test_a_cancelled_caller_does_not_lose_the_answer(tmp_path: Path) -> None:
    async def fill() -> None:
        with Journal(tmp_path / "journal.jsonl") as journal:
            task = asyncio.create_task(journal.append(record(1)))
            await asyncio.sleep(0)
            task.cancel()
            await journal.flush()
            assert record(1)["key"] in journal

    asyncio.run(fill())


def test_a_full_disk_is_told_and_nothing_counts_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    async def fill() -> None:
        with Journal(tmp_path / "journal.jsonl") as journal:
            monkeypatch.setattr(os, "write", full)
            with pytest.raises(KaiyuanError, match="No space left on device"):
                await journal.append(record(1))
            monkeypatch.undo()
            assert record(1)["key"] not in journal
            with pytest.raises(KaiyuanError, match="cannot be written"):
                await journal.append(record(2))

    asyncio.run(fill())


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    holding = "import sys, time\nfrom pathlib import Path\nfrom kaiyuan.synthesis.llm.journal import Journal\n"
    holding += f"j = Journal(Path({str(path)!r}))\nprint('held', flush=True)\ntime.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", holding], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    with pytest.raises(KaiyuanError, match=rf"another run \(process {child.pid}\) is at work here"):
        Journal(path)
    child.kill()
    child.wait()
    child.stdout.close()
    Journal(path).close()


def test_the_address_of_an_answer_is_what_was_asked() -> None:
    ask = [{"role": "user", "content": "hi"}]
    call = Call("critic", ask, {"temperature": 0.5, "max_tokens": 8})
    same = Call("judge", [dict(reversed(ask[0].items()))], {"max_tokens": 8, "temperature": 0.5})
    assert call.key("m") == same.key("m")
    others = [
        call.key("n"),
        Call("critic", ask, {"temperature": 0.5, "max_tokens": 9}).key("m"),
        Call("critic", [{"role": "user", "content": "hi "}], call.parameters).key("m"),
        Call("critic", ask, call.parameters, sample=1).key("m"),
    ]
    assert len({call.key("m"), *others}) == 5
    assert json.loads(json.dumps(call.key("m"))) == call.key("m") and len(call.key("m")) == 64

"""kill -9 at random moments: no answer that is on disk is ever asked for again, and the end is as without kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

from fake_models import FakeModels, Rates, listening
from llm_config import as_toml, values, write_seeds

from kaiyuan.files import read_jsonl
from kaiyuan.synthesis.llm.command import synthesize_llm
from kaiyuan.synthesis.llm.journal import records

CONCURRENCY, KILLS, ENDPOINTS = 4, 6, 5
PROGRAM = """
import signal, sys
from pathlib import Path
from kaiyuan.synthesis.llm.command import synthesize_llm
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell inherits that it is ignored
synthesize_llm(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def start(config: Path, out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(config), str(out)], stderr=subprocess.PIPE)


def journaled(out: Path) -> set[int]:
    """The answers on disk, by the seed that was sent with the question: it is the beginning of the key."""
    path = out / "journal.jsonl"
    return {int(record["key"][:7], 16) for record in records(path)} if path.exists() else set()


def messages_of(out: Path) -> list[str]:
    return [json.dumps(row["messages"], ensure_ascii=False) for row in read_jsonl(out / "sft.jsonl")]


def kill_after(process: subprocess.Popen[bytes], out: Path, answers: int, delay: float) -> None:
    while len(journaled(out)) < answers and process.poll() is None:
        time.sleep(0.002)
    time.sleep(delay)
    assert process.poll() is None, "the run was to be killed before its end"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def test_kill_minus_nine_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    app, rng, out = FakeModels(Rates(wrong=0.2), latency=0.01), Random(5), tmp_path / "out"
    config, seeds = tmp_path / "synthesis.toml", write_seeds(tmp_path / "seeds.jsonl", 16)
    with listening(app) as url:
        config.write_text(as_toml(values(url, seeds, endpoint={"concurrency": CONCURRENCY})))
        known: set[int] = set()
        for number in range(KILLS + 1):
            asked_before = len(app.asked)
            process = start(config, out)
            if number < KILLS:
                kill_after(process, out, len(known) + 10 + rng.randrange(15), rng.random() * 0.02)
            else:
                _, said = process.communicate(timeout=120)
                assert process.returncode == 0, said.decode()
            assert not known & set(app.asked[asked_before:]), "what was on disk is not asked again"
            known = journaled(out)
            lost = len(app.served) - len(known)
            assert lost <= ENDPOINTS * CONCURRENCY, "only what was under way at this kill can be missing"
        repeated = sum(app.served.values()) - len(app.served)
        assert len(app.served) == len(known) > 150
        assert repeated <= KILLS * ENDPOINTS * CONCURRENCY
        keys = [record["key"] for record in records(out / "journal.jsonl")]
        assert len(keys) == len(set(keys))
    calm = FakeModels(Rates(wrong=0.2))
    with listening(calm) as url:
        config.write_text(as_toml(values(url, seeds)))
        synthesize_llm(config, tmp_path / "calm")
    assert messages_of(out) == messages_of(tmp_path / "calm") != []
    assert calm.served.keys() == app.served.keys()


def test_an_interrupt_keeps_what_is_under_way(tmp_path: Path) -> None:
    app, out = FakeModels(latency=0.3), tmp_path / "out"
    with listening(app) as url:
        config = tmp_path / "synthesis.toml"
        config.write_text(as_toml(values(url, write_seeds(tmp_path / "seeds.jsonl", 30), endpoint={"concurrency": 8})))
        process = start(config, out)
        while len(app.served) < 12:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        assert process.returncode != 0 and b"answers that are under way" in said
        assert len(app.asked) == len(app.served) == len(journaled(out))

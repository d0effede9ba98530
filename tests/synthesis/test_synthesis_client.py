"""The client against a server with faults: what is tried again, what is not, and how limits are kept."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_models import FakeModels, Rates, listening, respond
from llm_config import config, write_seeds

from kaiyuan.errors import ConfigError
from kaiyuan.synthesis.llm.calls import Answer, EndpointFailed, RowFailed
from kaiyuan.synthesis.llm.client import Asker
from kaiyuan.synthesis.llm.journal import Journal
from kaiyuan.synthesis.llm.limits import Bucket
from kaiyuan.synthesis.llm.meter import Meter
from kaiyuan.synthesis.llm.wire import Failure, parse, patience

OPEN = "Explain why goods lose value."


@pytest.fixture
def models() -> Iterator[tuple[FakeModels, str]]:
    app = FakeModels()
    with listening(app) as url:
        yield app, url


def ask(
    url: str, folder: Path, count: int = 1, together: bool = True, meter: Meter | None = None, **sections: Any
) -> list[Any]:
    """Answers (or exceptions) to ``count`` different questions."""
    made = config(url, write_seeds(folder / "seeds.jsonl", 1), **sections)

    async def run() -> list[Any]:
        with Journal(folder / "journal.jsonl") as journal:
            async with Asker(made, journal, meter or Meter()) as asker:
                questions = [[{"role": "user", "content": f"{OPEN} {number}"}] for number in range(count)]
                if not together:
                    return [await asker.ask("responders.default", question) for question in questions]
                jobs = [asker.ask("responders.default", question) for question in questions]
                return await asyncio.gather(*jobs, return_exceptions=True)

    return asyncio.run(run())


class Scripted:
    """Answers each request by the next of ``replies`` (the last for ever): (status, body, headers)."""

    def __init__(self, *replies: tuple[int, bytes, list[tuple[bytes, bytes]]]) -> None:
        self.replies, self.times = list(replies), list[float]()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.times.append(time.monotonic())
        status, body, headers = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        await respond(send, status, body, headers)


def body(text: str = "fine") -> bytes:
    return json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).encode()


GOOD = (200, body(), [])


@pytest.mark.parametrize("fault", ["429", "500", "truncated", "dropped", "empty"])
def test_passing_faults_are_tried_again(models: tuple[FakeModels, str], tmp_path: Path, fault: str) -> None:
    app, url = models
    app.rates = Rates(faults={fault: 0.4})
    meter = Meter()
    answers = ask(url, tmp_path, 30, meter=meter, client={"tries": 20, "breaker": 1000})
    assert all(isinstance(answer, Answer) for answer in answers)
    assert max(app.tries.values()) > 1 and set(app.served.values()) == {1}
    assert sum(meter.roles["responders.default"].failures.values()) == sum(app.tries.values()) - 30


def test_an_answer_that_trickles_for_ever_is_given_up(models: tuple[FakeModels, str], tmp_path: Path) -> None:
    app, url = models
    app.rates = Rates(faults={"slow": 1.0})
    start = time.monotonic()
    (failed,) = ask(url, tmp_path, endpoint={"timeout": 0.3}, client={"tries": 2, "backoff": 0.01})
    assert isinstance(failed, RowFailed) and "no whole answer in 0.3 s (2 tries)" in failed.reason
    assert time.monotonic() - start < 2


def test_retry_after_is_honoured_by_every_request(tmp_path: Path) -> None:
    app = Scripted((429, b"{}", [(b"retry-after", b"0.5")]), GOOD)
    with listening(app) as url:
        answers = ask(url, tmp_path, 3, endpoint={"concurrency": 1})
    assert [answer.text for answer in answers] == ["fine"] * 3
    assert len(app.times) == 4 and app.times[1] - app.times[0] >= 0.5


def test_dates_and_nonsense_in_retry_after() -> None:
    assert patience("3") == 3 and patience("-1") == 0 and patience(None) is None
    assert patience("nan") is None and patience("inf") is None and patience("soon") is None
    assert patience("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert 0 < (patience("Wed, 21 Oct 2065 07:28:00 GMT") or 0) < 3e9


def test_back_off_grows(tmp_path: Path) -> None:
    app = Scripted((500, b"", []), (500, b"", []), (500, b"", []), GOOD)
    with listening(app) as url:
        ask(url, tmp_path, client={"backoff": 0.1, "longest_backoff": 10.0})
    gaps = [after - before for before, after in zip(app.times, app.times[1:], strict=False)]
    for number, gap in enumerate(gaps):
        assert 0.05 * 2**number <= gap < 0.1 * 2**number + 0.2


@pytest.mark.parametrize("status", [400, 413, 422])
def test_our_own_mistakes_are_not_tried_again(tmp_path: Path, status: int) -> None:
    app = Scripted((status, b'{"error": {"message": "too\\nlong"}}', []))
    with listening(app) as url:
        (failed,) = ask(url, tmp_path)
    assert isinstance(failed, RowFailed) and failed.reason == f"solver: status {status}: too long"
    assert len(app.times) == 1


@pytest.mark.parametrize("status, said, hint", [
    (401, "bad key sk-very-secret-key", "check the key in \\$SOME_KEY"),
    (404, "no such model", "mend that and run the same command"),
    (429, "insufficient_quota", "mend that"),
    (307, "elsewhere", "mend that"),
])  # fmt: skip
def test_what_no_try_can_mend_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, said: str, hint: str
) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-very-secret-key")
    app = Scripted((status, json.dumps({"error": {"message": said}}).encode(), []))
    with listening(app) as url:
        (failed,) = ask(url, tmp_path, endpoint={"api_key_env": "SOME_KEY"})
    assert isinstance(failed, EndpointFailed)
    with pytest.raises(EndpointFailed, match=hint):
        raise failed
    assert "secret" not in str(failed) and "sk-very-" not in str(failed)
    assert len(app.times) == 1


def test_a_dead_endpoint_is_told_once_and_found_again(
    models: tuple[FakeModels, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app, url = models
    app.down = True

    async def run() -> list[Answer]:
        made = config(
            url, write_seeds(tmp_path / "seeds.jsonl", 1), client={"tries": 2, "breaker": 5, "probe_every": 0.1}
        )
        with Journal(tmp_path / "journal.jsonl") as journal:
            async with Asker(made, journal, Meter()) as asker:
                rows = [asker.ask("judge", [{"role": "user", "content": OPEN}], sample) for sample in range(40)]
                waiting = asyncio.gather(*rows, return_exceptions=True)
                await asyncio.sleep(1.0)
                while_down = len(app.times)
                app.down = False
                answers = await waiting
                assert while_down <= 16 * 2 + 11, "16 at once, then one try every 0.1 s"
                return answers

    answers = asyncio.run(run())
    lines = [line for line in capsys.readouterr().err.splitlines() if "endpoint judge" in line]
    assert len(lines) == 2 and "is down (status 500" in lines[0] and "is back after" in lines[1]
    assert sum(isinstance(answer, Answer) for answer in answers) >= 24, "only tries from before the breaker may fail"


def test_an_endpoint_that_stays_down_ends_the_run(tmp_path: Path) -> None:
    answers = ask(
        "http://127.0.0.1:9/v1", tmp_path, 4, client={"breaker": 2, "probe_every": 0.1, "give_up": 0.5, "backoff": 0.01}
    )
    assert any(isinstance(answer, EndpointFailed) and "has been down for" in str(answer) for answer in answers)


def test_a_patience_beyond_measure_counts_as_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app = Scripted((429, b"{}", [(b"retry-after", b"86400")]))
    with listening(app) as url:
        (failed,) = ask(url, tmp_path, client={"give_up": 0.3, "longest_retry_after": 60.0})
    assert isinstance(failed, EndpointFailed) and "it asks to wait 86400 s" in capsys.readouterr().err


def test_concurrency_is_kept_and_used(models: tuple[FakeModels, str], tmp_path: Path) -> None:
    app, url = models
    app.latency = 0.05
    ask(url, tmp_path, 40, endpoint={"concurrency": 5})
    assert app.busiest == 5


def test_requests_per_minute_are_kept(models: tuple[FakeModels, str], tmp_path: Path) -> None:
    _, url = models
    start = time.monotonic()
    ask(url, tmp_path, 20, endpoint={"requests_per_minute": 600})
    assert time.monotonic() - start >= 10 / 9.84, "10 at once, the other 10 at 590 a minute"


def test_no_minute_has_more_than_the_limit() -> None:
    for limit in (6, 60, 600):
        bucket = Bucket(limit, clock=lambda: 0.0)
        times = [bucket.take(1) for _ in range(5 * limit)]
        for start in times:
            assert sum(start <= when < start + 60 - 1e-6 for when in times) <= limit
        assert times[-1] < 5 * 60 * (1.2 if limit == 6 else 1.05)


def test_estimated_tokens_are_settled() -> None:
    now = 0.0
    bucket = Bucket(6000, clock=lambda: now)
    assert bucket.take(100) == 0
    assert bucket.take(100) == pytest.approx(1, rel=0.05)
    bucket.settle(190)
    now = 2.0
    assert bucket.take(50) == 0


def test_an_endless_answer_is_cut_off(tmp_path: Path) -> None:
    app = Scripted((200, body("x" * 100_000), []))
    with listening(app) as url:
        (failed,) = ask(url, tmp_path, client={"answer_bytes": 10_000})
    assert isinstance(failed, RowFailed) and "longer than 10000 bytes" in failed.reason and len(app.times) == 1


@pytest.mark.parametrize("content", [
    b"", b"[]", b"null", b"{}", b'{"choices": []}', b'{"choices": [{"message": null}]}', b"[" * 50_000, b"\xff",
    b'{"choices": [{"message": {"content": 7}}]}', b'{"choices": [{"message": {"content": " "}}]}', body()[:-3],
])  # fmt: skip
def test_odd_bodies_are_failures_to_try_again(content: bytes) -> None:
    with pytest.raises(Failure) as caught:
        parse(content, "00", 0.0)
    assert caught.value.again and not caught.value.fatal


def test_strange_usage_and_text_are_taken_with_care() -> None:
    choice = b'{"message": {"content": "a\\u0000b\\ud800"}, "finish_reason": 1}'
    usage = b'{"prompt_tokens": "many", "completion_tokens": -4}'
    raw = b'{"model": 3, "usage": ' + usage + b', "choices": [' + choice + b"]}"
    answer = parse(raw, "00", 0.0)
    assert (answer.text, answer.tokens_in, answer.tokens_out, answer.model, answer.finish) == ("ab?", 0, 0, "", "stop")


def test_equal_questions_are_paid_once(models: tuple[FakeModels, str], tmp_path: Path) -> None:
    app, url = models
    made = config(url, write_seeds(tmp_path / "seeds.jsonl", 1))
    meter = Meter()

    async def run() -> None:
        with Journal(tmp_path / "journal.jsonl") as journal:
            async with Asker(made, journal, meter) as asker:
                same = [asker.ask("responders.default", [{"role": "user", "content": OPEN}]) for _ in range(10)]
                await asyncio.gather(*same)
                await asker.ask("responders.default", [{"role": "user", "content": OPEN}])

    asyncio.run(run())
    asyncio.run(run())
    assert sum(app.tries.values()) == 1
    assert (meter.roles["responders.default"].calls, meter.roles["responders.default"].earlier) == (1, 0)


def test_answers_under_way_are_kept_when_the_run_stops(models: tuple[FakeModels, str], tmp_path: Path) -> None:
    app, url = models
    app.latency = 0.3
    made = config(url, write_seeds(tmp_path / "seeds.jsonl", 1), endpoint={"concurrency": 4})

    async def run() -> None:
        with Journal(tmp_path / "journal.jsonl") as journal:
            async with Asker(made, journal, Meter()) as asker:
                jobs = [
                    asyncio.create_task(asker.ask("judge", [{"role": "user", "content": OPEN}], sample))
                    for sample in range(20)
                ]
                await asyncio.sleep(0.15)
                for job in jobs:
                    job.cancel()
            assert len(journal) == 4

    asyncio.run(run())
    assert sum(app.served.values()) == 4


def test_the_budget_ends_the_run(models: tuple[FakeModels, str], tmp_path: Path) -> None:
    _, url = models
    with pytest.raises(EndpointFailed, match=r"the budget of 5e-05 is spent .* raise run.budget"):
        ask(url, tmp_path, 50, together=False, run={"budget": 0.00005})


def test_the_key_is_sent_and_a_missing_one_is_told(
    models: tuple[FakeModels, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, url = models
    with pytest.raises(ConfigError, match="the environment variable SOME_KEY is not set"):
        ask(url, tmp_path, endpoint={"api_key_env": "SOME_KEY"})
    monkeypatch.setenv("SOME_KEY", "sk-very-secret-key")
    ask(url, tmp_path, endpoint={"api_key_env": "SOME_KEY"})
    assert app.headers[-1]["authorization"] == "Bearer sk-very-secret-key"
    assert not any(b"very-secret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_server_without_usage_is_estimated(tmp_path: Path) -> None:
    with listening(Scripted(GOOD)) as url:
        (answer,) = ask(url, tmp_path)
    assert answer.tokens_in > 5 and answer.tokens_out == 1

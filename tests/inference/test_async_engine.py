"""The engine behind a server: many listeners, aborts, a full queue, a failing step, stopping."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest
from tiny_models import TINY, build

from kaiyuan.errors import KaiyuanError
from kaiyuan.inference import Engine, Piece, SamplingParams
from kaiyuan.inference.async_engine import AsyncEngine, Draining, EngineFailure, QueueFull

MODEL = build(TINY.replace(max_position_embeddings=256))
LONG = SamplingParams(temperature=0, max_tokens=200)


def run(body: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(body, 60))


async def tokens_of(pieces: AsyncIterator[Piece]) -> list[int]:
    return [token.token_id async for piece in pieces for token in piece.tokens]


async def settled(served: AsyncEngine) -> None:
    while len(served.engine) or served._asked or served._orders or served._listeners:
        await asyncio.sleep(0.01)
    assert served.engine.pool.used == 0


def test_many_requests_at_once_get_their_own_answers() -> None:
    async def body() -> None:
        served = AsyncEngine(Engine(MODEL, max_num_seqs=5))
        served.start()
        prompts = [[place % 48, 1, 2] for place in range(30)]
        params = SamplingParams(temperature=0.9, max_tokens=9, seed=2)
        found = await asyncio.gather(*[tokens_of(await served.submit(prompt, params)) for prompt in prompts])
        expected = [completion.token_ids for completion in Engine(MODEL).generate(prompts, params)]
        assert list(found) == expected
        several = [piece async for piece in await served.submit([3], SamplingParams(max_tokens=4, n=3, seed=1))]
        assert sorted(piece.index for piece in several if piece.finish_reason) == [0, 1, 2]
        await settled(served)
        stats = served.stats()
        assert (stats.running, stats.waiting, stats.kv_blocks_used) == (0, 0, 0)
        assert stats.requests_finished["length"] == 33
        assert stats.generation_tokens == 30 * 9 + 3 * 4
        assert stats.prompt_tokens == 30 * 3 + 3
        await served.stop()
        assert not served.healthy

    run(body())


def test_closing_the_iterator_or_cancelling_the_task_aborts() -> None:
    async def body() -> None:
        served = AsyncEngine(Engine(MODEL))
        served.start()
        pieces = await served.submit([1, 2], LONG)
        await anext(pieces)
        await pieces.aclose()
        task = asyncio.create_task(tokens_of(await served.submit([4], LONG)))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await (await served.submit([5], LONG)).aclose()
        await settled(served)
        assert served.stats().requests_finished["abort"] == 3
        await served.stop()

    run(body())


def test_a_full_queue_and_bad_prompts_are_refused_at_once() -> None:
    async def body() -> None:
        served = AsyncEngine(Engine(MODEL, max_num_seqs=1), max_waiting=1)
        served.start()
        open_ones = [await served.submit([1], LONG), await served.submit([2], LONG)]
        with pytest.raises(QueueFull, match="2 requests are under way or wait"):
            await served.submit([3], LONG)
        for pieces in open_ones:
            await tokens_of(pieces)
        with pytest.raises(KaiyuanError, match="the prompt is empty"):
            await served.submit([], LONG)
        assert len(await tokens_of(await served.submit([3], LONG))) == 200
        await served.stop()

    run(body())


def test_a_burst_does_not_slip_past_the_full_queue() -> None:
    """All of it asks before the first prompt has been prepared."""

    async def body() -> None:
        served = AsyncEngine(Engine(MODEL, max_num_seqs=2), max_waiting=3)
        served.start()
        asked = await asyncio.gather(*[served.submit([1], LONG) for _ in range(40)], return_exceptions=True)
        refused = [answer for answer in asked if isinstance(answer, QueueFull)]
        assert len(refused) == 35
        for answer in asked:
            if not isinstance(answer, BaseException):
                await answer.aclose()
        await settled(served)
        await served.stop()

    run(body())


def test_a_request_prepared_while_the_server_stops_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        served = AsyncEngine(Engine(MODEL))
        served.start()
        prepare = served.engine.prepare

        def slow(*args: Any) -> Any:
            time.sleep(0.3)
            return prepare(*args)

        monkeypatch.setattr(served.engine, "prepare", slow)
        late = asyncio.create_task(served.submit([1], LONG))
        await asyncio.sleep(0.05)
        await served.stop(drain_seconds=0)
        with pytest.raises(Draining):
            await tokens_of(await late)
        assert served._asked == 0

    run(body())


def test_an_order_left_when_the_thread_ends_is_not_forgotten() -> None:
    async def body() -> None:
        served = AsyncEngine(Engine(MODEL))
        pieces = await served.submit([1], LONG)
        served._leave = True
        served.start()
        with pytest.raises(Draining):
            await tokens_of(pieces)
        await served.stop()
        assert served.engine.pool.used == len(served.engine) == 0

    run(body())


def test_a_closed_event_loop_does_not_stop_the_engine() -> None:
    served = AsyncEngine(Engine(MODEL))
    served.start()
    loop = asyncio.new_event_loop()
    forgotten = loop.run_until_complete(served.submit([1], LONG))
    loop.close()

    async def body() -> None:
        assert len(await tokens_of(await served.submit([2], LONG))) == 200
        forgotten._close()
        await settled(served)
        await served.stop()

    run(body())


def test_stopping_finishes_what_is_under_way_or_ends_it_in_time() -> None:
    async def body() -> None:
        served = AsyncEngine(Engine(MODEL))
        served.start()
        answer = asyncio.create_task(tokens_of(await served.submit([1], LONG)))
        stopping = asyncio.create_task(served.stop(drain_seconds=30))
        await asyncio.sleep(0)
        with pytest.raises(Draining):
            await served.submit([1], LONG)
        assert len(await answer) == 200
        await stopping
        hasty = AsyncEngine(Engine(MODEL))
        hasty.start()
        cut = asyncio.create_task(tokens_of(await hasty.submit([1], LONG)))
        await asyncio.sleep(0)
        await hasty.stop(drain_seconds=0)
        with pytest.raises(Draining):
            await cut
        assert hasty.engine.pool.used == 0

    run(body())


def test_a_failing_step_is_told_to_those_it_hits_and_the_next_request_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def body() -> None:
        served = AsyncEngine(Engine(MODEL))
        step = served.engine._runner.run
        monkeypatch.setattr(served.engine._runner, "run", lambda plan: 1 / 0)
        served.start()
        with pytest.raises(EngineFailure, match="the engine failed at this request"):
            await tokens_of(await served.submit([1], LONG))
        monkeypatch.setattr(served.engine._runner, "run", step)
        assert len(await tokens_of(await served.submit([1], LONG))) == 200
        await settled(served)
        await served.stop()

    run(body())
    assert "ZeroDivisionError" in "".join(capsys.readouterr())

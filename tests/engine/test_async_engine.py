"""The engine's thread seen from an event loop: nothing lost, nothing late, nothing left behind."""

import asyncio
import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable

import pytest
from driver import Outcome, make_request, sort_events
from fake_runner import FakeRunner, expected_tokens

from llamastream.config import EngineConfig
from llamastream.engine.async_engine import AsyncEngine
from llamastream.engine.llm_engine import LLMEngine
from llamastream.errors import EngineDead, InternalError, InvalidRequest, ModelError, Overloaded
from llamastream.types import EngineState, Event, Failed, Finished, FinishReason

TIMEOUT_S = 10.0  # far beyond what any test needs; only a failure takes so long


class ReadEngine(AsyncEngine):
    """Keeps what it says until a test reads it."""

    def begin(self) -> None:
        self.said: asyncio.Queue[list[Event] | None] = asyncio.Queue()
        self.start(self.said.put_nowait, lambda: self.said.put_nowait(None))

    async def steps(self) -> AsyncIterator[list[Event]]:
        while (events := await self.said.get()) is not None:
            yield events


@contextlib.asynccontextmanager
async def running(runner: FakeRunner | None = None, **config: object) -> AsyncIterator[ReadEngine]:
    runner = runner or FakeRunner()
    engine = ReadEngine(lambda: LLMEngine(runner, EngineConfig(**config)))  # type: ignore[arg-type]
    engine.begin()
    await engine.ready()
    try:
        yield engine
    finally:
        runner.open_gate()
        await engine.stop()


async def collect(
    engine: ReadEngine, until: Callable[[dict[str, Outcome]], bool], *, start: Iterable[Event] = ()
) -> dict[str, Outcome]:
    """Read steps until the outcomes so far, those of `start` included, satisfy `until`."""
    outcomes: dict[str, Outcome] = defaultdict(Outcome)
    sort_events(start, outcomes)
    async with asyncio.timeout(TIMEOUT_S):
        async for events in engine.steps():
            sort_events(events, outcomes)
            if until(outcomes):
                break
    return outcomes


def never(outcomes: dict[str, Outcome]) -> bool:
    """Read on until the engine ends the iterator."""
    return False


def all_ended(count: int) -> Callable[[dict[str, Outcome]], bool]:
    return lambda outcomes: sum(outcome.end is not None for outcome in outcomes.values()) == count


async def test_requests_run_and_end() -> None:
    requests = [make_request(str(i), [i, 1, 2], max_tokens=10) for i in range(20)]
    async with running(max_num_seqs=4) as engine:
        for request in requests:
            engine.submit(request)
        outcomes = await collect(engine, all_ended(20))
        for request in requests:
            expected = expected_tokens(request, max_model_len=128, vocab_size=97)
            assert outcomes[request.request_id].token_ids == expected
        status = engine.status()
    assert status.state is EngineState.READY
    assert (status.num_running, status.num_waiting, status.num_free_blocks) == (0, 0, 64)


async def test_a_slow_consumer_misses_nothing() -> None:
    request = make_request("a", [1], max_tokens=100)
    gate = threading.Semaphore(1)
    async with running(FakeRunner(gate=gate)) as engine:
        engine.submit(request)
        first = await anext(engine.steps())
        gate.release(99)
        # Block the loop until all steps are done: their events wait, in order.
        deadline = time.monotonic() + TIMEOUT_S
        while engine.status().num_free_blocks < 64 and time.monotonic() < deadline:
            time.sleep(0.001)  # noqa: ASYNC251 - being slow is the point
        outcomes = await collect(engine, all_ended(1), start=first)
    assert outcomes["a"].token_ids == expected_tokens(request, max_model_len=128, vocab_size=97)
    assert isinstance(outcomes["a"].end, Finished)


async def test_cancel_frees_the_blocks_before_the_next_step() -> None:
    gate = threading.Semaphore(0)
    runner = FakeRunner(gate=gate)
    async with running(runner) as engine:
        engine.submit(make_request("a", [1] * 8, max_tokens=50))
        await asyncio.to_thread(runner.entered.wait, TIMEOUT_S)
        engine.submit(make_request("b", [2] * 8, max_tokens=50))
        engine.cancel("a")  # while its first step is under way
        gate.release(2)
        outcomes = await collect(engine, lambda outcomes: outcomes["b"].tokens != [])
        end = outcomes["a"].end
        assert isinstance(end, Finished) and end.reason is FinishReason.CANCELLED
        assert end.num_output_tokens == 1
        assert runner.step_sizes == [8, 8]  # the second step was b's alone
        assert engine.status().num_free_blocks == 64 - 2


async def test_a_full_queue_answers_at_once_while_a_step_runs() -> None:
    gate = threading.Semaphore(0)
    runner = FakeRunner(gate=gate)
    async with running(runner, max_num_seqs=1, max_num_waiting=2) as engine:
        engine.submit(make_request("0", [1], max_tokens=2))
        await asyncio.to_thread(runner.entered.wait, TIMEOUT_S)
        for i in (1, 2):
            engine.submit(make_request(str(i), [1], max_tokens=2))
        assert engine.status().num_waiting >= 2
        with pytest.raises(Overloaded):
            engine.submit(make_request("3", [1], max_tokens=2))
        assert runner.step_sizes == []  # the engine thread did not take part
        gate.release(100)
        await collect(engine, all_ended(3))
        engine.submit(make_request("3", [1], max_tokens=2))
        await collect(engine, all_ended(1))


async def test_bad_requests_are_refused_in_submit() -> None:
    async with running() as engine:
        with pytest.raises(InvalidRequest, match="at least 1 token"):
            engine.submit(make_request("a", []))
        assert engine.status().num_waiting == 0


async def test_loading_refuses_and_reports_then_serves() -> None:
    loaded = threading.Event()

    def load() -> LLMEngine:
        assert loaded.wait(TIMEOUT_S)
        return LLMEngine(FakeRunner(), EngineConfig())

    engine = ReadEngine(load)
    assert engine.status().state is EngineState.LOADING
    engine.begin()
    assert engine.status().state is EngineState.LOADING
    with pytest.raises(EngineDead, match="loading"):
        engine.submit(make_request("a", [1], max_tokens=1))
    loaded.set()
    await engine.ready()
    assert engine.status().state is EngineState.READY
    engine.submit(make_request("a", [1], max_tokens=1))
    await collect(engine, all_ended(1))
    await engine.stop()


async def test_a_model_that_does_not_load_is_reported_and_refused() -> None:
    def load() -> LLMEngine:
        raise ModelError("no such model")

    engine = ReadEngine(load)
    engine.begin()
    with pytest.raises(ModelError, match="no such model"):
        await engine.ready()
    assert engine.status().state is EngineState.DEAD
    with pytest.raises(EngineDead):
        engine.submit(make_request("a", [1], max_tokens=1))
    assert await collect(engine, never) == {}
    await engine.stop()


async def test_stop_while_loading_does_not_wait() -> None:
    loaded = threading.Event()
    runner = FakeRunner()

    def load() -> LLMEngine:
        assert loaded.wait(TIMEOUT_S)
        return LLMEngine(runner, EngineConfig())

    engine = ReadEngine(load)
    engine.begin()
    async with asyncio.timeout(TIMEOUT_S):
        await engine.stop()
    assert await collect(engine, never) == {}
    assert engine.status().state is EngineState.DEAD
    loaded.set()
    await asyncio.to_thread(engine._thread.join, TIMEOUT_S)
    assert runner.is_closed


async def test_stop_fails_what_is_unfinished_and_ends_thread_and_runner() -> None:
    gate = threading.Semaphore(0)
    runner = FakeRunner(gate=gate)
    async with running(runner, max_num_seqs=1) as engine:
        for i in range(2):
            engine.submit(make_request(str(i), [1], max_tokens=50))
        await asyncio.to_thread(runner.entered.wait, TIMEOUT_S)
        stopping = asyncio.ensure_future(engine.stop())
        await asyncio.sleep(0)
        runner.open_gate()  # the stop is in the inbox by now: one step ends, no other begins
        await stopping
        outcomes = await collect(engine, never)
        for i in range(2):
            end = outcomes[str(i)].end
            assert isinstance(end, Failed) and isinstance(end.error, EngineDead)
        assert len(runner.step_sizes) == 1
        assert runner.is_closed and not engine._thread.is_alive()
        with pytest.raises(EngineDead):
            engine.submit(make_request("late", [1], max_tokens=1))


async def test_a_failing_step_fails_all_and_the_next_request_succeeds() -> None:
    async with running(FakeRunner(failures=[3]), max_num_seqs=2) as engine:
        for i in range(4):
            engine.submit(make_request(str(i), [i], max_tokens=50))
        outcomes = await collect(engine, all_ended(4))
        for outcome in outcomes.values():
            assert isinstance(outcome.end, Failed)
            assert type(outcome.end.error) is InternalError
        request = make_request("next", [1], max_tokens=5)
        engine.submit(request)
        outcomes = await collect(engine, all_ended(1))
        expected = expected_tokens(request, max_model_len=128, vocab_size=97)
        assert outcomes["next"].token_ids == expected


async def test_a_dead_engine_refuses_and_ends_its_steps() -> None:
    async with running(FakeRunner(failures=[0, 1, 2])) as engine:
        for i in range(3):
            engine.submit(make_request(str(i), [i], max_tokens=5))
            if i < 2:
                await collect(engine, all_ended(1))
        outcomes = await collect(engine, never)  # until the engine ends it
        assert isinstance(outcomes["2"].end, Failed)
        assert engine.status().state is EngineState.DEAD
        with pytest.raises(EngineDead):
            engine.submit(make_request("late", [1], max_tokens=1))


async def test_a_request_behind_the_last_step_of_a_dying_engine_is_failed() -> None:
    gate = threading.Semaphore(0)
    runner = FakeRunner(failures=[0, 1, 2], gate=gate)
    async with running(runner) as engine:
        for i in range(2):
            engine.submit(make_request(str(i), [1], max_tokens=5))
            gate.release(1)
            await collect(engine, all_ended(1))
        runner.entered.clear()
        engine.submit(make_request("2", [1], max_tokens=5))
        await asyncio.to_thread(runner.entered.wait, TIMEOUT_S)
        engine.submit(make_request("behind", [1], max_tokens=5))  # accepted: not dead yet
        gate.release(1)
        outcomes = await collect(engine, never)
        assert isinstance(outcomes["2"].end, Failed)
        assert isinstance(outcomes["behind"].end, Failed)


async def test_many_clients_come_and_go() -> None:
    async with running(FakeRunner(num_blocks=40), max_num_seqs=8, max_num_waiting=400) as engine:
        for i in range(300):
            engine.submit(make_request(str(i), [i % 7] * (i % 30 + 1), max_tokens=i % 40 + 1))
            if i % 3 == 0:
                engine.cancel(str(i // 2))
            if i % 10 == 0:
                await asyncio.sleep(0)
        outcomes = await collect(engine, all_ended(300))
        assert all(isinstance(outcome.end, Finished) for outcome in outcomes.values())
        status = engine.status()
        assert (status.num_free_blocks, status.num_running, status.num_waiting) == (40, 0, 0)


async def test_an_idle_engine_sleeps() -> None:
    """Blocked in its inbox, not polling: no processor time is used while nothing comes in."""
    async with running() as engine:
        engine.submit(make_request("a", [1], max_tokens=1))
        await collect(engine, all_ended(1))
        before = time.process_time()
        await asyncio.sleep(0.2)
        assert time.process_time() - before < 0.05

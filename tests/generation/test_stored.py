"""Stored responses outlive their readers, their server and a failing store."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import llamastream.generation.durable as durable
import llamastream.generation.resuming as resuming
from llamastream.errors import ChatError, EngineDead, NotFound, Overloaded, StoreUnavailable
from llamastream.generation import Generation, NewAnswer, StoredAnswers, StorePolicy
from llamastream.generation.reader import MAX_READ
from llamastream.records import IdempotencyKey, Status
from llamastream.sampling import SamplingParams
from llamastream.types import ChatRequest, Delta, EngineState, FinishReason, Message
from tests.doubles.engine import FakeEngine
from tests.doubles.service import running_responses, says
from tests.doubles.store import FailingStore
from tests.doubles.waiting import LIMIT_S, until

HI = (Message("user", "hi"),)
TEXT = "One two three, é 😀 and so on."


def draft(id: str, **fields: Any) -> NewAnswer:
    return NewAnswer(id, {"model": "demo"}, store=True, **fields)


async def begin(responses: StoredAnswers, id: str, **options: Any) -> Generation:
    return await responses.create(ChatRequest(HI, **options), draft(id, background=True))


async def read(responses: StoredAnswers, log: Generation, *, start: int = 0) -> list[Delta]:
    """To the end, or to the error that is raised."""
    deltas: list[Delta] = []
    with log.follow(start) as reader:
        while not reader.exhausted:
            deltas += await reader.read()
    return deltas


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


async def cancelled(responses: StoredAnswers, id: str) -> bool:
    generation = await responses.cancel(id, scope="")
    assert generation.end is not None
    return generation.end.status is Status.CANCELLED


@asynccontextmanager
async def cut_off(engine: FakeEngine, folder: Path) -> AsyncIterator[StoredAnswers]:
    """A server that ends without parking anything, as one that is killed."""
    async with running_responses(engine, folder) as responses:
        yield responses

        async def nothing() -> None: ...

        responses._store.membership.leave = nothing  # type: ignore[method-assign]


@pytest.mark.parametrize("num_steps", [0, 1, 10, 33])
async def test_the_next_server_goes_on_at_the_next_token(tmp_path: Path, num_steps: int) -> None:
    first = FakeEngine(says(TEXT), manual=True)
    sampling = SamplingParams(temperature=0.7, top_k=5)
    async with cut_off(first, tmp_path) as responses:
        log = await begin(responses, "r", sampling=sampling)
        first.allow(num_steps)
        await until(lambda: log.num_public == num_steps)
    second = FakeEngine(says(TEXT))
    async with running_responses(second, tmp_path) as responses:
        log = await responses.find("r", scope="")
        assert text_of(await read(responses, log)) == TEXT
    again, before = second.submitted[0], first.submitted[0]
    assert again.output_ids == tuple(TEXT.encode()[:num_steps])
    assert (again.prompt_ids, again.sampling) == (tuple(before.prompt_ids), before.sampling)
    assert again.sampling.seed is not None


async def test_readers_may_come_while_the_model_still_loads(tmp_path: Path) -> None:
    first = FakeEngine(says(TEXT), manual=True)
    async with cut_off(first, tmp_path) as responses:
        log = await begin(responses, "r")
        first.allow(5)
        await until(lambda: log.num_public == 5)
    second = FakeEngine(says(TEXT), state=EngineState.LOADING)
    async with running_responses(second, tmp_path) as responses:
        log = await responses.find("r", scope="")
        with log.follow() as reader:
            assert text_of(await reader.read()) == TEXT[:5]
            assert second.submitted == []
            second.become_ready()
            assert text_of(await reader.read()) in TEXT


async def test_what_waits_for_the_model_or_its_turn_is_cancelled_at_once(tmp_path: Path) -> None:
    async with cut_off(FakeEngine(says(TEXT), manual=True), tmp_path) as responses:
        for id in ("loading", "queued"):
            await begin(responses, id)
    second = FakeEngine(says(TEXT), state=EngineState.LOADING, max_num_seqs=0, max_num_waiting=0)
    async with running_responses(second, tmp_path) as responses, asyncio.timeout(LIMIT_S):
        log = await responses.find("loading", scope="")
        reader = asyncio.create_task(read(responses, log))
        assert await cancelled(responses, "loading")
        assert (await reader)[-1].finish_reason is FinishReason.CANCELLED
        second.become_ready()
        await until(lambda: second.num_refused)
        assert await cancelled(responses, "queued")
    assert second.submitted == []


async def test_an_end_that_was_not_recorded_is_found_in_the_text(tmp_path: Path) -> None:
    first = FakeEngine(says("one two three"), manual=True)
    async with cut_off(first, tmp_path) as responses:
        responses._store.fail()  # type: ignore[attr-defined]
        responses._store.is_failing = False  # type: ignore[attr-defined]
        log = await begin(responses, "r", stop=("two",))
        hold = asyncio.get_running_loop().create_future()

        async def never(*_: object) -> Any:
            await hold

        responses._store.responses.finish = never  # type: ignore[method-assign]
        first.allow(100)
        await until(lambda: log.num_public == 7)
    second = FakeEngine(says("must not be asked"))
    async with running_responses(second, tmp_path) as responses:
        log = await responses.find("r", scope="")
        assert text_of(await read(responses, log)) == "one "
        assert log.end is not None and log.end.status is Status.COMPLETED
    assert second.submitted == []


async def test_what_brought_no_server_further_goes_on_one_at_a_time(tmp_path: Path) -> None:
    for _ in range(2):  # two servers without any progress
        async with cut_off(FakeEngine(says(TEXT), manual=True), tmp_path) as responses:
            for k in range(2):
                if responses.num_live < 2:
                    await begin(responses, f"suspect-{k}")
    engine = FakeEngine(says(TEXT), manual=True)
    async with cut_off(engine, tmp_path) as responses:
        await begin(responses, "other")
        await until(lambda: len(engine.submitted) == 2)
        asked = [request.request_id for request in engine.submitted]
        assert sorted(asked) == ["other", "suspect-0"]
        engine.allow(1)
        await until(lambda: len(engine.submitted) == 3)
        engine.allow(100)
        for id in ("other", "suspect-0", "suspect-1"):
            log = await responses.find(id, scope="")
            assert text_of(await read(responses, log)) == TEXT


async def test_another_model_shows_what_is_finished_and_does_not_go_on_with_the_rest(
    tmp_path: Path,
) -> None:
    first = FakeEngine(says(TEXT), manual=True)
    async with cut_off(first, tmp_path) as responses:
        finished = await begin(responses, "finished")
        first.allow(len(TEXT.encode()) + 1)  # no step is left for the other one
        await until(lambda: finished.end is not None)
        await begin(responses, "unfinished")
    second = FakeEngine(says("other"))
    async with running_responses(second, tmp_path, model_id="another") as responses:
        (delta,) = await read(responses, await responses.find("finished", scope=""))
        assert (delta.text, delta.token_ids) == (TEXT, ())
        log = await responses.find("unfinished", scope="")
        assert await read(responses, log) == []
        assert log.end is not None and log.end.status is Status.FAILED
        assert "another model" in (log.end.error or "")
    assert second.submitted == []


async def test_a_full_queue_stores_nothing(tmp_path: Path) -> None:
    engine = FakeEngine(says(TEXT), manual=True, max_num_seqs=1, max_num_waiting=0)
    async with running_responses(engine, tmp_path) as responses:
        await begin(responses, "r1")
        with pytest.raises(Overloaded):
            await begin(responses, "r2")
        with pytest.raises(NotFound):
            await responses.find("r2", scope="")


async def test_more_interrupted_ones_than_the_queue_holds_all_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cut_off(FakeEngine(says(TEXT), manual=True), tmp_path) as responses:
        for k in range(5):
            await begin(responses, f"r{k}")
    engine = FakeEngine(says(TEXT), max_num_seqs=1, max_num_waiting=1, retry_after_s=0)
    async with running_responses(engine, tmp_path) as responses:
        for k in range(5):
            log = await responses.find(f"r{k}", scope="")
            assert text_of(await read(responses, log)) == TEXT


async def test_a_stopped_engine_leaves_responses_to_the_next_start(tmp_path: Path) -> None:
    first = FakeEngine(says(TEXT), manual=True)
    async with running_responses(first, tmp_path) as responses:
        log = await begin(responses, "r")
        first.allow(3)
        await until(lambda: log.num_public == 3)
        first.die(EngineDead("The engine stopped before the answer was complete."))
        with pytest.raises(EngineDead):
            await read(responses, log)
    async with running_responses(FakeEngine(says(TEXT)), tmp_path) as responses:
        assert text_of(await read(responses, await responses.find("r", scope=""))) == TEXT


async def test_a_failing_store_interrupts_and_what_was_seen_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resuming, "STORE_RETRY_S", 0.01)
    engine = FakeEngine(says(TEXT), manual=True)
    async with running_responses(engine, tmp_path) as responses:
        store = responses._store
        assert isinstance(store, FailingStore)
        log = await begin(responses, "r")
        engine.allow(3)
        await until(lambda: log.num_public == 3)
        store.fail()
        engine.allow(2)
        with pytest.raises(StoreUnavailable, match="disk full"):
            await read(responses, log)
        await until(lambda: engine.num_alive == 1)  # tried again, and refused again
        engine.allow(2)
        await until(lambda: store.num_refused >= 2)
        store.fail(False)
        engine.allow(1000)
        deltas = await _read_in_the_end(responses, "r")
        assert text_of(deltas) == TEXT
        assert [delta.sequence_number for delta in deltas] == list(range(len(deltas)))


async def _read_in_the_end(responses: StoredAnswers, id: str) -> list[Delta]:
    async with asyncio.timeout(10):
        while True:
            try:
                return await read(responses, await responses.find(id, scope=""))
            except ChatError:
                await asyncio.sleep(0)


async def test_durability_may_continue_if_the_operator_says_so(tmp_path: Path) -> None:
    engine = FakeEngine(says(TEXT), manual=True)
    async with running_responses(engine, tmp_path, StorePolicy(may_continue=True)) as responses:
        store = responses._store
        assert isinstance(store, FailingStore)
        log = await begin(responses, "r")
        engine.allow(3)
        await until(lambda: log.num_public == 3)
        store.fail()
        engine.allow(5)
        await until(lambda: log.num_public == 8)
        assert len(await store.responses.tokens("r", scope="")) == 3
        store.fail(False)
        for num_public in (9, 10):
            engine.allow(1)
            await until(lambda expected=num_public: log.num_public == expected)  # type: ignore[misc]
        assert len(await store.responses.tokens("r", scope="")) == 10  # the gap is filled
        store.fail()
        engine.allow(1000)
        assert text_of(await read(responses, log)) == TEXT


async def test_all_that_was_drawn_is_shown_where_it_may_go_on_unstored(
    tmp_path: Path,
) -> None:
    """Steps that were given to the store later wait for it to give up each of them."""
    engine = FakeEngine(says(TEXT), manual=True)
    async with running_responses(engine, tmp_path, StorePolicy(may_continue=True)) as responses:
        store = responses._store
        assert isinstance(store, FailingStore)
        log = await begin(responses, "r")
        store.is_slow = True
        store.fail()
        for num_steps in (1, 2, 3):
            engine.allow(1)
            await until(lambda expected=num_steps: len(store.waiting) == expected)  # type: ignore[misc]
        store.give_up()
        await until(lambda: log.num_public == 3)
        store.is_slow = False
        while store.waiting:
            store.give_up()


async def test_what_ended_while_the_store_failed_is_stored_when_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stayed in progress until the next start, and who came again was refused."""
    monkeypatch.setattr(durable, "STORE_RETRY_S", 0.0)
    engine = FakeEngine(says(TEXT), manual=True)
    async with running_responses(engine, tmp_path, StorePolicy(may_continue=True)) as responses:
        store = responses._store
        assert isinstance(store, FailingStore)
        log = await begin(responses, "r")
        store.fail()
        engine.allow(1000)
        assert text_of(await read(responses, log)) == TEXT
        again = await responses.find("r", scope="")
        assert text_of(await read(responses, again)) == TEXT
        assert not await store.responses.tokens("r", scope="")
        store.fail(False)
        await until(lambda: responses.num_live == 0)
        assert (await store.responses.get("r", scope="")).status is Status.COMPLETED
        stored = await responses.find("r", scope="")
        assert stored is not log
        assert text_of(await read(responses, stored)) == TEXT


async def test_a_reader_that_lags_gets_every_token_a_bounded_number_at_a_time(
    tmp_path: Path,
) -> None:
    long = "x" * (3 * MAX_READ)
    async with running_responses(FakeEngine(says(long)), tmp_path) as responses:
        log = await begin(responses, "r")
        await until(lambda: log.end is not None)
        with log.follow() as reader:
            sizes = []
            while not reader.exhausted:
                sizes.append(len(await reader.read()))
        assert max(sizes) == MAX_READ
        assert log.log.text() == long
        late = await read(responses, log, start=len(long) - 2)
        assert [delta.token_ids for delta in late] == [(120,), (120,), (257,), ()]


async def test_tokens_are_shown_only_after_they_are_committed(tmp_path: Path) -> None:
    engine = FakeEngine(says(TEXT), manual=True)
    async with running_responses(engine, tmp_path) as responses:
        log = await begin(responses, "r")
        hold: asyncio.Future[dict[str, ChatError]] = asyncio.get_running_loop().create_future()
        append = responses._store.append
        responses._store.append = lambda tokens: hold  # type: ignore[method-assign]
        engine.allow(1)
        await until(lambda: len(log.log) == 1)
        assert log.num_public == 0
        responses._store.append = append  # type: ignore[method-assign]
        hold.set_result({})
        await until(lambda: log.num_public == 1)


async def test_a_caller_that_leaves_while_the_store_commits_leaves_a_response_that_goes_on(
    tmp_path: Path,
) -> None:
    """It was dropped here and yet committed: its key then found what nobody generated."""
    engine = FakeEngine(says(TEXT))
    async with running_responses(engine, tmp_path) as responses:
        keyed = draft("r", background=True, idempotency=IdempotencyKey("key", b"digest"))
        caller = asyncio.create_task(responses.create(ChatRequest(HI), keyed))
        await until(lambda: engine.submitted)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        again = replace(keyed, id="other")
        log = await responses.create(ChatRequest(HI), again)
        assert log.id == "r"
        assert text_of(await read(responses, log)) == TEXT


async def test_an_end_waits_for_the_answer_to_the_last_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step had failed and nobody was told yet: the end was stored without its tokens."""
    monkeypatch.setattr(resuming, "STORE_RETRY_S", 0.0)
    engine = FakeEngine(says("abc"), manual=True)
    async with running_responses(engine, tmp_path) as responses:
        store, log = responses._store, await begin(responses, "r")
        append = store.append

        def refuse(tokens: Any) -> Any:
            """Just before the end is looked at."""
            loop = asyncio.get_running_loop()
            future: asyncio.Future[Any] = loop.create_future()
            loop.call_soon(future.set_exception, StoreUnavailable("The database failed."))
            store.append = append  # type: ignore[method-assign]
            return future

        engine.tokens_per_step = 10  # all of the answer, and its end
        store.append = refuse  # type: ignore[method-assign, assignment]
        engine.allow(10)
        await until(lambda: log.end is not None)
        engine.allow(10)
        stored = await store.responses.tokens("r", scope="")
        assert bytes(token.token_id for token in stored[:-1]) == b"abc"


async def test_what_was_shown_while_the_journal_caught_up_is_stored_as_well(tmp_path: Path) -> None:
    """The end came before the next step could bring it."""
    engine = FakeEngine(says(TEXT), manual=True)
    async with running_responses(engine, tmp_path, StorePolicy(may_continue=True)) as responses:
        store = responses._store
        assert isinstance(store, FailingStore)
        log = await begin(responses, "r")
        store.fail()
        engine.allow(3)
        await until(lambda: log.num_public == 3)
        store.fail(False)
        filled: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        real, append = [], store.append

        def hold(tokens: Any) -> Any:
            real.append(append(tokens))
            store.append = append  # type: ignore[method-assign]
            return filled

        store.append = hold  # type: ignore[method-assign, assignment]
        engine.allow(1000)
        await until(lambda: engine.num_alive == 0)
        filled.set_result(await real[0])
        await until(lambda: responses.num_live == 0)
        stored = await store.responses.tokens("r", scope="")
        assert [token.token_id for token in stored] == list(log.log.token_ids())

"""Removed is removed: nothing of a stored response that is gone comes back, whatever was under way.

Each case holds back the store's word on a step until the response is gone, which is what happens
by chance where a client deletes, or retries, in the middle of an answer.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import llamastream.generation.durable as durable
import llamastream.generation.resuming as resuming
from llamastream.errors import ChatError, NotFound, StoreUnavailable
from llamastream.generation import NewAnswer, StoredAnswers, StorePolicy
from llamastream.records import IdempotencyKey
from llamastream.types import ChatRequest, Message
from tests.doubles.engine import FakeEngine
from tests.doubles.service import running_responses, says
from tests.doubles.waiting import LIMIT_S, until

HI = (Message("user", "hi"),)
KEY = IdempotencyKey("key", b"digest")
POLICIES = {"interrupt": StorePolicy(), "continue": StorePolicy(may_continue=True)}


class Held:
    """The store's outcomes of steps, given when the test says so."""

    def __init__(self, responses: StoredAnswers) -> None:
        self._append = responses._store.append
        self.steps: list[tuple[asyncio.Future[Any], asyncio.Future[Any]]] = []
        responses._store.append = self._hold  # type: ignore[method-assign, assignment]

    def _hold(self, tokens: Any) -> "asyncio.Future[Any]":
        real, shown = self._append(tokens), asyncio.get_running_loop().create_future()
        self.steps.append((real, shown))
        return shown

    async def release(self) -> None:
        while self.steps:
            real, shown = self.steps.pop(0)
            await asyncio.wait([real])
            if (error := real.exception()) is not None:
                shown.set_exception(error)
            else:
                shown.set_result(real.result())
        await settled()


async def settled() -> None:
    """Whatever is due in the loop has run."""
    for _ in range(20):
        await asyncio.sleep(0)


def draft(id: str, **fields: Any) -> NewAnswer:
    return NewAnswer(id, {"model": "demo"}, store=True, background=True, **fields)


@asynccontextmanager
async def in_progress(
    folder: Path, engine: FakeEngine, policy: str = "interrupt"
) -> AsyncIterator[tuple[StoredAnswers, Held]]:
    """A response "r" of two tokens, one of them on its way to the journal."""
    async with running_responses(engine, folder, POLICIES[policy]) as responses:
        log = await responses.create(ChatRequest(HI), draft("r"))
        engine.allow()
        await until(lambda: log.num_public == 1)
        held = Held(responses)
        engine.allow()
        await until(lambda: held.steps)
        async with asyncio.timeout(LIMIT_S):
            yield responses, held


async def assert_gone(responses: StoredAnswers, engine: FakeEngine, num_live: int = 0) -> None:
    engine.allow(10)
    await settled()
    assert responses.num_live == num_live
    assert engine.num_alive == num_live


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "STORE_RETRY_S", 0.0)
    monkeypatch.setattr(durable, "STORE_RETRY_S", 0.0)


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_step_that_comes_back_after_the_deletion_is_dropped(
    tmp_path: Path, policy: str
) -> None:
    engine = FakeEngine(says("x" * 50), manual=True)
    async with in_progress(tmp_path, engine, policy) as (responses, held):
        await responses.delete("r", scope="")
        await held.release()
        await assert_gone(responses, engine)
        with pytest.raises(NotFound):
            await responses.find("r", scope="")
        assert len(engine.submitted) == 1


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_step_refused_because_it_is_gone_is_not_tried_again(
    tmp_path: Path, policy: str
) -> None:
    """The store knows first that it is gone, here from behind the service's back."""
    engine = FakeEngine(says("x" * 50), manual=True)
    async with in_progress(tmp_path, engine, policy) as (responses, held):
        log = await responses.find("r", scope="")
        await responses._store.responses.delete("r", scope="")
        engine.allow()
        await until(lambda: len(held.steps) == 2)
        await held.release()
        await assert_gone(responses, engine)
        assert isinstance(log.error, NotFound)
        assert len(engine.submitted) == 1


@pytest.mark.parametrize("policy", POLICIES)
async def test_an_end_refused_because_it_is_gone_is_not_tried_again(
    tmp_path: Path, policy: str
) -> None:
    engine = FakeEngine(says("xy"), manual=True)
    async with in_progress(tmp_path, engine, policy) as (responses, held):
        await responses._store.responses.delete("r", scope="")
        engine.allow(10)
        await until(lambda: engine.num_alive == 0)
        await held.release()
        await assert_gone(responses, engine)


@pytest.mark.parametrize("policy", POLICIES)
async def test_what_was_parked_can_be_deleted(tmp_path: Path, policy: str) -> None:
    engine = FakeEngine(says("x" * 50), manual=True)
    async with in_progress(tmp_path, engine, policy) as (responses, held):
        _, shown = held.steps.pop()
        shown.set_exception(StoreUnavailable("The database failed: disk full."))
        await responses.delete("r", scope="")
        await assert_gone(responses, engine)
        with pytest.raises(NotFound):
            await responses.find("r", scope="")


@pytest.mark.parametrize("policy", POLICIES)
async def test_steps_of_a_retry_that_found_the_first_response_are_dropped(
    tmp_path: Path, policy: str
) -> None:
    engine = FakeEngine(says("x" * 50), manual=True)
    async with running_responses(engine, tmp_path, POLICIES[policy]) as responses:
        await responses.create(ChatRequest(HI), draft("first", idempotency=KEY))
        answered = asyncio.Event()
        create = responses._store.responses.create

        async def late(*args: Any, **kwargs: Any) -> Any:
            created = await create(*args, **kwargs)
            await answered.wait()
            return created

        responses._store.responses.create = late  # type: ignore[method-assign]
        retry = asyncio.create_task(
            responses.create(ChatRequest(HI), draft("second", idempotency=KEY))
        )
        await until(lambda: engine.num_alive == 2)
        engine.allow()  # a token of both, before the store's word on the second
        log = await responses.find("first", scope="")
        await until(lambda: log.num_public == 1)
        await settled()
        answered.set()
        assert (await retry).id == "first"
        await assert_gone(responses, engine, num_live=1)
        assert len(engine.submitted) == 2


@pytest.mark.parametrize("reason", [NotFound("gone"), StoreUnavailable("disk full")])
async def test_steps_of_a_response_that_could_not_be_stored_are_dropped(
    tmp_path: Path, reason: ChatError
) -> None:
    """As when its conversation was deleted meanwhile."""
    engine = FakeEngine(says("x" * 50), manual=True)
    async with running_responses(engine, tmp_path) as responses:
        refused = asyncio.Event()

        async def refuse(*_: Any, **__: Any) -> Any:
            await refused.wait()
            raise reason

        responses._store.responses.create = refuse  # type: ignore[method-assign]
        held = Held(responses)
        creating = asyncio.create_task(responses.create(ChatRequest(HI), draft("r")))
        await until(lambda: engine.num_alive == 1)
        engine.allow()
        await until(lambda: held.steps)
        refused.set()
        with pytest.raises(type(reason)):
            await creating
        await held.release()
        await assert_gone(responses, engine)
        assert len(engine.submitted) == 1

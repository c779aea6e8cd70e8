"""Work off the event loop: every key has its turn, and none takes all threads."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from llamastream.errors import EngineDead, Overloaded
from llamastream.generation import pool as pool_module
from llamastream.generation.pool import FairPool
from tests.doubles.waiting import LIMIT_S, until


class Works:
    """Pieces of work that wait for the test, and in which order they began."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.num_running = 0
        self.most_running = 0
        self._lock = threading.Lock()
        self._permits = threading.Semaphore(0)

    def piece(self, name: str) -> str:
        with self._lock:
            self.begun.append(name)
            self.num_running += 1
            self.most_running = max(self.most_running, self.num_running)
        self._permits.acquire()
        with self._lock:
            self.num_running -= 1
        return name

    def allow(self, count: int) -> None:
        self._permits.release(count)


@pytest.fixture
async def works() -> AsyncIterator[Works]:
    works = Works()
    yield works
    works.allow(1000)  # no thread is left waiting


def begin(pool: FairPool, works: Works, *names: str) -> list[asyncio.Task[str]]:
    """The first letter of a name is the key."""
    return [
        asyncio.create_task(pool.run(name[0], lambda name=name: works.piece(name)))  # type: ignore[misc]
        for name in names
    ]


async def test_one_key_leaves_a_thread_to_the_others(works: Works) -> None:
    pool = FairPool("test", 3)
    tasks = begin(pool, works, "a1", "a2", "a3", "a4")
    await until(lambda: len(works.begun) == 2)
    tasks += begin(pool, works, "b1")
    await until(lambda: "b1" in works.begun)
    assert works.begun[:2] == ["a1", "a2"]
    works.allow(5)
    assert await asyncio.gather(*tasks) == ["a1", "a2", "a3", "a4", "b1"]
    assert works.most_running == 3


async def test_keys_take_turns_and_each_keeps_its_order(works: Works) -> None:
    pool = FairPool("test", 2)
    tasks = begin(pool, works, "a1", "a2", "a3", "b1", "b2", "c1")
    for count in range(2, 7):
        await until(lambda count=count: len(works.begun) >= min(count, 6))  # type: ignore[misc]
        works.allow(1)
    works.allow(1)
    await asyncio.gather(*tasks)
    assert works.begun.index("c1") < works.begun.index("a3")
    for key in "abc":
        own = [name for name in works.begun if name[0] == key]
        assert own == sorted(own)


async def test_who_leaves_while_waiting_is_skipped(works: Works) -> None:
    pool = FairPool("test", 2)
    first, second, third = begin(pool, works, "a1", "a2", "a3")
    await until(lambda: works.begun == ["a1"])
    second.cancel()
    works.allow(2)
    assert [await first, await third] == ["a1", "a3"]
    assert second.cancelled() and works.begun == ["a1", "a3"]


async def test_who_leaves_in_the_middle_holds_its_thread_until_the_work_is_done(
    works: Works,
) -> None:
    pool = FairPool("test", 2)
    first, second = begin(pool, works, "a1", "a2")
    await until(lambda: works.begun == ["a1"])
    first.cancel()
    await asyncio.wait([first])
    assert works.begun == ["a1"]
    works.allow(2)
    assert await second == "a2"
    assert works.most_running == 1


async def test_what_work_raises_reaches_its_caller_and_nobody_else(works: Works) -> None:
    pool = FairPool("test", 2)

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await pool.run("a", fail)
    (task,) = begin(pool, works, "a1")
    works.allow(1)
    assert await task == "a1"


async def test_a_full_queue_refuses_a_key_that_has_its_part_of_it(
    works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "MAX_WAITING", 4)
    pool = FairPool("test", 2)
    tasks = begin(pool, works, "a0", "a1", "a2", "a3", "a4")
    await until(lambda: works.begun == ["a0"])
    with pytest.raises(Overloaded):
        await pool.run("a", lambda: works.piece("a5"))
    tasks += begin(pool, works, "b0", "b1", "b2")
    await until(lambda: "b0" in works.begun)
    with pytest.raises(Overloaded):
        await pool.run("b", lambda: works.piece("b3"))
    works.allow(10)
    await asyncio.gather(*tasks)


async def test_who_waits_for_a_turn_when_it_is_closed_is_refused(works: Works) -> None:
    """They waited for ever: the first turn given then could be neither used nor given back."""
    pool = FairPool("test", 2)
    running, *waiting = begin(pool, works, "a1", "a2", "a3", "b1", "b2")
    await until(lambda: len(works.begun) == 2)
    pool.close()
    waiting += begin(pool, works, "c1")
    works.allow(10)
    found = await asyncio.wait_for(
        asyncio.gather(running, *waiting, return_exceptions=True), LIMIT_S
    )
    refused = [isinstance(one, EngineDead) for one in found]
    assert refused == [False, True, True, False, True, True]

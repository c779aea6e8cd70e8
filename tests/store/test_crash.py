"""What was confirmed is there: after kill -9, a torn WAL, a full disk."""

import asyncio
import multiprocessing
import os
import random
import shutil
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from llamastream.errors import StoreUnavailable
from llamastream.records import Status
from llamastream.store.database import sqlite_url
from llamastream.store.store import Store
from llamastream.types import Token
from tests.doubles.disk import NotHere, fill, small_disk
from tests.store.crash_writer import LENGTH, write_until_killed
from tests.store.doubles import DONE, SCOPE, a_response, append, start, tokens

ROUNDS = 20


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Starts a process in milliseconds: its imports are done once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.store.crash_writer"])
    return context


def write_and_kill(
    processes: ForkServerContext, url: str, generation: int, num_messages: int
) -> list[tuple[str, str, int]]:
    """Let a process write, kill it after so many messages, and return all that it sent."""
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=write_until_killed, args=(url, generation, sender))
    process.start()
    sender.close()
    messages = [receiver.recv() for _ in range(num_messages)]
    process.kill()
    messages += drain(receiver)
    process.join()
    process.close()
    receiver.close()
    return messages


def drain(receiver: Connection) -> Iterator[tuple[str, str, int]]:
    try:
        while True:
            yield receiver.recv()
    except (EOFError, OSError):  # the last message may be cut off
        return


async def check_confirmed(url: str, confirmed: dict[str, int], done: set[str]) -> None:
    async with await Store.open(url, access="read") as store:
        for id, length in confirmed.items():
            found = await store.responses.tokens(id, scope=SCOPE)
            assert len(found) >= length, f"{id}: {length} confirmed, {len(found)} there"
            assert found == tokens(id, 0, len(found))
        for id in done:
            response = await store.responses.get(id, scope=SCOPE)
            assert response.status is Status.COMPLETED
            assert len(await store.responses.tokens(id, scope=SCOPE)) == LENGTH


def test_everything_confirmed_survives_kill(processes: ForkServerContext, tmp_path: Path) -> None:
    draw = random.Random(20)
    url = sqlite_url(tmp_path)
    confirmed: dict[str, int] = {}
    done: set[str] = set()
    for generation in range(ROUNDS):
        for kind, id, number in write_and_kill(processes, url, generation, draw.randint(1, 600)):
            # No token is confirmed twice. Some were committed, and the kill came before the word.
            assert number >= confirmed.get(id, 0)
            confirmed[id] = number + (kind == "token")
            if kind == "done":
                done.add(id)
        asyncio.run(check_confirmed(url, confirmed, done))
    assert len(done) > ROUNDS


def copy_database(source: Path, target: Path) -> Path:
    target.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(source / f"llamastream.db{suffix}", target / f"llamastream.db{suffix}")
    return target


def damage(wal: Path, draw: random.Random, kind: str) -> None:
    size = wal.stat().st_size
    # The schema is at the front: what a power cut tears is the end.
    at = draw.randrange(size * 3 // 4, size)
    with wal.open("r+b") as file:
        if kind == "truncated":
            file.truncate(at)
        else:
            file.seek(at)
            file.write(os.urandom(min(4096, size - at)))


@pytest.mark.parametrize("kind", ["truncated", "overwritten"])
def test_torn_wal_loses_its_tail_only(
    processes: ForkServerContext, tmp_path: Path, kind: str
) -> None:
    """What is left of each stream is its beginning, and it goes on from there."""
    source = tmp_path / "source"
    sent = write_and_kill(processes, sqlite_url(source), 0, 300)
    ids = {id for _, id, _ in sent}
    draw = random.Random(6)
    num_left = []
    for number in range(6):
        torn = copy_database(source, tmp_path / str(number))
        damage(torn / "llamastream.db-wal", draw, kind)
        num_left.append(asyncio.run(go_on_with(sqlite_url(torn), ids)))
    assert max(num_left) > 0 and min(num_left) < len(sent)


async def go_on_with(url: str, ids: set[str]) -> int:
    """Check what is left, generate the rest of it, and return how many tokens were left."""
    async with await Store.open(url) as store:
        left = [
            one for one in (await store.membership.recover()).interrupted if one.response.id in ids
        ]
        for one in left:
            id, length = one.response.id, len(one.output_ids)
            assert await store.responses.tokens(id, scope=SCOPE) == tokens(id, 0, length)
            assert await append(store, tokens(id, 0, LENGTH)) == {}
            await store.responses.finish(id, DONE)
            assert await store.responses.tokens(id, scope=SCOPE) == tokens(id, 0, LENGTH)
        return sum(len(one.output_ids) for one in left)


@pytest.fixture
def full_soon(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MB."""
    try:
        with small_disk(tmp_path / "disk", 2**20) as folder:
            yield folder
    except NotHere as reason:
        pytest.skip(str(reason))


async def append_until_refused(store: Store, id: str) -> int:
    """Goes on behind three tokens. Returns how many are confirmed when the disk is full."""
    length = 3
    try:
        while length < 100_000:
            assert await append(store, counted(id, length + 1)) == {}
            length += 1
    except StoreUnavailable as error:
        assert error.status == 503
        assert "full" in error.message
    return length


def counted(id: str, length: int) -> list[Token]:
    return [Token(id, k, k) for k in range(length)]


async def test_full_disk_refuses_and_works_again_when_there_is_space(full_soon: Path) -> None:
    url = sqlite_url(full_soon)
    async with await Store.open(url) as store:
        await start(store, "r1")
        await append(store, counted("r1", 3))
        fill(full_soon / "filler")
        length = await append_until_refused(store, "r1")
        assert 3 <= length < 100_000
        with pytest.raises(StoreUnavailable):
            await store.responses.create(a_response("r2"), scope=SCOPE)
        (full_soon / "filler").unlink()
        # The next step brings what was lost.
        assert await append(store, counted("r1", length + 2)) == {}
        await start(store, "r2")
        found = await store.responses.tokens("r1", scope=SCOPE)
        assert [token.token_id for token in found] == list(range(length + 2))
    async with await Store.open(url) as store:
        assert (await store.membership.recover()).interrupted[0].output_ids == tuple(
            range(length + 2)
        )


async def test_response_can_fail_once_the_disk_is_free_again(full_soon: Path) -> None:
    """The tokens that were refused are not in it: nobody was shown them."""
    async with await Store.open(sqlite_url(full_soon)) as store:
        await start(store, "r1")
        await append(store, counted("r1", 3))
        fill(full_soon / "filler")
        length = await append_until_refused(store, "r1")
        (full_soon / "filler").unlink()
        await store.responses.finish("r1", DONE)
        assert len(await store.responses.tokens("r1", scope=SCOPE)) == length

"""SQLite's files: what is confirmed is in one that has a name, and one server has the lock."""

import asyncio
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llamastream.errors import StoreError, StoreUnavailable
from llamastream.records import Item, PageQuery, Retention
from llamastream.store.database import sqlite_url
from llamastream.store.migrations import MIGRATIONS, TYPES
from llamastream.store.sqlite import INCREMENTAL, KEPT_FREE_PAGES, MAX_WAL_BYTES
from llamastream.store.store import Store
from llamastream.types import Token
from tests.store.doubles import DONE, SCOPE, a_response, append, items, run, start, tokens

NAME = "llamastream.db"


def replace_by_copy(folder: Path) -> None:
    shutil.copy(folder / NAME, folder / "copy")
    os.replace(folder / "copy", folder / NAME)


LOSSES: dict[str, Callable[[Path], object]] = {
    "database removed": lambda folder: (folder / NAME).unlink(),
    "database replaced": replace_by_copy,
    "log removed": lambda folder: (folder / f"{NAME}-wal").unlink(),
    "index of the log removed": lambda folder: (folder / f"{NAME}-shm").unlink(),
    "folder removed": shutil.rmtree,
    "folder moved": lambda folder: folder.rename(folder.parent / "elsewhere"),
}


async def append_until_refused(store: Store, id: str) -> None:
    """Steps that follow each other at once are looked at together."""
    for num_tokens in range(1, 10_000):
        await append(store, [Token(id, position, 7) for position in range(num_tokens)])


@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES.keys())
async def test_nothing_is_confirmed_once_a_file_is_gone(
    tmp_path: Path, lose: Callable[[Path], object]
) -> None:
    folder = tmp_path / "data"
    store = await Store.open(sqlite_url(folder))
    try:
        await start(store, "r1", "r2")
        await store.conversations.create("c1", scope=SCOPE, metadata={})
        assert store.is_working and not store.is_lost
        lose(folder)
        assert store.is_lost and not store.is_working
        for refused in (
            store.responses.create(a_response("r3"), scope=SCOPE),
            store.responses.finish("r1", DONE),
            store.conversations.add_items("c1", items("a"), scope=SCOPE),
            store.responses.get("r1", scope=SCOPE),
            store.conversations.list(scope=SCOPE, query=PageQuery()),
            append_until_refused(store, "r2"),
        ):
            with pytest.raises(StoreUnavailable, match="removed, moved or replaced"):
                await refused
    finally:
        with pytest.raises(StoreUnavailable):  # what is in progress cannot be parked
            await store.close()


async def test_store_goes_on_when_its_folder_is_back(tmp_path: Path) -> None:
    folder, away = tmp_path / "data", tmp_path / "away"
    async with await Store.open(sqlite_url(folder)) as store:
        await start(store, "r1")
        await append(store, tokens("r1", 0, 3))
        folder.rename(away)
        with pytest.raises(StoreUnavailable):
            await start(store, "r2")
        away.rename(folder)
        await start(store, "r3")
        assert store.is_working
        assert await append(store, tokens("r1", 0, 5)) == {}
    async with await Store.open(sqlite_url(folder)) as store:
        found = await store.membership.recover()
        assert {one.response.id: len(one.output_ids) for one in found.interrupted} == {
            "r1": 5,
            "r3": 0,
        }


def remove_all_but_database(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != NAME:
            path.unlink()


async def test_second_server_is_refused_whatever_file_was_removed(tmp_path: Path) -> None:
    async with await Store.open(sqlite_url(tmp_path)):
        remove_all_but_database(tmp_path)
        with pytest.raises(StoreError, match="Another server generates on this database"):
            await Store.open(sqlite_url(tmp_path))


async def test_second_server_is_refused_by_another_name_of_the_file(tmp_path: Path) -> None:
    async with await Store.open(sqlite_url(tmp_path / "data")):
        (tmp_path / "link").symlink_to(tmp_path / "data")
        with pytest.raises(StoreError, match="Another server"):
            await Store.open(sqlite_url(tmp_path / "link"))


async def test_name_with_odd_characters(tmp_path: Path) -> None:
    folder = tmp_path / "a b?c=d#e%20f"
    async with await Store.open(sqlite_url(folder)) as store:
        await start(store, "r1")
    async with await Store.open(sqlite_url(folder)) as store:
        assert len((await store.membership.recover()).interrupted) == 1
    assert [path.name for path in folder.iterdir()] == [NAME]


async def test_closing_a_lost_database_spares_the_one_in_its_place(tmp_path: Path) -> None:
    """SQLite removes a log by its name when the last connection closes, but not of a file that has
    none any more."""
    lost = await Store.open(sqlite_url(tmp_path))
    await run(lost, "r1")
    (tmp_path / NAME).unlink()
    (tmp_path / f"{NAME}-wal").unlink()
    (tmp_path / f"{NAME}-shm").unlink()
    async with await Store.open(sqlite_url(tmp_path)) as other:
        await run(other, "r2")
        await lost.close()
        assert other.is_working
        await run(other, "r3")


FORKING = """
import os, sys
from llamastream.store.sqlite import SqliteFile
from pathlib import Path
file = SqliteFile(Path(sys.argv[1]))
assert file.lock()
is_up, tell = os.pipe()
if os.fork() == 0:
    os.write(tell, b"x")
    os.read(int(sys.argv[2]), 1)  # lives as long as the test lets it
else:
    os.read(is_up, 1)
os._exit(0)
"""


async def test_child_that_outlives_a_killed_server_does_not_keep_the_lock(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    command = (sys.executable, "-c", FORKING, str(tmp_path / NAME), str(reader))
    parent = await asyncio.create_subprocess_exec(*command, pass_fds=[reader])
    try:
        assert await parent.wait() == 0
        async with await Store.open(sqlite_url(tmp_path)):
            pass
    finally:
        os.close(writer)  # lets the child go
        os.close(reader)


def size(folder: Path) -> int:
    return (folder / NAME).stat().st_size


def long_items(number: int, num_chars: int) -> tuple[Item, ...]:
    return tuple(Item(str(k), {"text": "x" * num_chars}) for k in range(number))


async def fill_and_forget(store: Store, folder: Path) -> int:
    """Size of the file when much was stored and none of it is there any more."""
    text = tuple(
        item._replace(body={"text": "x" * 100_000}) for item in items(*map(str, range(20)))
    )
    for k in range(8):
        await store.conversations.create(f"c{k}", scope=SCOPE, metadata={}, items=text[: 20 - k])
    await store._database.read(lambda conn: conn.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)"))
    largest = size(folder)
    for k in range(8):
        await store.conversations.delete(f"c{k}", scope=SCOPE)
    return largest


async def sweep_all(store: Store) -> None:
    while (await store.sweep(Retention())).more:
        pass


async def test_files_shrink_when_what_they_held_is_forgotten(tmp_path: Path) -> None:
    async with await Store.open(sqlite_url(tmp_path)) as store:
        largest = await fill_and_forget(store, tmp_path)
        assert largest > 12_000_000
        await sweep_all(store)
        await run(store, "r1")
    assert size(tmp_path) < (KEPT_FREE_PAGES + 100) * 4096 < largest / 2


async def test_log_does_not_stay_as_large_as_it_was(tmp_path: Path) -> None:
    log = tmp_path / f"{NAME}-wal"
    async with await Store.open(sqlite_url(tmp_path)) as store:
        text = long_items(30, 400_000)
        for k in range(3):
            await store.conversations.create(f"c{k}", scope=SCOPE, metadata={}, items=text)
        assert log.stat().st_size > 2 * MAX_WAL_BYTES
        checkpoint = "PRAGMA wal_checkpoint(PASSIVE)"
        await store._database.read(lambda conn: conn.exec_driver_sql(checkpoint).all())
        await run(store, "r1")  # the log begins anew
        assert log.stat().st_size <= MAX_WAL_BYTES


def make_old_database(path: Path) -> None:
    """As the first release left it, with something in it."""
    conn = sqlite3.connect(path, isolation_level=None)
    conn.execute("PRAGMA journal_mode = WAL")
    for migration in MIGRATIONS[:2]:
        for statement in migration.statements:
            conn.execute(statement.format_map(TYPES["sqlite"]))
    conn.execute(
        "CREATE TABLE schema_migrations (number INTEGER PRIMARY KEY, name TEXT, applied_at REAL)"
    )
    conn.execute("INSERT INTO schema_migrations VALUES (1, 'initial', 0), (2, 'kinds', 0)")
    conn.execute("INSERT INTO conversations VALUES (1, 'old', ?, 1, 1, '{}')", (SCOPE,))
    assert conn.execute("PRAGMA auto_vacuum").fetchone() == (0,)
    conn.close()


async def test_small_file_of_an_older_release_shrinks_too(tmp_path: Path) -> None:
    make_old_database(tmp_path / NAME)
    async with await Store.open(sqlite_url(tmp_path)) as store:
        assert (await store.conversations.get("old", scope=SCOPE)).metadata == {}
        largest = await fill_and_forget(store, tmp_path)
        await sweep_all(store)
        await run(store, "r1")
    assert size(tmp_path) < largest / 2


async def test_large_file_of_an_older_release_is_left_until_it_is_vacuumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_old_database(tmp_path / NAME)
    monkeypatch.setattr("llamastream.store.sqlite.CONVERTED_BYTES", 4096)
    caplog.set_level("INFO")
    async with await Store.open(sqlite_url(tmp_path)) as store:
        assert "llamastream db vacuum" in caplog.text
        await fill_and_forget(store, tmp_path)
        assert not (await store.sweep(Retention())).more
        await store.vacuum()
    with sqlite3.connect(tmp_path / NAME) as conn:
        assert conn.execute("PRAGMA auto_vacuum").fetchone() == (INCREMENTAL,)
    conn.close()

"""Opening: what is created, what is refused, and that migrations end where the tables are."""

import os
from pathlib import Path

import pytest
from sqlalchemy import Connection, TableClause, inspect

from llamastream.errors import StoreError
from llamastream.store import tables
from llamastream.store.database import Database, sqlite_url
from llamastream.store.migrations import INITIAL, MIGRATIONS, Migration, upgrade
from llamastream.store.store import Store


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection")  # SQLite, responses_kind
async def test_migrated_columns_are_those_that_are_read(empty_url: str) -> None:
    async with await Store.open(empty_url) as store:
        described = await store._database.read(describe)
    del described["schema_migrations"]
    known = (value for value in vars(tables).values() if isinstance(value, TableClause))
    assert described == {table.name: set(table.c.keys()) for table in known}


def describe(conn: Connection) -> dict[str, set[str]]:
    """All tables but those of SQLite's own, with which it finds words."""
    found = inspect(conn)
    return {
        name: {column["name"] for column in found.get_columns(name)}
        for name in found.get_table_names()
        if not name.startswith("item_words")
    }


def apply(url: str, migrations: tuple[Migration, ...]) -> tuple[str, ...]:
    database = Database(url)
    try:
        with database.connect() as conn:
            database.begin(conn)
            names = upgrade(conn, migrations)
            conn.exec_driver_sql("COMMIT")
            return names
    finally:
        database.close()


def test_each_migration_is_applied_once(empty_url: str) -> None:
    more = (*MIGRATIONS, Migration(99, "more", ("CREATE TABLE more (x {big})",)))
    assert apply(empty_url, MIGRATIONS[:1]) == ("initial",)
    assert apply(empty_url, MIGRATIONS) == tuple(one.name for one in MIGRATIONS[1:])
    assert apply(empty_url, MIGRATIONS) == ()
    assert apply(empty_url, more) == ("more",)
    assert apply(empty_url, more) == ()


async def test_database_of_a_newer_release_is_refused(empty_url: str) -> None:
    apply(empty_url, (*MIGRATIONS, Migration(99, "future", ())))
    with pytest.raises(StoreError, match="at version 99, and this release knows"):
        await Store.open(empty_url)


async def test_failed_migration_changes_nothing(empty_url: str) -> None:
    bad = Migration(1, "bad", (*INITIAL[:3], "CREATE NONSENSE"))
    with pytest.raises(Exception, match="NONSENSE"):
        apply(empty_url, (bad,))
    async with await Store.open(empty_url):
        pass


async def test_somebody_elses_database_is_refused(empty_url: str) -> None:
    database = Database(empty_url)
    with database.connect() as conn:
        conn.exec_driver_sql("CREATE TABLE theirs (x INTEGER)")
    database.close()
    with pytest.raises(StoreError, match=r"not ours \(theirs\)"):
        await Store.open(empty_url)


async def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "llamastream.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="cannot be opened: file is not a database"):
        await Store.open(sqlite_url(tmp_path))


@pytest.mark.parametrize(
    "url", ["", "nonsense", "mysql://u:secret@h/d", "sqlite://", "sqlite:///:memory:"]
)
async def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(StoreError, match="must be sqlite:///PATH or postgresql://") as caught:
        await Store.open(url)
    assert "secret" not in caught.value.message


async def test_folder_is_created_and_nobody_else_reads_it(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    async with await Store.open(sqlite_url(folder)) as store:
        await store.conversations.create("c", scope="", metadata={})
        for name in os.listdir(folder):
            assert (folder / name).stat().st_mode & 0o077 == 0, name
    assert folder.stat().st_mode & 0o077 == 0


async def test_path_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be opened"):
        await Store.open(sqlite_url(tmp_path / "file"))

"""Stores on real files, and on a PostgreSQL server of the tests' own where its programs are."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest

from llamastream.store.clock import Clocks
from llamastream.store.database import sqlite_url
from llamastream.store.store import Store
from tests.doubles.postgres import Postgres, find_postgres


class Clock:
    """Seconds that pass when told to, and a wall clock that may be wrong."""

    def __init__(self) -> None:
        self.now = 2_000_000_000.0
        self.wrong_by = 0.0

    @property
    def clocks(self) -> Clocks:
        return Clocks(lambda: self.now + self.wrong_by, lambda: self.now)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    if find_postgres() is None:
        pytest.skip("no PostgreSQL server on this machine (initdb not found)")
    with Postgres.running() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without rows, of either kind."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path)
    address: str = request.getfixturevalue("postgres").url
    run_sql(address, DELETE_ROWS)
    return address


@pytest.fixture
def empty_url(url: str) -> Iterator[str]:
    """A database without tables, and none left after the test."""
    if not url.startswith("sqlite"):
        run_sql(url, DROP_TABLES)
    yield url
    if not url.startswith("sqlite"):
        run_sql(url, DROP_TABLES)


DROP_TABLES = ("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
TABLES = (
    "servers",
    "presets",
    "store_clock",
    "scope_usage",
    "idempotency_keys",
    "journal",
    "items",
    "responses",
    "conversations",
)
# Much faster than to create the tables for each test.
DELETE_ROWS = (
    "DO $$ BEGIN IF to_regclass('schema_migrations') IS NOT NULL THEN "
    + "".join(f"DELETE FROM {name}; " for name in TABLES)
    + "END IF; END $$",
)


def run_sql(address: str, statements: tuple[str, ...]) -> None:
    with psycopg.connect(address, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(url: str, clock: Clock) -> AsyncIterator[Store]:
    async with await Store.open(url, clocks=clock.clocks) as store:
        yield store

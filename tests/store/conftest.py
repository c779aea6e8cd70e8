"""Stores on real files, and on a PostgreSQL server of the tests' own where its programs are."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest

from llamastream.store import Store, sqlite_url
from llamastream.store.tables import metadata


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Postgres:
    """A server in a folder of its own, reached by a socket there; never the machine's."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self.url = f"postgresql://postgres@/postgres?host={folder}"

    def create(self) -> None:
        self._run("initdb", "-A", "trust", "-U", "postgres", "--no-sync")

    def start(self) -> None:
        options = f"-c fsync=off -c listen_addresses= -c unix_socket_directories={self._folder}"
        self._run("pg_ctl", "-w", "-o", options, "-l", str(self._folder / "log"), "start")

    def is_running(self) -> bool:
        return (self._folder / "data" / "postmaster.pid").exists()

    def crash(self) -> None:
        """Stop at once, with nothing written out: what the next start finds is as after a crash."""
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        # The server refuses to run as root.
        user = "nobody" if os.getuid() == 0 else None
        command = [self._programs / program, "-D", self._folder / "data", *arguments]
        subprocess.run(command, user=user, cwd=self._folder, check=True, stdout=subprocess.DEVNULL)


def find_postgres() -> Path | None:
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    return next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    programs = find_postgres()
    if programs is None:
        pytest.skip("no PostgreSQL server on this machine (initdb not found)")
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: it holds a socket
    if os.getuid() == 0:
        shutil.chown(folder, "nobody")
    server = Postgres(programs, folder)
    server.create()
    server.start()
    yield server
    server.crash()
    shutil.rmtree(folder)


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
# Much faster than to create the tables for each test.
DELETE_ROWS = (
    "DO $$ BEGIN IF to_regclass('schema_migrations') IS NOT NULL THEN "
    + "".join(f"DELETE FROM {table.name}; " for table in reversed(metadata.sorted_tables))
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
    async with await Store.open(url, clock=clock) as store:
        yield store

"""What a supervisor is told: 2 for what stays wrong, 75 for what may pass by itself."""

import asyncio
import configparser
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.test_commands import environment, run
from tests.doubles.disk import NotHere, fill, small_disk
from tests.doubles.postgres import Postgres
from tests.doubles.waiting import until

from llamastream import errors
from llamastream.app import open_store, wait_for_store
from llamastream.config import StoreSettings
from llamastream.errors import ChatError, StoreBusy, StoreError, StoreUnavailable, exit_code

__all__ = ["environment"]

UNIT = Path(__file__).parents[2] / "deploy" / "llamastream.service"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MB."""
    try:
        with small_disk(tmp_path / "disk", 2**20) as folder:
            yield folder
    except NotHere as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    try:
        with Postgres.running() as server:
            yield server
    except FileNotFoundError as reason:
        pytest.skip(str(reason))


def upgrade(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Of a command that does no more than open the database: its exit code and its one line."""
    result = run(environment, "db", "upgrade", *arguments)
    assert result.stderr.count("\n") == 1, result.stderr
    return result.returncode, result.stderr


def test_full_disk_may_pass(environment: dict[str, str], disk: Path) -> None:
    fill(disk / "filler")
    code, line = upgrade(environment, "--data-dir", str(disk))
    assert (code, "cannot be opened" in line) == (75, True)


@pytest.mark.parametrize("command", [["models", "packed"], ["serve", "--help"], ["--version"]])
def test_output_that_finds_no_place_may_pass(
    environment: dict[str, str], command: list[str]
) -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "llamastream", *command],
            env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert (result.returncode, result.stderr) == (75, "llamastream: No space left on device.\n")


def test_read_only_disk_may_pass(environment: dict[str, str], disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    code, line = upgrade(environment, "--data-dir", str(disk))
    assert (code, "Read-only file system" in line) == (75, True)


def test_postgres_that_is_not_up_may_pass(environment: dict[str, str], tmp_path: Path) -> None:
    url = f"postgresql://postgres@/postgres?host={tmp_path}"
    code, line = upgrade(environment, "--store", url)
    assert (code, "cannot be opened" in line) == (75, True)


def test_file_that_is_no_database_stays_wrong(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "llamastream.db").write_bytes(b"not a database" * 100)
    code, line = upgrade(environment, "--data-dir", str(tmp_path))
    assert (code, "not a database" in line) == (2, True)


def test_folder_that_cannot_be_made_stays_wrong(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    assert upgrade(environment, "--data-dir", str(tmp_path / "file"))[0] == 2


async def test_database_that_another_server_has_may_become_free(tmp_path: Path) -> None:
    settings = StoreSettings(store_wait=60)
    async with await wait_for_store(settings, data_dir=tmp_path):
        with pytest.raises(StoreBusy) as caught:  # at once: nothing is waited for
            await wait_for_store(settings, data_dir=tmp_path)
    assert exit_code(caught.value) == 75


async def test_start_waits_for_postgres_and_says_so(
    postgres: Postgres, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = StoreSettings(store=postgres.url, store_wait=600)
    postgres.crash()
    opening = asyncio.create_task(wait_for_store(settings, data_dir=tmp_path))
    await until(lambda: "waiting for the database" in caplog.text)
    assert not opening.done()
    await asyncio.to_thread(postgres.start)
    async with await opening as store:
        assert store.is_working


async def test_start_waits_no_longer_than_told(tmp_path: Path) -> None:
    settings = StoreSettings(store=f"postgresql://x@/x?host={tmp_path}", store_wait=0.0)
    with pytest.raises(StoreUnavailable):
        await wait_for_store(settings, data_dir=tmp_path)


async def test_database_that_postgres_does_not_have_is_not_waited_for(
    postgres: Postgres, tmp_path: Path
) -> None:
    url = postgres.url.replace("/postgres?", "/unknown?")
    with pytest.raises(StoreError, match="does not exist"):
        await wait_for_store(StoreSettings(store=url, store_wait=600), data_dir=tmp_path)


async def test_commands_do_not_wait(tmp_path: Path) -> None:
    settings = StoreSettings(store=f"postgresql://x@/x?host={tmp_path}", store_wait=600)
    with pytest.raises(StoreUnavailable):
        await open_store(settings, data_dir=tmp_path, access="write")


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, 75), (errno.EROFS, 75), (errno.EACCES, 2)]
)
def test_what_the_system_says_counts_also_behind_an_error_of_ours(number: int, code: int) -> None:
    """A model that cannot be stored, say."""
    try:
        try:
            raise OSError(number, os.strerror(number))
        except OSError:
            raise errors.ModelError("Cannot store the model.") from None
    except ChatError as error:
        assert exit_code(error) == code


def test_our_own_bug_is_not_the_configuration() -> None:
    assert exit_code(errors.InternalError("")) == 70


def test_systemd_never_gives_up_but_for_a_configuration() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    assert unit["Service"]["Restart"] == "on-failure"
    assert unit["Service"]["RestartPreventExitStatus"].split() == [str(errors.EXIT_CONFIG)]
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"

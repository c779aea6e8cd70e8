"""`llamastream db` on a database that a server made."""

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llamastream.cli.db import db
from llamastream.errors import ConfigError, StoreError
from llamastream.store.database import sqlite_url
from llamastream.store.store import Store


async def _fill(folder: Path) -> None:
    async with await Store.open(sqlite_url(folder)) as store:
        await store.conversations.create("conv_1", scope="", metadata={"a": "b"})


def run(*arguments: str) -> str:
    result = CliRunner().invoke(db, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    return path


async def test_an_export_is_imported_elsewhere(folder: Path, tmp_path: Path) -> None:
    await _fill(folder)
    # The commands have an event loop of their own, so they run on a thread of theirs.
    file, other = tmp_path / "export", tmp_path / "other"
    other.mkdir()
    output = await asyncio.to_thread(run, "export", str(file), "--data-dir", str(folder))
    assert output == f"Wrote 2 lines to {file}.\n"
    kinds = [json.loads(line)["kind"] for line in file.read_text().splitlines()]
    assert kinds == ["header", "conversation"]
    await asyncio.to_thread(run, "import", str(file), "--data-dir", str(other))
    async with await Store.open(sqlite_url(other)) as store:
        assert (await store.conversations.get("conv_1", scope="")).metadata == {"a": "b"}


SAVED = {
    "format": "llamastream conversations 1",
    "conversations": [
        {
            "id": "conv_1",
            "title": "ü",
            "created_at": 1_700_000_000,
            "items": [
                {"id": "a", "role": "user", "text": "Hi"},
                {"id": "b", "step": {"type": "reasoning", "content": [{"text": "Hm"}]}},
                {"id": "c", "role": "user", "text": "Ho", "after": "root"},
            ],
        }
    ],
}


async def test_what_the_page_saved_becomes_a_keys(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "saved.json"
    file.write_text(json.dumps(SAVED, indent=1))
    command = ("import", str(file), "--data-dir", str(folder), "--scope", "alice")
    output = await asyncio.to_thread(run, *command)
    assert output == f"Read 5 lines from {file}.\n"
    async with await Store.open(sqlite_url(folder)) as store:
        found = await store.conversations.get("conv_1", scope="alice")
        assert (found.metadata, found.created_at) == ({"title": "ü"}, 1_700_000_000)
        for leaf, path in (("b", ["a", "b"]), (None, ["c"])):
            items = await store.conversations.history("conv_1", scope="alice", after=leaf)
            assert [item.id for item in items] == path
    with pytest.raises(ConfigError, match="The id 'conv_1' is in the database already"):
        await asyncio.to_thread(run, *command)
    file.write_text(json.dumps(SAVED | {"conversations": [{"title": 1}]}))
    with pytest.raises(ConfigError, match="not as the page writes"):
        await asyncio.to_thread(run, *command)


def test_upgrade_makes_a_database_and_vacuum_keeps_it(folder: Path) -> None:
    run("upgrade", "--data-dir", str(folder))
    assert (folder / "llamastream.db").exists()
    assert run("vacuum", "--data-dir", str(folder)) == "Done.\n"


@pytest.mark.parametrize("command", [["export", "backup"], ["vacuum"]])
def test_a_database_that_is_not_there_is_not_made_by_who_looks_after_it(
    command: list[str], tmp_path: Path
) -> None:
    command = [*command, "--data-dir", str(tmp_path / "typo")]
    with pytest.raises(StoreError, match="There is no database .*typo"):
        run(*command)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_export_is_one_line(folder: Path, tmp_path: Path) -> None:
    for name, content in (("missing", None), ("bad", "nonsense\n")):
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(ConfigError, match=name):
            run("import", str(tmp_path / name), "--data-dir", str(folder))

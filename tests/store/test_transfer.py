from pathlib import Path

import pytest

from llamastream.errors import InvalidRequest, StoreError
from llamastream.records import IdempotencyKey, PageQuery, Status
from llamastream.store.database import sqlite_url
from llamastream.store.store import Store
from llamastream.types import Token
from tests.store.doubles import DONE, SCOPE, append, items, run, start, tokens

R5 = [Token("r5", 0, 9, -0.5, ((9, -0.5), (8, float("-inf")))), Token("r5", 1, 8, -0.1)]


async def fill(store: Store) -> None:
    """Something of everything: deleted and foreign ones, log-probabilities, one in progress."""
    await store.conversations.create("c1", scope=SCOPE, metadata={"k": "v"}, items=items("a"))
    await run(store, "r1", conversation_id="c1", input_items=items("b"), output_items=items("c"))
    await run(store, "r2", previous_response_id="r1", input_items=items("🦙"))
    await run(store, "r3", idempotency=IdempotencyKey("k", b"\x00\xff"))
    await store.conversations.create("c2", scope="key-2", metadata={}, items=items("a"))
    await run(store, "r4", conversation_id="c2", scope="key-2", input_items=items("d"))
    await store.conversations.delete("c2", scope="key-2")
    await store.responses.delete("r1", scope=SCOPE)
    await store.presets.save("p1", scope=SCOPE, name="ü", settings={"seed": 2**64 - 1, "b": 1})
    await start(store, "r5", input_items=items("e"))
    await append(store, R5[:1])
    await append(store, R5)


async def test_export_imported_exports_the_same(store: Store, tmp_path: Path) -> None:
    await fill(store)
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    num_lines = await store.export(first)
    async with await Store.open(sqlite_url(tmp_path / "other")) as other:
        assert await other.import_(first) == num_lines
        await other.export(second)
    assert first.read_bytes() == second.read_bytes()
    assert len(first.read_bytes().splitlines()) == num_lines > 10


async def test_imported_database_works(store: Store, tmp_path: Path) -> None:
    await fill(store)
    await store.export(tmp_path / "file")
    async with await Store.open(sqlite_url(tmp_path / "other")) as other:
        await other.import_(tmp_path / "file")
        history = await other.conversations.history("c1", scope=SCOPE)
        assert history == items("a", "b", "c")
        preset = await store.presets.get("p1", scope=SCOPE)
        assert await other.presets.get("p1", scope=SCOPE) == preset
        assert await other.responses.tokens("r3", scope=SCOPE) == tokens("r3", 0, 3)
        (interrupted,) = (await other.membership.recover()).interrupted
        assert interrupted.output_ids == (9, 8)
        assert await append(other, [*R5, Token("r5", 2, 1)]) == {}
        ended = await other.responses.finish("r5", DONE)
        assert ended.status is Status.COMPLETED


@pytest.mark.parametrize("is_there", [False, True])
async def test_export_is_private(store: Store, tmp_path: Path, is_there: bool) -> None:
    file = tmp_path / "file"
    if is_there:
        file.touch(0o644)
    await store.export(file)
    assert file.stat().st_mode & 0o777 == 0o600


async def test_export_to_where_nothing_can_be_written_says_so(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written: No such file or directory"):
        await store.export(tmp_path / "missing" / "file")


BAD = {
    "empty": b"",
    "not JSON": b"hello\n",
    "not an object": b"[]\n",
    "no header": b'{"kind":"conversation"}\n',
    "another format": b'{"kind":"header","format":99}\n',
    "unknown kind": b'{"kind":"header","format":1}\n{"kind":"what"}\n',
    "missing field": b'{"kind":"header","format":1}\n{"kind":"conversation","id":"new"}\n',
    "second header": b'{"kind":"header","format":1}\n{"kind":"header","format":1}\n',
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
async def test_bad_file_imports_nothing(store: Store, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InvalidRequest):
        await store.import_(tmp_path / "file")


async def test_import_of_what_is_there_names_the_line_and_changes_nothing(
    store: Store, tmp_path: Path
) -> None:
    await store.conversations.create("c1", scope=SCOPE, metadata={})
    await store.conversations.create("c2", scope=SCOPE, metadata={})
    await store.export(tmp_path / "file")
    await store.conversations.delete("c1", scope=SCOPE)
    with pytest.raises(InvalidRequest, match="line 3: The id 'c2' is in the database"):
        await store.import_(tmp_path / "file")
    page = await store.conversations.list(scope=SCOPE, query=PageQuery())
    assert [one.id for one in page.data] == ["c2"]


async def test_vacuum_gives_space_back(tmp_path: Path) -> None:
    path = tmp_path / "llamastream.db"
    async with await Store.open(sqlite_url(tmp_path)) as store:
        text = items(*(str(k) * 50 for k in range(500)))
        await store.conversations.create("c1", scope=SCOPE, metadata={}, items=text)
        await store.conversations.delete("c1", scope=SCOPE)
        await store.vacuum()
    assert path.stat().st_size < 160_000

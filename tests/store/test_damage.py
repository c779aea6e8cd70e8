"""A start on a damaged database: what can be read goes on, and no token of it is wrong."""

import logging
import random
import shutil
import sqlite3
from collections.abc import Awaitable
from contextlib import closing
from pathlib import Path

import pytest

from llamastream.errors import ChatError, DamagedRecord, NotFound
from llamastream.records import IdempotencyKey, PageQuery, Retention, Status
from llamastream.store.damage import checksum
from llamastream.store.database import sqlite_url
from llamastream.store.store import Store
from llamastream.types import Token
from tests.store.damage import Cell, Rows
from tests.store.doubles import DONE, SCOPE, a_response, append, items, run, start, tokens

LENGTH = 12
ROUNDS = 120
KEY = IdempotencyKey("k", b"digest")


async def fill(store: Store) -> None:
    await store.conversations.create("c1", scope=SCOPE, metadata={"k": "v"}, items=items("a"))
    await store.presets.save("p1", scope=SCOPE, name="n", settings={"k": "v"})
    await run(store, "done", LENGTH, conversation_id="c1", input_items=items("b"))
    await start(store, "open", input_items=items("c"), idempotency=KEY)
    await start(store, "other", conversation_id="c1")
    for k in range(LENGTH // 2):
        await append(store, tokens("open", 0, k + 1), tokens("other", 0, k + 1))
    await append(store, expected("open")[: LENGTH // 2 + 1])


def expected(id: str) -> list[Token]:
    found = tokens(id, 0, LENGTH)
    if id == "open":
        found[LENGTH // 2] = Token("open", LENGTH // 2, 7, -0.5, ((7, -0.5),))
    return found


async def may_be_refused(call: Awaitable[object]) -> None:
    try:
        await call
    except ChatError:
        pass


async def use(store: Store, folder: Path) -> None:
    """All that a server does, and look at each token that it would show."""
    recovery = await store.membership.recover()
    for one in recovery.interrupted:
        id, length = one.response.id, len(one.output_ids)
        wanted = expected(id)
        assert await store.responses.tokens(id, scope=one.response.scope) == wanted[:length]
        assert one.prompt_ids == (1, 2) and one.sampling.seed == 7
        assert await append(store, wanted) == {}
        await may_be_refused(store.responses.finish(id, DONE))
    for id in ("done", "open", "other"):
        try:
            response = await store.responses.get(id, scope=SCOPE)
            found = await store.responses.tokens(id, scope=SCOPE)
        except (DamagedRecord, NotFound):
            continue
        if response.status is Status.COMPLETED:
            assert found == expected(id)
        assert found == expected(id)[: len(found)]
    await may_be_refused(store.conversations.history("c1", scope=SCOPE))
    await may_be_refused(store.conversations.list(scope=SCOPE, query=PageQuery()))
    await may_be_refused(store.presets.list(scope=SCOPE, query=PageQuery()))
    await may_be_refused(store.presets.save("p2", scope=SCOPE, name="n", settings={}))
    await may_be_refused(store.responses.history("done", scope=SCOPE))
    await may_be_refused(
        store.responses.create(a_response("new", conversation_id="c1"), scope=SCOPE)
    )
    await may_be_refused(store.responses.create(a_response("x", idempotency=KEY), scope=SCOPE))
    await store.usage(SCOPE)
    await store.sweep(Retention(max_age_s=1e6))
    await store.export(folder / "export")
    for id in ("done", "open", "other"):
        await may_be_refused(store.responses.delete(id, scope=SCOPE))
    await may_be_refused(store.conversations.delete("c1", scope=SCOPE))


async def test_damaged_database_opens_and_shows_nothing_wrong(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, draw = tmp_path / "whole", random.Random(5)
    async with await Store.open(sqlite_url(whole)) as store:
        await fill(store)
        shutil.copytree(whole, tmp_path / "killed")
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "killed", folder)
        with closing(Rows(folder / "llamastream.db")) as rows:
            cell = draw.choice(rows.cells)
            try:
                rows.damage(cell, draw)
            except (sqlite3.IntegrityError, OverflowError):
                continue
        caplog.clear()
        async with await Store.open(sqlite_url(folder)) as store:
            await use(store, folder)
        assert not [record for record in caplog.records if record.exc_info], cell
        shutil.rmtree(folder)


async def damage(store: Store, cell: Cell, value: object) -> None:
    change = f"UPDATE {cell.table} SET {cell.column} = ?"
    await store._writer.run(lambda tx: tx.conn.exec_driver_sql(change, (value,)))


@pytest.mark.parametrize("column", ["token_ids", "logprobs"])
async def test_damaged_tokens_are_told_once_and_the_record_can_be_deleted(
    tmp_path: Path, column: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with await Store.open(sqlite_url(tmp_path)) as store:
        await run(store, "r1")
        await damage(store, Cell("responses", column, 1), bytes(12))
        with pytest.raises(DamagedRecord, match="'r1' cannot be read.*Delete it"):
            await store.responses.tokens("r1", scope=SCOPE)
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        assert "damaged response='r1': ChecksumDiffers" in caplog.text
        await store.responses.delete("r1", scope=SCOPE)
        with pytest.raises(NotFound):
            await store.responses.get("r1", scope=SCOPE)


async def test_damaged_steps_are_generated_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with await Store.open(sqlite_url(tmp_path / "a")) as store:
        await start(store, "r1")
        for k in range(6):
            await append(store, tokens("r1", 0, k + 1))
        shutil.copytree(tmp_path / "a", tmp_path / "b")
    with closing(sqlite3.connect(tmp_path / "b" / "llamastream.db")) as conn, conn:
        conn.execute("UPDATE journal SET tokens = zeroblob(12) WHERE seq = 3")
    async with await Store.open(sqlite_url(tmp_path / "b")) as store:
        (one,) = (await store.membership.recover()).interrupted
        assert len(one.output_ids) == 3
        assert "damaged journal row=3" in caplog.text


async def test_rows_without_checksums_are_read(store: Store) -> None:
    """As an older release wrote them."""
    await store.conversations.create("c1", scope=SCOPE, metadata={"k": "v"}, items=items("a"))
    await run(store, "r1", conversation_id="c1", output_items=items("b"))
    for change in (
        "UPDATE responses SET checksum = NULL, tokens_checksum = NULL",
        "UPDATE items SET checksum = NULL",
        "UPDATE conversations SET checksum = NULL",
    ):
        await store._writer.run(lambda tx, change=change: tx.conn.exec_driver_sql(change))
    assert await store.responses.tokens("r1", scope=SCOPE) == tokens("r1", 0, 3)
    assert await store.conversations.history("c1", scope=SCOPE) == items("a", "b")
    assert (await store.conversations.get("c1", scope=SCOPE)).metadata == {"k": "v"}


async def test_export_leaves_out_what_is_damaged_and_the_rest_is_imported(tmp_path: Path) -> None:
    async with await Store.open(sqlite_url(tmp_path / "a")) as store:
        await store.conversations.create("c1", scope=SCOPE, metadata={})
        await run(store, "r1", conversation_id="c1", input_items=items("a"), idempotency=KEY)
        await run(store, "r2", previous_response_id="r1", input_items=items("b"))
        change = "UPDATE responses SET result = '{\"wrong\":1}' WHERE id = 'r1'"
        await store._writer.run(lambda tx: tx.conn.exec_driver_sql(change))
        await store.export(tmp_path / "file")
    async with await Store.open(sqlite_url(tmp_path / "b")) as other:
        await other.import_(tmp_path / "file")
        assert await other.responses.tokens("r2", scope=SCOPE) == tokens("r2", 0, 3)
        assert await other.conversations.history("c1", scope=SCOPE) == items("a")
        with pytest.raises(NotFound):
            await other.responses.get("r1", scope=SCOPE)


def test_checksums_tell_values_apart() -> None:
    values: list[tuple[str | bytes | float | None, ...]] = [
        *((None,), ("",), (b"",), (0,), ("0",), (b"0",), (0.5,), (1,), ("1",)),
        *(("a", "b"), ("ab", ""), ("", "ab"), ("ab",), ("a", b"b"), (None, None), (None, "")),
    ]
    assert len({checksum(*each) for each in values}) == len(values)
    assert checksum(1) == checksum(1.0)  # a database may give either

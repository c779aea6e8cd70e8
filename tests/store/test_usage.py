"""What each scope keeps: whatever is done, the counters say what the rows say."""

import asyncio
import random
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, select

from llamastream.errors import ChatError, NotFound
from llamastream.records import Retention, ScopeUsage
from llamastream.store.database import Database, sqlite_url
from llamastream.store.migrations import MIGRATIONS, upgrade
from llamastream.store.rows import ROW_BYTES, size_of
from llamastream.store.store import Store
from llamastream.store.tables import conversations, items, presets, responses
from tests.store.conftest import Clock
from tests.store.doubles import DONE, SCOPE, a_response, append, run, start, tokens
from tests.store.doubles import items as new_items

SCOPES = (SCOPE, "key-2")


def recount(conn: Connection) -> dict[str, ScopeUsage]:
    """From the rows, by what each holds."""
    num_bytes = dict.fromkeys(SCOPES, 0)
    num_responses = dict.fromkeys(SCOPES, 0)
    names = ("request", "result", "error", "prompt_ids", "sampling", "token_ids", "logprobs")
    for row in conn.execute(select(responses)):
        num_responses[row.scope] += 1
        num_bytes[row.scope] += ROW_BYTES + size_of(*(getattr(row, name) for name in names))
    for row in conn.execute(select(conversations)):
        num_bytes[row.scope] += ROW_BYTES + size_of(row.metadata)
    for row in conn.execute(select(presets)):
        num_bytes[row.scope] += ROW_BYTES + size_of(row.name, row.settings)
    holders = (
        select(items, conversations.c.scope.label("one"), responses.c.scope.label("other"))
        .outerjoin(conversations, conversations.c.num == items.c.conversation_num)
        .outerjoin(responses, responses.c.num == items.c.response_num)
    )
    for row in conn.execute(holders):
        num_bytes[row.one or row.other] += ROW_BYTES + size_of(row.body)
    return {scope: ScopeUsage(num_responses[scope], num_bytes[scope]) for scope in SCOPES}


def recount_conversations(conn: Connection) -> None:
    inside = items.c.conversation_num == conversations.c.num
    count = select(func.count(), func.coalesce(func.sum(items.c.num_bytes), 0)).where(inside)
    for row in conn.execute(select(conversations)):
        found = conn.execute(count.where(conversations.c.num == row.num)).one()
        assert (row.num_items, row.num_bytes) == tuple(found)


async def check(store: Store) -> None:
    assert {scope: await store.usage(scope) for scope in SCOPES} == await store._database.read(
        recount
    )
    await store._database.read(recount_conversations)


async def test_usage_of_one_response(store: Store) -> None:
    assert await store.usage(SCOPE) == ScopeUsage(0, 0)
    await start(store, "r1", input_items=new_items("a"))
    begun = await store.usage(SCOPE)
    assert begun.num_responses == 1
    await append(store, tokens("r1", 0, 100))
    assert await store.usage(SCOPE) == begun
    await store.responses.finish("r1", DONE)
    ended = await store.usage(SCOPE)
    assert ended.num_bytes > begun.num_bytes + 400  # 100 ids came
    await check(store)
    await store.responses.delete("r1", scope=SCOPE)
    assert await store.usage(SCOPE) == ScopeUsage(0, 0)


async def test_what_is_refused_is_not_counted(store: Store) -> None:
    good = asyncio.ensure_future(start(store, "r1"))
    with pytest.raises(NotFound):
        await store.responses.create(a_response("r2", previous_response_id="none"), scope=SCOPE)
    await good
    assert (await store.usage(SCOPE)).num_responses == 1
    await check(store)


async def act(store: Store, draw: random.Random, number: int) -> None:
    """Anything that can be done, to what may or may not be there."""
    scope = draw.choice(SCOPES)
    name = f"{draw.randrange(6)}-{scope}"
    id, conversation = f"r{name}", f"c{draw.randrange(3)}-{scope}"
    said = new_items(f"i{number}", f"j{number}")
    link = draw.choice(({}, {"conversation_id": conversation}, {"previous_response_id": id}))
    fields = {"input_items": said, "scope": scope, "output_items": new_items(f"o{number}")}
    actions = [
        lambda: run(store, f"r{number % 6}-{scope}", **fields, **link),
        lambda: start(store, f"r{number % 6}-{scope}", input_items=said, scope=scope, **link),
        lambda: store.responses.finish(id, DONE),
        lambda: store.responses.delete(id, scope=scope),
        lambda: store.responses.update(id, lambda r: r | {"k": "v" * number}, scope=scope),
        lambda: store.conversations.create(
            conversation, scope=scope, metadata={"k": "v"}, items=said
        ),
        lambda: store.conversations.update(conversation, scope=scope, metadata={"k": "v" * 30}),
        lambda: store.conversations.add_items(conversation, said, scope=scope),
        lambda: store.conversations.delete_item(conversation, f"i{number - 3}", scope=scope),
        lambda: store.conversations.delete(conversation, scope=scope),
        lambda: store.presets.save(
            f"p{number}", scope=scope, name=name[:1], settings={"k": "v" * number}
        ),
        lambda: store.presets.delete(f"p{draw.randrange(number + 1)}", scope=scope),
        lambda: store.sweep(Retention(max_responses=4, max_conversations=2)),
    ]
    try:
        await draw.choice(actions)()  # type: ignore[operator]
    except ChatError:
        pass
    except Exception as error:
        assert "UNIQUE" in str(error) or "unique" in str(error), error


async def test_counters_follow_whatever_is_done(store: Store, clock: Clock, tmp_path: Path) -> None:
    draw = random.Random(13)
    for number in range(150):
        clock.now += 1
        await act(store, draw, number)
        if number % 10 == 0:
            await check(store)
    await check(store)
    await store.export(tmp_path / "file")
    async with await Store.open(sqlite_url(tmp_path / "other")) as other:
        await other.import_(tmp_path / "file")
        await check(other)
        assert [await other.usage(s) for s in SCOPES] == [await store.usage(s) for s in SCOPES]


OLD_ROWS = (
    "INSERT INTO conversations (num, id, scope, created_at, updated_at, metadata) "
    "VALUES (1, 'c1', 'key-1', 1, 2, '{\"k\":\"ü\"}'), (2, 'c2', 'key-2', 1, 2, '{}')",
    "INSERT INTO responses (num, id, scope, owner, status, created_at, finished_at, "
    "conversation_id, request, result, sampling, token_ids, journal_start, restarts, "
    "tokens_at_restart) VALUES (1, 'r1', 'key-1', 'main', 'completed', 1, 2, 'c1', '{}', '{}', "
    "'{}', {ids}, 0, 0, 0)",
    "INSERT INTO items (id, body, conversation_num, position, response_num, part) VALUES "
    '(\'a\', \'{"role":"system","parts":["ü"]}\', 1, 0, NULL, NULL), '
    "('b', '{\"role\":\"user\",\"parts\":[]}', 1, 1, 1, 0), ('c', '{\"x\":1}', NULL, NULL, 1, 1)",
)


async def test_database_from_before_is_counted_and_read(empty_url: str) -> None:
    database = Database(empty_url)
    ids = "x'0100000002000000'" if database.is_sqlite else "'\\x0100000002000000'"
    with database.connect() as conn:
        upgrade(conn, MIGRATIONS[:2])
        for statement in OLD_ROWS:
            conn.exec_driver_sql(statement.replace("{ids}", ids))
    database.close()
    async with await Store.open(empty_url) as store:
        await check(store)
        assert (await store.usage(SCOPE)).num_responses == 1
        assert (await store.conversations.get("c1", scope=SCOPE)).metadata == {"k": "ü"}
        history = await store.conversations.history("c1", scope=SCOPE)
        assert [item.id for item in history] == ["a", "b"]
        found = await store.responses.tokens("r1", scope=SCOPE)
        assert [token.token_id for token in found] == [1, 2]
        outlines = []
        await store.conversations.history(
            "c1", scope=SCOPE, choose=lambda all: outlines.extend(all) or []
        )
        assert [one.role for one in outlines] == ["system", "user"]

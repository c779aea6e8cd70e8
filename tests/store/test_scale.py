"""Ten thousand finished conversations cost a reader nothing."""

import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from sqlalchemy import Connection, insert

from llamastream.records import PageQuery
from llamastream.store.database import sqlite_url
from llamastream.store.packing import pack_ids
from llamastream.store.store import Store
from llamastream.store.tables import conversations, items, responses
from tests.store.doubles import SCOPE

NUM = 10_000
TURNS = 4
LIMIT_S = 0.020


def fill(conn: Connection) -> None:
    body = {"type": "message", "role": "user", "content": [{"type": "text", "text": "x" * 300}]}
    common = {"scope": SCOPE, "created_at": 1.0}
    ended = common | {
        "owner": "main",
        "status": "completed",
        "finished_at": 2.0,
        "request": {"model": "m"},
        "result": {"usage": {}},
        "sampling": {"seed": 1},
        "token_ids": pack_ids(range(100)),
        "journal_start": 0,
        "restarts": 0,
        "tokens_at_restart": 0,
    }
    rows = range(1, NUM + 1)
    conversation = common | {"updated_at": 1.0, "metadata": {}}
    conn.execute(insert(conversations), [conversation | {"id": f"c{k}"} for k in rows])
    previous = [None, *(f"r{k}" for k in rows)]
    conn.execute(
        insert(responses),
        [
            ended
            | {
                "id": f"r{k}",
                "conversation_id": f"c{k}",
                "previous_response_id": previous[k - 1] if k % 20 else None,
            }
            for k in rows
        ],
    )
    # Ten thousand of another kind stand before these.
    conn.execute(insert(responses), [ended | {"id": f"chatcmpl-{k}"} for k in range(200)])
    conn.execute(
        insert(items),
        [
            {
                "id": f"i{k}-{turn}",
                "body": body,
                "conversation_num": k,
                "position": turn,
                "response_num": k,
                "part": turn % 2,
            }
            for k in rows
            for turn in range(TURNS)
        ],
    )


async def median_s(call: Callable[[int], Awaitable[object]]) -> float:
    times = []
    for k in range(1, NUM, NUM // 20):
        begin = time.perf_counter()
        await call(k)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


async def test_ten_thousand_conversations_open_in_milliseconds(tmp_path: Path) -> None:
    async with await Store.open(sqlite_url(tmp_path)) as store:
        await store._writer.run(fill)
        calls: dict[str, Callable[[int], Awaitable[object]]] = {
            "list": lambda k: store.conversations.list(
                scope=SCOPE, query=PageQuery(after=f"c{k}", limit=100)
            ),
            "open": lambda k: store.conversations.get(f"c{k}", scope=SCOPE),
            "items": lambda k: store.conversations.items(
                f"c{k}", scope=SCOPE, query=PageQuery(limit=100)
            ),
            "history": lambda k: store.conversations.history(f"c{k}", scope=SCOPE),
            "chain": lambda k: store.responses.history(f"r{k}", scope=SCOPE),
            "chats": lambda k: store.responses.list(
                scope=SCOPE, prefix="chatcmpl-", query=PageQuery(limit=100), matches=lambda _: True
            ),
            "resume": lambda k: store.responses.tokens(f"r{k}", scope=SCOPE, after=50),
        }
        took = {name: await median_s(call) for name, call in calls.items()}
    assert max(took.values()) < LIMIT_S, took

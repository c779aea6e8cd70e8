"""Ten thousand finished conversations cost a reader no more than two hundred."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event, insert

from llamastream.records import PageQuery
from llamastream.store.database import sqlite_url
from llamastream.store.packing import pack_ids
from llamastream.store.store import Store
from llamastream.store.tables import conversations, items, responses
from tests.store.doubles import SCOPE

FEW, MANY = 200, 10_000
TURNS = 4
GRAIN = 10  # instructions of SQLite between two counts
BODY = '{"role":"user","parts":["%s"],"status":"completed"}' % ("x" * 300)


def fill(conn: Connection, num: int) -> None:
    common = {"scope": SCOPE, "created_at": 1.0}
    ended = common | {
        "owner": "main",
        "status": "completed",
        "finished_at": 2.0,
        "request": '{"model":"m"}',
        "result": '{"usage":{}}',
        "sampling": '{"seed":1}',
        "token_ids": pack_ids(range(100)),
        "journal_start": 0,
        "restarts": 0,
        "tokens_at_restart": 0,
    }
    rows = range(1, num + 1)
    conversation = common | {"updated_at": 1.0, "metadata": "{}"}
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
    # All of another kind stand before these.
    conn.execute(insert(responses), [ended | {"id": f"chatcmpl-{k}"} for k in range(200)])
    conn.execute(
        insert(items),
        [
            {
                "id": f"i{k}-{turn}",
                "body": BODY,
                "conversation_num": k,
                "position": turn,
                "response_num": k,
                "part": turn % 2,
                "num_bytes": len(BODY),
            }
            for k in rows
            for turn in range(TURNS)
        ],
    )


class Counter:
    """Counts what SQLite does on the connections that are used from now on."""

    def __init__(self, store: Store) -> None:
        self.num = 0
        event.listen(store._database.engine, "checkout", self._on_checkout)

    def _on_checkout(self, raw: Any, *_: Any) -> None:
        raw.set_progress_handler(self._on_progress, GRAIN)

    def _on_progress(self) -> int:
        self.num += 1
        return 0


async def instructions(folder: Path, num: int) -> dict[str, int]:
    """What each call costs, in GRAINs."""
    async with await Store.open(sqlite_url(folder)) as store:
        await store._writer.run(lambda tx: fill(tx.conn, num))
        counter = Counter(store)
        k = num // 2 + 5
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "list": lambda: store.conversations.list(
                scope=SCOPE, query=PageQuery(after=f"c{k}", limit=100)
            ),
            "open": lambda: store.conversations.get(f"c{k}", scope=SCOPE),
            "items": lambda: store.conversations.items(
                f"c{k}", scope=SCOPE, query=PageQuery(limit=100)
            ),
            "history": lambda: store.conversations.history(f"c{k}", scope=SCOPE),
            "chain": lambda: store.responses.history(f"r{k}", scope=SCOPE),
            "chats": lambda: store.responses.list(
                scope=SCOPE, prefix="chatcmpl-", query=PageQuery(limit=100), matches=lambda _: True
            ),
            "resume": lambda: store.responses.tokens(f"r{k}", scope=SCOPE, after=50),
            "usage": lambda: store.usage(SCOPE),
        }
        counts = {}
        for name, call in calls.items():
            counter.num = 0
            await call()
            counts[name] = counter.num
    return counts


async def test_ten_thousand_conversations_cost_a_reader_what_few_do(tmp_path: Path) -> None:
    few = await instructions(tmp_path / "few", FEW)
    many = await instructions(tmp_path / "many", MANY)
    assert sum(few.values()) > 100  # they are counted
    # The depth of a tree may grow, and a chain may be of another length: not with the rows.
    assert {name: many[name] for name in few if many[name] > 2 * few[name] + 10} == {}

"""How long readers wait when ten thousand conversations are stored.

python -m tests.store.ten_thousand --requests 1000

A real server holds one conversation of two turns, its rows are copied under new ids, and a client
on one connection asks in turns for each of what `requests_of` names.
"""

import argparse
import asyncio
import http.client
import json
import random
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import Connection, Row, insert, select

from llamastream.store.database import sqlite_url
from llamastream.store.rows import (
    conversation_row,
    item_row,
    response_row,
    to_conversation,
    to_item,
    to_response,
)
from llamastream.store.store import Store
from llamastream.store.tables import conversations, items, responses
from tests.soak.server import Server

NUM_CONVERSATIONS = 10_000
NUM_TOKENS = 200  # of each answer
TURNS = ("Tell me a story about a small boat on the sea.", "And what did the captain say?")


async def converse(server: Server) -> None:
    """One conversation, as a client makes it."""
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        model = (await client.get("/v1/models")).json()["data"][0]["id"]
        conversation = (await client.post("/v1/conversations", json={})).json()["id"]
        common = {"model": model, "max_output_tokens": NUM_TOKENS, "ignore_eos": True}
        for text in TURNS:
            body = common | {"input": text, "conversation": conversation, "temperature": 0.0}
            (await client.post("/v1/responses", json=body)).raise_for_status()


async def multiply(folder: Path) -> tuple[list[str], list[str], int]:
    """The ids of all conversations and responses, and the tokens generated for them."""
    async with await Store.open(sqlite_url(folder)) as store:
        return await store._writer.run(lambda tx: _copy(tx.conn))


def _copy(conn: Connection) -> tuple[list[str], list[str], int]:
    (conversation,) = conn.execute(select(conversations))
    answers = conn.execute(select(responses)).all()
    said = conn.execute(select(items)).all()
    conversation_ids = [conversation.id]
    response_ids = [row.id for row in answers]
    first, done = to_conversation(conversation), [to_response(row) for row in answers]
    for k in range(1, NUM_CONVERSATIONS):
        own = _new_id(conversation)
        conversation_ids.append(own)
        new = conversation_row(replace(first, id=own))
        conn.execute(insert(conversations), _moved(conversation, k, 1, new))
        renamed = [replace(one, id=_new_id(one), conversation_id=own) for one in done]
        copies = [
            _moved(row, k, len(answers), response_row(one))
            for row, one in zip(answers, renamed, strict=True)
        ]
        conn.execute(insert(responses), copies)
        response_ids += [copy["id"] for copy in copies]
        conn.execute(insert(items), [_item(row, k, len(said), len(answers)) for row in said])
    return conversation_ids, response_ids, len(response_ids) * NUM_TOKENS


def _item(row: Row[Any], k: int, num_items: int, num_responses: int) -> dict[str, Any]:
    nums = {
        "conversation_num": row.conversation_num + k,
        "response_num": row.response_num + k * num_responses,
    }
    return _moved(row, k, num_items, item_row(to_item(row)._replace(id=_new_id(row))) | nums)


def _moved(row: Row[Any], k: int, step: int, changes: dict[str, Any]) -> dict[str, Any]:
    """Copy k of a row, of which the original has `step`."""
    return {**row._mapping, "num": row.num + k * step, **changes}


def _new_id(row: Any) -> str:
    return f"{row.id.partition('_')[0]}_{uuid.uuid4().hex}"


def requests_of(conversation: str, response: str) -> dict[str, str]:
    return {
        "conversation list": f"/v1/conversations?limit=100&after={conversation}",
        "open": f"/v1/conversations/{conversation}",
        "items list": f"/v1/conversations/{conversation}/items?limit=100",
        "search, found in all": "/v1/search/conversations?query=small+boat",
        "search, found in none": "/v1/search/conversations?query=small+submarine",
        "response retrieve": f"/v1/responses/{response}",
        "response resume": f"/v1/responses/{response}?stream=true&starting_after=100",
    }


def ask(connection: http.client.HTTPConnection, path: str) -> float:
    """Seconds until the first bytes of the answer's body."""
    began = time.perf_counter()
    connection.request("GET", path)
    answer = connection.getresponse()
    assert answer.status == 200, (path, answer.status)
    answer.read1()
    took = time.perf_counter() - began
    answer.read()
    return took


def measure(
    port: int, conversation_ids: Sequence[str], response_ids: Sequence[str], num: int
) -> dict[str, list[float]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    draw = random.Random(1)
    times: dict[str, list[float]] = {}
    for _ in range(num):
        paths = requests_of(draw.choice(conversation_ids), draw.choice(response_ids))
        for kind, path in paths.items():
            times.setdefault(kind, []).append(ask(connection, path))
    connection.close()
    return times


async def run(model: str, num_requests: int, folder: Path) -> None:
    server = Server(folder, model=model)
    await server.start()
    await converse(server)
    await server.stop()
    conversation_ids, response_ids, num_tokens = await multiply(folder)
    size = (folder / "llamastream.db").stat().st_size
    await server.start()
    times = await asyncio.to_thread(
        measure, server.port, conversation_ids, response_ids, num_requests
    )
    await server.stop()
    figures = {kind: _figures(sorted(found)) for kind, found in times.items()}
    for kind, (p50, p99, worst) in figures.items():
        print(f"{kind:18} p50 {p50:6.2f} ms  p99 {p99:6.2f} ms  max {worst:6.2f} ms")
    print(json.dumps({"ms": figures, "bytes_per_token": round(size / num_tokens, 1)}))


def _figures(times: Sequence[float]) -> tuple[float, float, float]:
    """Median, 99th percentile and maximum, in milliseconds."""
    places = (len(times) // 2, int(len(times) * 0.99), -1)
    p50, p99, worst = (round(times[place] * 1000, 2) for place in places)
    return p50, p99, worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=Server.model)
    parser.add_argument("--requests", type=int, default=1000, help="of each kind")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(arguments.model, arguments.requests, Path(folder)))


if __name__ == "__main__":
    main()

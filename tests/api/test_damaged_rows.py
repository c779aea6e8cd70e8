"""Damaged rows over HTTP: each is told in one line, none with a traceback, and no word is wrong."""

import logging
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from llamastream.store.rows import CONVERSATION_FIELDS, RESPONSE_FIELDS
from tests.doubles.engine import FakeEngine
from tests.doubles.server import running_server
from tests.doubles.service import make_responses, make_service, says
from tests.store.damage import Cell, Rows

# What a record says. Other columns say where it belongs, how old it is, how large.
CHECKED = {
    "responses": {*RESPONSE_FIELDS, "token_ids", "logprobs"} - {"id", "scope"},
    "items": {"body"},
    "conversations": set(CONVERSATION_FIELDS) - {"id", "scope"},
}
CHATS = "/v1/chat/completions"  # the list takes in what ended well, which these tell
SELECTING = {"error", "result"}
PATHS_PER_DAMAGE = 4


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    stored = make_responses(make_service(FakeEngine(says("Paris, é 😀. " * 8))), folder)
    async with (
        running_server(stored.answers, None, stored) as url,
        httpx.AsyncClient(base_url=url, timeout=60) as client,
    ):
        yield client


async def fill(client: httpx.AsyncClient) -> list[str]:
    """One of everything, and the paths that show it."""

    async def post(path: str, **fields: Any) -> str:
        answer = await client.post(path, json=fields)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    conversation = await post("/v1/conversations", metadata={"k": "v"})
    logprobs = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    common = {"model": "demo", "input": "Capital of France?"}
    first = await post("/v1/responses", conversation=conversation, **common, **logprobs)
    second = await post("/v1/responses", previous_response_id=first, **common)
    messages = [{"role": "user", "content": "hi"}]
    chat = await post("/v1/chat/completions", model="demo", store=True, messages=messages)
    return [
        *(f"/v1/responses/{id}{more}" for id in (first, second) for more in ("", "?stream=true")),
        *(f"/v1/responses/{id}/input_items" for id in (first, second)),
        "/v1/conversations",
        f"/v1/conversations/{conversation}",
        f"/v1/conversations/{conversation}/items",
        CHATS,
        f"/v1/chat/completions/{chat}",
        f"/v1/chat/completions/{chat}/messages",
    ]


def check(
    path: str,
    answer: httpx.Response,
    whole: bytes,
    cell: Cell,
    records: list[logging.LogRecord],
) -> None:
    lines = [r.getMessage() for r in records if r.levelno >= logging.WARNING]
    assert not any(record.exc_info for record in records), cell
    assert answer.status_code in (200, 400, 404, 503), (cell, answer.text)
    if answer.status_code == 503:
        assert len(lines) == 1, (cell, lines)
        assert answer.json()["error"]["code"] == "store_unavailable"
    else:
        assert not lines, (cell, lines)
    if answer.status_code == 200 and b'"store_unavailable"' not in answer.content:
        is_checked = cell.column in CHECKED.get(cell.table, ())
        is_checked &= path != CHATS or cell.column not in SELECTING
        assert answer.content == whole or not is_checked, (cell, answer.text)


@pytest.mark.parametrize("number", [150, pytest.param(1000, marks=pytest.mark.slow)])
async def test_damaged_rows_are_told_and_never_shown(
    tmp_path: Path, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    draw = random.Random(number)
    num_told = num_done = 0
    async with serving(tmp_path) as client:
        paths = await fill(client)
        whole = {path: (await client.get(path)).content for path in paths}
        with closing(Rows(tmp_path / "llamastream.db")) as rows:
            while num_done < number:
                cell = draw.choice(rows.cells)
                try:
                    old = rows.damage(cell, draw)
                except (sqlite3.IntegrityError, OverflowError):
                    continue
                num_done += 1
                for path in draw.sample(paths, PATHS_PER_DAMAGE):
                    caplog.clear()
                    answer = await client.get(path)
                    check(path, answer, whole[path], cell, caplog.records)
                    num_told += answer.status_code == 503
                rows.put(cell, old)
        assert {path: (await client.get(path)).content for path in paths} == whole
    assert num_told > number / 10

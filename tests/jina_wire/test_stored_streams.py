"""Stored answers over both wires: the same documents for every reader, from any position."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from llamastream.errors import InternalError
from llamastream.generation import StoredAnswers
from llamastream.jina.reading import document_fields
from tests.doubles.engine import FakeEngine
from tests.doubles.jina_servers import grpc_port, http_port
from tests.doubles.service import running_responses, says
from tests.doubles.waiting import LIMIT_S, until
from tests.jina_wire.test_grpc_server import call_bytes, connect, failure, stream_doc

TEXT = "a🙂é."  # one token per byte
POSITIONS = [0, 4, 6, 7]  # of the tokens that bring its text
STORED: dict[str, Any] = {"prompt": "Hi", "max_tokens": 100, "store": True}
Document = dict[str, Any]
Started = tuple[StoredAnswers, grpc.aio.Channel, httpx.AsyncClient]
Start = Callable[..., AbstractAsyncContextManager[Started]]


@pytest.fixture
def serve(tmp_path: Path) -> Start:
    """`async with serve(engine, *keys) as (responses, channel, http)`: again on the same store."""

    @asynccontextmanager
    async def start(engine: FakeEngine, *keys: str) -> AsyncIterator[Started]:
        async with (
            running_responses(engine, tmp_path) as responses,
            grpc_port(responses.answers, stored=responses, keys=keys) as rpc,
            http_port(responses.answers, stored=responses, keys=keys) as web,
            connect(rpc) as channel,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{web}", timeout=LIMIT_S) as http,
        ):
            yield responses, channel, http

    return start


async def read(channel: grpc.aio.Channel, **fields: Any) -> list[Document]:
    return await rest_of(stream_doc(channel, call_bytes(**fields)))


async def one(call: Any) -> Document:
    return document_fields((await call.read()).document.SerializeToString())


async def rest_of(call: Any) -> list[Document]:
    found = []
    while (response := await call.read()) is not grpc.aio.EOF:
        found.append(document_fields(response.document.SerializeToString()))
    return found


async def read_http(http: httpx.AsyncClient, **fields: Any) -> list[Document]:
    response = await http.post("/stream", json=fields)
    lines = response.text.split("\r\n")
    assert lines[-3:] == ["event: end", "", ""], response.text
    return [json.loads(line[6:]) for line in lines if line.startswith("data: ")]


def text_of(documents: list[Document]) -> str:
    return "".join(document["generated_text"] for document in documents)


async def test_documents_have_the_id_and_the_position_of_their_token(serve: Start) -> None:
    async with serve(FakeEngine(says(TEXT))) as (_, channel, _http):
        documents = await read(channel, **STORED)
    assert text_of(documents) == TEXT
    assert [document["sequence_number"] for document in documents] == POSITIONS
    assert len({document["stream_id"] for document in documents}) == 1
    assert [d["token_id"] for d in documents] == [TEXT.encode()[k] for k in POSITIONS]


@pytest.mark.parametrize("max_tokens", [100, 8, 6, 3])
@pytest.mark.parametrize("stop", ["", "é"])
async def test_a_reader_resumes_behind_any_document(
    serve: Start, max_tokens: int, stop: str
) -> None:
    """8: the last token has text. 6 and 3: the end releases a broken character's."""
    async with serve(FakeEngine(says(TEXT))) as (_, channel, http):
        fields = STORED | {"max_tokens": max_tokens} | ({"stop": [stop]} if stop else {})
        documents = await read_http(http, **fields)
        id = documents[0]["stream_id"]
        assert await read(channel, stream_id=id) == documents
        for after in range(-1, 12):
            rest = [d for d in documents if d["sequence_number"] > after]
            again = {"stream_id": id, "starting_after": after}
            assert await read(channel, **again) == rest
            assert await read_http(http, **again) == rest
    is_cut = max_tokens < 7 or (max_tokens == 8 and not stop)
    assert documents[-1].get("finish_reason") == ("length" if is_cut else None)


async def test_the_last_token_says_length_also_to_who_reads_as_it_is_made(serve: Start) -> None:
    engine = FakeEngine(says("abc"), manual=True)
    async with serve(engine) as (_, channel, _http):
        call = stream_doc(channel, call_bytes(**STORED | {"max_tokens": 2}))
        engine.allow(1)
        live = [await one(call)]
        engine.allow(9)
        live += await rest_of(call)
        assert await read(channel, stream_id=live[0]["stream_id"]) == live
    assert [document.get("finish_reason") for document in live] == [None, "length"]


async def test_two_readers_follow_and_leaving_is_not_stopping(serve: Start) -> None:
    engine = FakeEngine(says(TEXT), manual=True)
    async with serve(engine) as (_, channel, http):
        first = stream_doc(channel, call_bytes(**STORED))
        engine.allow(1)
        seen = await one(first)
        second = stream_doc(channel, call_bytes(stream_id=seen["stream_id"]))
        assert await one(second) == seen
        first.cancel()
        engine.allow(100)
        rest = await rest_of(second)
        assert text_of([seen, *rest]) == TEXT
        again = {"stream_id": seen["stream_id"], "starting_after": 0}
        assert await read_http(http, **again) == rest


async def test_a_new_server_goes_on_behind_the_last_document(serve: Start) -> None:
    engine = FakeEngine(says(TEXT), manual=True)
    async with serve(engine) as (_, channel, _http):
        call = stream_doc(channel, call_bytes(**STORED))
        engine.allow(6)  # in the middle of the é
        seen = [await one(call) for _ in range(2)]
    async with serve(FakeEngine(says(TEXT))) as (_, channel, _http):
        id = seen[0]["stream_id"]
        rest = await read(channel, stream_id=id, starting_after=seen[-1]["sequence_number"])
        assert await read(channel, stream_id=id) == seen + rest
    assert text_of(seen + rest) == TEXT


async def test_unknown_foreign_and_deleted_ids_are_not_found(serve: Start) -> None:
    async with serve(FakeEngine(says(TEXT)), "mine", "other") as (responses, channel, http):
        mine, other = {"api_key": "mine"}, {"api_key": "other"}
        bearer = {"authorization": "Bearer mine"}
        ids = [(await read(channel, **STORED, **mine))[0]["stream_id"] for _ in range(2)]
        assert (await http.delete(f"/stream/{ids[1]}", headers=bearer)).json()["deleted"]
        asked = [{"stream_id": id} | mine for id in ("stream_0", "resp_0", "x", ids[1])]
        for fields in [*asked, {"stream_id": ids[0]} | other]:
            error = await failure(stream_doc(channel, call_bytes(**fields)))
            assert error.code() == grpc.StatusCode.NOT_FOUND
            response = await http.post("/stream", json=fields)
            assert response.status_code == 404
        assert (await http.delete(f"/stream/{ids[1]}", headers=bearer)).status_code == 404
        assert responses.num_live == 0


async def test_an_idempotency_key_begins_one_answer(serve: Start) -> None:
    found = []
    async with serve(FakeEngine(says(TEXT))) as (_, channel, http):
        for number in range(2):  # docarray gives each document an id of its own
            data = call_bytes(**STORED, id=f"{number:032}")
            call = stream_doc(channel, data, metadata=(("idempotency-key", "once"),))
            found.append(await rest_of(call))
        header = {"Idempotency-Key": "once"}
        response = await http.post("/stream", json=STORED, headers=header)
        assert found[0][0]["stream_id"] in response.text
        other = await http.post("/stream", json=STORED | {"prompt": "Ho"}, headers=header)
    assert other.status_code == 422
    assert found[0] == found[1]


async def test_a_failure_is_told_to_every_reader_after_what_was_made(serve: Start) -> None:
    engine = FakeEngine(says(TEXT), manual=True)
    async with serve(engine) as (_, channel, _http):
        call = stream_doc(channel, call_bytes(**STORED))
        engine.allow(1)
        seen = await one(call)
        engine.fail(engine.submitted[0].request_id, InternalError("the runner failed"))
        again = stream_doc(channel, call_bytes(stream_id=seen["stream_id"]))
        assert await one(again) == seen
        for reader in (call, again):
            error = await failure(reader)
            assert (error.code(), error.details()) == (
                grpc.StatusCode.INTERNAL,
                "the runner failed",
            )


async def test_what_is_not_stored_has_no_id_and_ends_with_its_reader(serve: Start) -> None:
    engine = FakeEngine(says(TEXT), manual=True)
    async with serve(engine) as (responses, channel, _http):
        # docarray fills fields that a client declares and does not use
        data = call_bytes(prompt="Hi", max_tokens=9, store=False, stream_id="", starting_after=-1)
        call = stream_doc(channel, data)
        engine.allow(1)
        document = await one(call)
        assert set(document) == {"id", "token_id", "generated_text", "sequence_number"}
        assert responses.num_live == 0
        call.cancel()
        await until(lambda: engine.num_alive == 0)


async def test_an_unopened_store_is_a_reason_to_come_again(serve: Start) -> None:
    async with serve(FakeEngine(says(TEXT))) as (responses, channel, http):
        await responses.stop()
        for fields in (STORED, {"stream_id": "stream_0"}):
            error = await failure(stream_doc(channel, call_bytes(**fields)))
            assert error.code() == grpc.StatusCode.UNAVAILABLE
            assert (await http.post("/stream", json=fields)).status_code == 503


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (STORED | {"store": "yes"}, "store"),
        (STORED | {"starting_after": 3}, "starting_after"),
        ({"stream_id": "stream_0", "starting_after": -2}, "starting_after"),
        ({"stream_id": 5}, "stream_id"),
        ({"store": True, "max_tokens": 5}, "prompt"),
    ],
)
async def test_bad_fields_are_refused_by_name(
    serve: Start, fields: dict[str, Any], param: str
) -> None:
    async with serve(FakeEngine(says(TEXT))) as (responses, channel, http):
        error = await failure(stream_doc(channel, call_bytes(**fields)))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert dict(error.trailing_metadata())["error-param"] == param
        response = await http.post("/stream", json=fields)
        assert (response.status_code, response.json()["error"]["param"]) == (422, param)
        assert responses.num_live == 0


@pytest.mark.parametrize("fields", [STORED, {"stream_id": "stream_0"}], ids=["store", "stream_id"])
async def test_a_server_without_a_store_refuses_by_name(
    serve: Start, fields: dict[str, Any]
) -> None:
    async with (
        serve(FakeEngine(says(TEXT))) as (responses, _, _http),
        grpc_port(responses.answers) as rpc,
        http_port(responses.answers) as web,
        connect(rpc) as channel,
    ):
        error = await failure(stream_doc(channel, call_bytes(**fields)))
        async with httpx.AsyncClient() as http:
            response = await http.post(f"http://127.0.0.1:{web}/stream", json=fields)
    name = "stream_id" if "stream_id" in fields else "store"
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert dict(error.trailing_metadata())["error-param"] == name
    assert (response.status_code, response.json()["error"]["param"]) == (422, name)


@pytest.mark.parametrize("answer", ["", "ab"], ids=["stop token", "stop string"])
async def test_an_answer_without_text_still_tells_its_id(serve: Start, answer: str) -> None:
    async with serve(FakeEngine(says(answer))) as (_, channel, http):
        (document,) = await read_http(http, **STORED, stop=["ab"])
        assert (document["generated_text"], document["finish_reason"]) == ("", "stop")
        again = {"stream_id": document["stream_id"]}
        number = document["sequence_number"]
        assert await read_http(http, **again) == [document]
        assert await read(channel, **again) == [document]
        assert await read(channel, **again, starting_after=number - 1) == [document]
        assert await read(channel, **again, starting_after=number) == []


async def test_a_cancelled_answer_without_a_token_tells_its_id(serve: Start) -> None:
    engine = FakeEngine(says("abc"), manual=True)
    async with serve(engine) as (responses, channel, _http):
        call = stream_doc(channel, call_bytes(**STORED))
        await until(lambda: engine.submitted)
        id = engine.submitted[0].request_id
        await until(lambda: responses.num_live)
        await responses.cancel(id, scope="")
        (document,) = await rest_of(call)
    assert (document["stream_id"], document["sequence_number"]) == (id, 0)
    assert document["finish_reason"] == "cancelled"

"""Streams over real connections: clients that wait, stall, leave and break off."""

import asyncio
import json
import tracemalloc
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from llamastream.api.deliver import HttpSink, StreamedAnswer
from llamastream.api.wire.format import Format
from llamastream.config import ServeSettings
from llamastream.errors import ChatError, EngineDead, InternalError
from llamastream.generation import Generation
from llamastream.types import ChatRequest, Delta, EngineState
from tests.api.conftest import Connect
from tests.api.raw import RawClient
from tests.api.sse import chat_body, content_of, events, stream_chat
from tests.doubles.engine import FakeEngine
from tests.doubles.server import serving
from tests.doubles.service import open_answer, running_service, says
from tests.doubles.waiting import LIMIT_S, until

CHAT = "/v1/chat/completions"


def body(text: str = "hi", **options: Any) -> dict[str, Any]:
    return chat_body(text, **{"stream": True} | options)


async def test_headers_come_before_the_first_token(connect: Connect) -> None:
    engine = FakeEngine(says("ok"), manual=True)
    client = await connect(engine)
    async with client.stream("POST", CHAT, json=body()) as response:
        assert response.status_code == 200
        assert engine.num_steps == 0
        engine.allow(3)
        assert "[DONE]" in (await response.aread()).decode()


async def test_every_token_is_sent_as_soon_as_it_is_there(connect: Connect) -> None:
    engine = FakeEngine(says("abc"), manual=True)
    client = await connect(engine)
    async with RawClient(client.base_url) as raw:
        raw.post(CHAT, body())
        for n, letter in enumerate(b"abc", start=1):
            engine.allow()
            await raw.read_until(b'"content":"%c"' % letter)
            assert engine.num_steps == n
        engine.allow()
        await raw.read_all()


async def test_a_waiting_stream_is_pinged(connect: Connect) -> None:
    engine = FakeEngine(says("ok"), manual=True)
    client = await connect(engine, ServeSettings(ping_interval_s=0.001))
    async with RawClient(client.base_url) as raw:
        raw.post(CHAT, body())
        await raw.read_until(b": ping\n\n\r\n8\r\n: ping\n\n")
        assert b"data:" not in raw.seen
        engine.allow(3)
        text = (await raw.read_all()).decode()
    assert '"content":"o"' in text


async def test_what_was_pushed_leaves_before_what_the_task_sends_in_the_same_turn() -> None:
    # As when a time limit wakes the task in the turn in which tokens are pushed and all ends.
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        sink = HttpSink(scope, send)
        await sink.start("text/plain")
        assert sink.connection is not None
        sink.connection.write_soon(b"a")
        await sink.write([b"b"])
        sink.connection.write_soon(b"c")
        await sink.end([b"d"])

    app = Starlette(routes=[Mount("/", answer)])
    async with serving(app) as url, httpx.AsyncClient(base_url=url, timeout=LIMIT_S) as client:
        assert (await client.get("/")).text == "abcd"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("how", ["leave", "reset"])
@pytest.mark.parametrize("when", ["queued", "answering"])
async def test_leaving_cancels_in_the_engine_and_harms_nobody(
    connect: Connect, how: str, when: str, stream: bool
) -> None:
    engine = FakeEngine(says("x" * 50), manual=True)
    client = await connect(engine)
    async with RawClient(client.base_url) as raw:
        raw.post(CHAT, body(stream=stream, n=2))
        await until(lambda: engine.num_alive == 2)
        other = asyncio.create_task(stream_chat(client))
        await until(lambda: engine.num_alive == 3)
        if when == "answering":
            engine.allow(5)
            await until(lambda: engine.num_steps == 5)
        getattr(raw, how)()
        await until(lambda: engine.num_alive == 1)  # before any further step
    assert len(engine.cancelled) == 2
    engine.allow(100)
    assert content_of(await other) == "x" * 50


async def test_a_reader_that_stalls_is_not_waited_for_and_loses_nothing(connect: Connect) -> None:
    length = 30_000
    engine = FakeEngine(says("y" * length), max_model_len=10**6, tokens_per_step=20)
    client = await connect(engine)
    async with RawClient(client.base_url) as slow:
        tracemalloc.start()
        try:
            slow.post(CHAT, body())
            await until(lambda: engine.num_alive == 1)
            assert content_of(await stream_chat(client, max_tokens=1000)) == "y" * 1000
            await until(lambda: engine.num_alive == 0)  # generated to the end meanwhile
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        text = (await slow.read_all()).decode()
    # As single deltas or frames it would be over 6 MB; text and ids are kept, once.
    assert peak < 3_000_000
    data = "".join(text.partition("\r\n\r\n")[2].split("\r\n")[1::2])
    assert content_of(events(data)) == "y" * length


async def test_an_error_in_the_middle_is_an_event(connect: Connect) -> None:
    engine = FakeEngine(says("abc"), manual=True)
    client = await connect(engine)
    async with RawClient(client.base_url) as raw:
        raw.post(CHAT, body())
        engine.allow(2)
        await raw.read_until(b'"content":"b"')
        engine.fail(engine.submitted[0].request_id, InternalError("the runner failed"))
        text = (await raw.read_all()).decode()
    last = text.rpartition("data: ")[2].partition("\n")[0]
    assert json.loads(last)["error"]["message"] == "the runner failed"
    assert "[DONE]" not in text


async def test_an_error_before_a_whole_answer_is_a_status(connect: Connect) -> None:
    engine = FakeEngine(says("abc"), manual=True)
    client = await connect(engine)
    answer = asyncio.create_task(client.post(CHAT, json=chat_body()))
    await until(lambda: engine.num_alive)
    engine.die(EngineDead("out of memory"))
    response = await answer
    assert response.status_code == 503
    assert response.json()["error"]["message"] == "out of memory"


async def test_a_full_queue_refuses(connect: Connect) -> None:
    engine = FakeEngine(says("abc"), manual=True, max_num_seqs=1, max_num_waiting=1)
    client = await connect(engine)
    others = [asyncio.create_task(stream_chat(client)) for _ in range(2)]
    await until(lambda: engine.num_alive == 2)
    response = await client.post(CHAT, json=body())
    assert response.status_code == 429
    assert response.headers["retry-after"] == "7"
    assert response.json()["error"]["type"] == "rate_limit_error"
    engine.allow(100)
    assert [content_of(chunks) for chunks in await asyncio.gather(*others)] == ["abc", "abc"]


@pytest.mark.parametrize("state", [EngineState.LOADING, EngineState.DEAD])
async def test_an_engine_that_is_not_ready_answers_503(
    connect: Connect, state: EngineState
) -> None:
    engine = FakeEngine(says("abc"), manual=True)
    client = await connect(engine)
    assert (await client.get("/health")).status_code == 200
    engine.state = state
    health = await client.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, state.value)
    response = await client.post(CHAT, json=body())
    assert response.status_code == 503
    assert response.headers["retry-after"]
    assert (await client.get("/v1/models")).status_code == 200
    engine.state = EngineState.DEAD


async def test_request_ids_come_back(connect: Connect) -> None:
    client = await connect(FakeEngine(says("ok")))
    given = await client.post(CHAT, json=body(), headers={"x-request-id": "mine-1"})
    assert given.headers["x-request-id"] == "mine-1"
    for bad in ("", "a b", "x" * 200):
        made = await client.get("/health", headers={"x-request-id": bad})
        assert len(made.headers["x-request-id"]) == 32
    refused = await client.post(CHAT, json={}, headers={"x-request-id": "mine-2"})
    assert refused.headers["x-request-id"] == "mine-2"


async def test_browsers_are_let_in_on_demand(connect: Connect) -> None:
    asks = {"origin": "https://chat.example.org", "access-control-request-method": "POST"}
    closed = await connect(FakeEngine(says("ok")))
    assert "access-control-allow-origin" not in (await closed.options(CHAT, headers=asks)).headers
    settings = ServeSettings(cors_origins="https://chat.example.org", api_key="k")
    opened = await connect(FakeEngine(says("ok")), settings)
    private = {"access-control-request-private-network": "true"}
    preflight = await opened.options(CHAT, headers=asks | private)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-private-network"] == "true"
    other = asks | private | {"origin": "https://elsewhere.example.org"}
    assert (await opened.options(CHAT, headers=other)).status_code == 400
    assert preflight.headers["access-control-allow-origin"] == asks["origin"]
    refused = await opened.post(CHAT, json=body(), headers={"origin": asks["origin"]})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == asks["origin"]
    exposed = refused.headers["access-control-expose-headers"].split(", ")
    assert {"Retry-After", "X-Request-Id", "x-ratelimit-remaining-tokens"} <= {*exposed}


async def test_stopping_the_server_ends_open_streams_with_an_error(connect: Connect) -> None:
    engine = FakeEngine(says("abc"), manual=True)
    client = await connect(engine)
    async with RawClient(client.base_url) as raw:
        raw.post(CHAT, body())
        engine.allow()
        await raw.read_until(b'"content":"a"')
        await engine.stop()
        text = (await raw.read_all()).decode()
    assert "engine_unavailable" in text


async def test_a_bug_is_a_500_in_the_same_shape(connect: Connect) -> None:
    client = await connect(FakeEngine(lambda _: 1 // 0))  # type: ignore[arg-type, return-value]
    response = await client.post(CHAT, json=body())
    assert response.status_code == 500
    assert response.json()["error"] == {
        "message": "Internal error: ZeroDivisionError.",
        "type": "server_error",
        "param": None,
        "code": "internal_error",
    }


class Failing(Format):
    """A wire format that cannot write one of the deltas."""

    def frames(self, delta: Delta) -> list[bytes]:
        if delta.text == "b":
            raise ValueError("a bug")
        return [delta.text.encode()]

    def closing(self, generation: Generation) -> list[bytes]:
        return [b"the end"]

    def error(self, error: ChatError) -> bytes:
        return error.message.encode()


class Connection:
    lags = False

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write_soon(self, body: bytes) -> None:
        self.written.append(body)

    def flush(self) -> None: ...


async def test_a_bug_while_sending_ends_its_own_answer_with_an_error() -> None:
    engine = FakeEngine(says("ab"), manual=True)
    connection, sent = Connection(), []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        await asyncio.Event().wait()

    async with running_service(engine) as answers:
        generation = await open_answer(answers, ChatRequest("hi"))
        answer = StreamedAnswer(generation, Failing(), ping_interval_s=60)
        sending = asyncio.create_task(answer({"state": {"connection": connection}}, receive, send))
        await until(lambda: bool(sent))  # it waits for deltas
        engine.allow(2)
        await sending
        assert engine.num_alive == 0
    assert connection.written == [b"a"]
    assert b"Internal error" in sent[-1]["body"]
    assert not sent[-1]["more_body"]


@pytest.mark.parametrize("store", [False, True])
async def test_what_fails_in_the_step_of_a_token_ends_behind_it(
    connect_stored: Connect, store: bool
) -> None:
    """The token's chunk came behind the last one, and broke the connection for its client."""

    class FailsWithAToken(FakeEngine):
        def _advance(self, seq: Any) -> None:
            super()._advance(seq)
            if seq.position == 2:
                self.fail(seq.request.request_id, InternalError("the runner failed"))

    client = await connect_stored(FailsWithAToken(says("abc")))
    for _ in range(2):  # the second one on the same connection
        text = (await client.post(CHAT, json=body(store=store))).text
        assert text.index('"content":"b"') < text.index("the runner failed")

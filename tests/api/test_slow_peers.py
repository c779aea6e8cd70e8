"""Who keeps the server waiting gives way: to the clock, which the tests let pass, and to others."""

import asyncio
import json
from typing import Any

import pytest

from llamastream.api.http.connections import (
    BODY_TIMEOUT_S,
    HEAD_TIMEOUT_S,
    MAX_REFUSED,
    MIN_BODY_RATE,
    Awaited,
    Connections,
    Patience,
    place_of,
)
from llamastream.api.http.transport import MAX_DRAINED_BYTES, MAX_HEAD_BYTES, Outlet
from llamastream.config import ServeSettings
from llamastream.errors import ChatError
from tests.api.conftest import Connect
from tests.api.raw import RawClient
from tests.api.sse import chat_body
from tests.api.test_responses_socket import hear, open_socket, say
from tests.doubles.engine import FakeEngine
from tests.doubles.service import says
from tests.doubles.waiting import until

SILENCE_S = 60.0
HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
CHAT = "/v1/chat/completions"
POST = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000000\r\n\r\n{"
CHUNKED = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def streamed(**options: Any) -> dict[str, Any]:
    return chat_body("hi", stream=True, **options)


@pytest.mark.parametrize(
    ("sent", "awaited", "limit_s", "status"),
    [
        (b"", Awaited.REQUEST, SILENCE_S, b""),
        (b"GET /heal", Awaited.HEAD, HEAD_TIMEOUT_S, b""),
        (HEAD + b"X-A: ", Awaited.HEAD, HEAD_TIMEOUT_S, b""),
        (HEAD.replace(b"1.1", b"1.0"), Awaited.HEAD, HEAD_TIMEOUT_S, b""),
        (POST % CHAT.encode(), Awaited.BODY, BODY_TIMEOUT_S, b""),
        (POST % b"/stream", Awaited.BODY, BODY_TIMEOUT_S, b""),
        (CHUNKED + b"1\r\n{\r\n", Awaited.BODY, BODY_TIMEOUT_S, b""),
        (HEAD + b"\r\n" + HEAD, Awaited.HEAD, HEAD_TIMEOUT_S, b"200"),
        (HEAD + b"\r\n", Awaited.REQUEST, SILENCE_S, b"200"),
        (HEAD + b"\r\n" * 9, Awaited.REQUEST, SILENCE_S, b"200"),
        (POST % b"/nowhere", Awaited.BODY, BODY_TIMEOUT_S, b"404"),
    ],
)
async def test_who_says_nothing_more_is_let_go(
    connect: Connect, sent: bytes, awaited: Awaited, limit_s: float, status: bytes
) -> None:
    connections = Connections(silence_s=SILENCE_S)
    client = await connect(FakeEngine(says("ok")), connections=connections)
    async with RawClient(client.base_url) as raw:
        raw.send(sent)
        if status:
            await raw.read_until(b"}")
        await until(lambda: awaited in waiting(connections))
        connections.tick(limit_s - 0.5)
        assert connections.num_open == 1
        connections.tick(0.5)
        seen = await raw.read_to_end()
    assert seen.count(b"HTTP/1.1") == bool(status)
    assert seen.partition(b" ")[2].startswith(status)
    assert connections.num_open == 0


def waiting(connections: Connections) -> list[Awaited]:
    return [each.patience.awaited for each in connections.waiting if each.waits]


async def test_a_slow_body_passes_while_it_makes_progress(connect: Connect) -> None:
    connections = Connections(silence_s=SILENCE_S)
    client = await connect(FakeEngine(says("ok")), connections=connections)
    body = json.dumps(streamed()).encode().ljust(20 * MIN_BODY_RATE)
    async with RawClient(client.base_url) as raw:
        raw.send(POST.replace(b"4000000", b"%d" % len(body))[:-1] % CHAT.encode())
        await until(lambda: Awaited.BODY in waiting(connections))
        for start in range(0, len(body), MIN_BODY_RATE):
            (patient,) = connections.waiting
            before = patient.patience.left_s
            connections.tick(1.0)
            raw.send(body[start : start + MIN_BODY_RATE])
            await until(lambda: patient.patience.left_s >= before)  # noqa: B023
        assert b"[DONE]" in await raw.read_all()


def test_what_came_fast_saves_up_no_more_than_the_limit() -> None:
    patience = Patience(SILENCE_S)
    patience.wait_for(Awaited.BODY)
    patience.progress(10**9)
    assert not patience.ends_after(BODY_TIMEOUT_S - 1)
    assert patience.ends_after(1)


async def test_no_time_passes_while_an_answer_is_sent(connect_stored: Connect) -> None:
    engine = FakeEngine(says("hello"), manual=True)
    connections = Connections(silence_s=SILENCE_S)
    client = await connect_stored(engine, connections=connections)
    async with RawClient(client.base_url) as raw, open_socket(client) as socket:
        raw.post(CHAT, streamed())
        raw.send(HEAD)  # of a next one
        await say(socket, "response.create", model="demo", input="Hello")
        await until(lambda: engine.num_alive == 2)
        connections.tick(10_000)
        engine.allow(6)
        assert b"[DONE]" in await raw.read_all()
        connections.tick(HEAD_TIMEOUT_S / 2)  # from now on the next one is waited for
        raw.send(b"\r\n")
        await raw.read_until(b'"status"')
        assert (await hear(socket))[-1]["type"] == "response.completed"
        connections.tick(10_000)
        await say(socket, "response.create", model="demo", input="Hello")
        await until(lambda: engine.num_alive == 1)
        engine.allow(6)
        assert (await hear(socket))[-1]["type"] == "response.completed"


async def test_the_longest_silent_one_gives_way_to_the_next(connect: Connect) -> None:
    engine = FakeEngine(says("ok"), manual=True)
    connections = Connections(3, silence_s=SILENCE_S)
    client = await connect(engine, connections=connections)
    async with RawClient(client.base_url) as streaming:
        streaming.post(CHAT, streamed())
        await until(lambda: engine.num_alive == 1)
        async with RawClient(client.base_url) as first, RawClient(client.base_url) as second:
            first.send(HEAD)
            await until(lambda: waiting(connections) == [Awaited.HEAD, Awaited.REQUEST])
            for _ in range(2):
                assert (await client.get("/health")).status_code == 200
            seen = await first.read_to_end()
            assert seen.startswith(b"HTTP/1.1 503 Service Unavailable")
            assert b"--max-connections" in seen
            second.send(HEAD + b"\r\n")
            await second.read_until(b"200 OK")
        engine.allow(3)
        assert b"[DONE]" in await streaming.read_all()


async def test_where_all_are_answered_the_next_is_told_so(connect: Connect) -> None:
    engine = FakeEngine(says("ok"), manual=True)
    connections = Connections(1, silence_s=SILENCE_S)
    client = await connect(engine, connections=connections)
    async with RawClient(client.base_url) as streaming:
        streaming.post(CHAT, streamed())
        await until(lambda: engine.num_alive == 1)
        refused = await client.get("/health")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "too_many_connections"
        assert refused.headers["retry-after"] == "1"
        silent = [await RawClient(client.base_url).__aenter__() for _ in range(MAX_REFUSED + 3)]
        assert await silent[0].read_to_end() == b""  # of those no more than some are kept
        assert (await client.get("/health")).status_code == 503
        for raw in silent:
            raw.leave()
        engine.allow(3)
        assert b"[DONE]" in await streaming.read_all()
    await until(lambda: connections.num_open == 0)
    assert (await client.get("/health")).status_code == 200


class Peer:
    """A connection that waits, or is answered."""

    def __init__(self) -> None:
        self.patience = Patience(SILENCE_S)
        self.waits = True
        self.error: ChatError | None = None

    def give_up(self, error: ChatError | None) -> None:
        self.error = error


async def test_an_address_has_its_own_limit_and_hurts_nobody_else() -> None:
    connections = Connections(100, 2)
    peers = [(asyncio.Transport(), Peer()) for _ in range(5)]
    addresses = ["10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.1"]
    for (transport, peer), address in zip(peers[:4], addresses, strict=False):
        assert connections.open(transport, peer, address) is None
    assert [peer.error is not None for _, peer in peers] == [True, False, False, False, False]
    for transport, _ in peers:
        connections.answer(transport)
    refusal = connections.open(*peers[4], addresses[4])
    assert refusal is not None
    assert "--max-connections-per-address" in refusal.message
    for transport, _ in peers:
        connections.close(transport)
    assert connections.num_open == 0
    assert connections.open(*peers[4], addresses[4]) is None


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("127.0.0.9", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        (None, None),
    ],
)
def test_addresses_are_counted_by_who_has_them(address: str | None, place: str | None) -> None:
    assert place_of(address) == place


@pytest.mark.parametrize(
    ("begin", "endless"),
    [
        (b"1\r\n{\r\n0\r\n", b"A: b\r\n"),
        (b"1;", b"a" * 100),
        (b"1\r\n{\r\n", b"1;%b\r\n \r\n" % (b"a" * 100)),
    ],
)
async def test_what_comes_around_a_body_is_bounded(
    connect: Connect, begin: bytes, endless: bytes
) -> None:
    """Trailers and extensions of chunks are no body, and no progress."""
    connections = Connections()
    client = await connect(FakeEngine(says("ok")), connections=connections)
    async with RawClient(client.base_url) as raw:
        raw.send(CHUNKED + begin)
        await until(lambda: Awaited.BODY in waiting(connections))
        raw.send(endless * (8 * MAX_HEAD_BYTES // len(endless)))
        await until(lambda: connections.num_open == 0)


async def test_a_body_that_was_answered_unread_is_drained_up_to_a_limit(connect: Connect) -> None:
    client = await connect(FakeEngine(says("ok")))
    async with RawClient(client.base_url) as raw:
        raw.send(b"POST /nowhere HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n")
        await raw.read_until(b"404")
        with pytest.raises(ConnectionError):
            for _ in range(4 * MAX_DRAINED_BYTES // 2**20):
                raw.send(b"a" * 2**20)
                await raw.drain()


async def test_options_bound_connections(connect: Connect) -> None:
    engine = FakeEngine(says("ok"), manual=True)
    client = await connect(engine, ServeSettings(max_connections=1))
    async with RawClient(client.base_url) as streaming:
        streaming.post(CHAT, streamed())
        await until(lambda: engine.num_alive == 1)
        assert "<= 1 connections" in (await client.get("/health")).json()["error"]["message"]


class Closed(asyncio.Transport):
    """As uvloop's, between the end of a connection and its protocol's hearing of it."""

    def is_closing(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        raise RuntimeError("the handler is closed")


def test_nothing_is_raised_for_a_peer_that_is_gone() -> None:
    Outlet(Closed()).write(b"late")

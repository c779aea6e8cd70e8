"""One read may bring thousands of requests or frames: others are served before all are parsed."""

import asyncio

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from llamastream.api.http.inlet import Inlet
from llamastream.api.http.transport import PIECE_BYTES
from llamastream.api.http.websocket import MAX_FRAMES
from tests.api.conftest import Connect
from tests.api.raw import RawClient
from tests.api.sse import chat_body
from tests.api.test_responses_socket import hear, open_socket, say
from tests.doubles.engine import FakeEngine
from tests.doubles.service import says
from tests.doubles.waiting import until

TINY = b"GET /version HTTP/1.1\r\n\r\n"


class Transport(asyncio.Transport):
    """Counts nothing, and tells whether it is read."""

    def __init__(self) -> None:
        super().__init__()
        self._reads = True

    def is_reading(self) -> bool:
        return self._reads

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self._reads = False

    def resume_reading(self) -> None:
        self._reads = True


async def test_pieces_come_in_order_one_in_a_turn_and_nothing_is_read_meanwhile() -> None:
    transport, seen, is_held = Transport(), [], False
    inlet = Inlet(
        transport,
        lambda piece: seen.append((piece, transport.is_reading())),
        piece_bytes=lambda: 2,
        is_held=lambda: is_held,
        one_a_turn=True,
    )
    inlet.take(b"abcde")
    assert [piece for piece, _ in seen] == [b"ab"]
    assert not transport.is_reading()
    await asyncio.sleep(0)
    is_held = True
    await asyncio.sleep(0)
    assert [piece for piece, _ in seen] == [b"ab", b"cd"]
    inlet.take(b"fg")  # was on its way
    is_held = False
    inlet.update()
    await until(transport.is_reading)
    assert b"".join(piece for piece, _ in seen) == b"abcdefg"


async def test_of_pipelined_requests_some_are_parsed_at_a_time(connect: Connect) -> None:
    """Each waits for the answers before it; what waits is text, and not yet a request."""
    engine = FakeEngine(says("ok"), manual=True)
    client = await connect(engine)
    async with RawClient(client.base_url) as raw:
        raw.post("/v1/chat/completions", chat_body("hi"))
        raw.send(TINY * 1000)
        tasks = len(asyncio.all_tasks())
        assert (await client.get("/health")).status_code == 200
        assert len(asyncio.all_tasks()) < tasks + 2 + PIECE_BYTES // len(TINY)
        engine.allow(3)
        raw.send(b"GET /last HTTP/1.1\r\n\r\n")
        await raw.read_until(b"GET /last: Not Found")
    assert raw.seen.count(b"HTTP/1.1 200 OK") == 1001


@pytest.mark.parametrize("kind", [Opcode.PING, Opcode.PONG, Opcode.CONT])
async def test_who_sends_nothing_but_tiny_frames_is_closed(
    connect_stored: Connect, kind: Opcode
) -> None:
    server = await connect_stored(FakeEngine(says("ok")))
    async with open_socket(server) as socket:
        if kind is Opcode.CONT:
            await write(socket, Frame(Opcode.TEXT, b"{", fin=False))
        tiny = Frame(kind, b"", fin=kind is not Opcode.CONT)
        await write(socket, *[tiny] * (2 * MAX_FRAMES))
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008


async def test_fragments_of_some_size_are_read_to_the_end(connect_stored: Connect) -> None:
    server = await connect_stored(FakeEngine(says("ok")))
    text = "x" * (4 * 64 * MAX_FRAMES)
    message = b'{"type":"response.create","model":"demo","input":"%b"}' % text.encode()
    async with open_socket(server, ping_interval=None) as socket:
        pieces = [message[start : start + 128] for start in range(0, len(message), 128)]
        frames = [Frame(Opcode.CONT, piece, fin=False) for piece in pieces]
        frames[0] = Frame(Opcode.TEXT, pieces[0], fin=False)
        frames[-1] = Frame(Opcode.CONT, pieces[-1], fin=True)
        await write(socket, *frames)
        (event,) = await hear(socket)
        assert event["error"]["code"] == "context_length_exceeded"
        await say(socket, "response.create", model="demo", input="Hello")
        assert (await hear(socket))[-1]["type"] == "response.completed"


async def write(socket: object, *frames: Frame) -> None:
    data = b"".join(frame.serialize(mask=True) for frame in frames)
    socket.transport.write(data)  # type: ignore[attr-defined]
    await asyncio.sleep(0)


async def test_what_follows_an_upgrade_in_one_read_is_the_sockets(connect_stored: Connect) -> None:
    server = await connect_stored(FakeEngine(says("ok")))
    hello = b'{"type":"response.create","model":"demo","input":"Hello"}'
    async with RawClient(httpx.URL(server.base_url)) as raw:
        raw.send(
            b"GET /v1/responses HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nX-Long: " + b"a" * 2000 + b"\r\n\r\n"
            + Frame(Opcode.TEXT, hello).serialize(mask=True)
        )  # fmt: skip
        await raw.read_until(b"response.completed")

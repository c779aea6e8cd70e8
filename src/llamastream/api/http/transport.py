"""uvicorn's HTTP protocol: what it does not tell an application, whether a reader lags, and what it
does not bound: connections, and what comes on them that is no body of a request."""

import asyncio
import fcntl
import sys
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from httptools import HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from llamastream.api.http.connections import Awaited, Patience, connections_of
from llamastream.api.http.errors import error_response
from llamastream.api.http.inlet import Inlet
from llamastream.errors import ChatError, InvalidRequest, PayloadTooLarge

MAX_HEAD_BYTES = 64 * 1024  # of a request line and headers, beside the read in which they begin
MAX_CHUNK_OVERHEAD = 16  # bytes around a byte of a body
# What is parsed at once: some requests, or of a body what is known to be of it.
PIECE_BYTES, CHUNKED_PIECE_BYTES, BODY_PIECE_BYTES = 512, 2048, 65536
MAX_DRAINED_BYTES = 32 << 20  # of a body that was answered unread, so that the answer is seen
SIOCOUTQNSD = 0x894B  # Linux: bytes that the kernel holds because the reader's window is closed
POLL_S = 0.005  # there is no event for it


class Outlet:
    """A transport to which may be written though its peer is gone: uvloop's would raise, until it
    has told its protocol."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.is_closing = transport.is_closing  # asked with every token

    def write(self, data: bytes) -> None:
        if not self.is_closing():
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Flow(FlowControl):
    """uvicorn's, of an inlet. Nothing more is read while a request waits for another's answer."""

    def __init__(self, protocol: "HttpProtocol", transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._pipeline = protocol.pipeline
        self.inlet = Inlet(
            transport,
            protocol.parse,
            piece_bytes=lambda: protocol.piece_bytes,
            is_held=lambda: self.read_paused,
            one_a_turn=False,
        )

    def pause_reading(self) -> None:
        if not self.read_paused:
            self.read_paused = True
            self.inlet.update()

    def resume_reading(self) -> None:
        if self.read_paused and not self._pipeline:
            self.read_paused = False
            self.inlet.update()


class HttpProtocol(HttpToolsProtocol):
    """Gives each request, in its state, the connection it came on."""

    flow: Flow

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connections = connections_of(self.app_state)
        self.patience = Patience(self._connections.silence_s)
        self._refusal: ChatError | None = None  # of the connection
        self._soon: list[bytes] = []
        self._num_spare = 0  # bytes that may still come which are no body
        self._num_left: int | None = None  # bytes of the body, if it said how many
        self._piece = b""  # that is parsed

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport = Outlet(transport)  # type: ignore[assignment]
        super().connection_made(transport)
        self.flow = Flow(self, transport)
        address = None if self.client is None else self.client[0]
        self._refusal = self._connections.open(transport, self, address)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.close(self.transport)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            refuse(self.transport, self._refusal)
        else:
            self.flow.inlet.take(data)

    def parse(self, piece: bytes) -> None:
        if self.patience.awaited in (Awaited.HEAD, Awaited.BODY):
            self._num_spare -= len(piece)
        self._piece = piece
        super().data_received(piece)
        if self._num_spare < 0:
            self.give_up(_too_much(self.patience.awaited))

    @property
    def piece_bytes(self) -> int:
        if self.patience.awaited is not Awaited.BODY:
            return PIECE_BYTES
        if self._num_left is None:
            return CHUNKED_PIECE_BYTES
        return max(1, min(self._num_left, BODY_PIECE_BYTES))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["connection"] = self
        self._num_spare = MAX_HEAD_BYTES
        self.patience.wait_for(Awaited.HEAD)

    def on_headers_complete(self) -> None:
        self._num_spare = MAX_HEAD_BYTES  # for trailers
        self.patience.wait_for(Awaited.BODY)
        lengths = (value for name, value in self.headers if name == b"content-length")
        self._num_left = next(map(int, lengths), None)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self.patience.progress(len(body))
        if self._num_left is not None:
            self._num_left -= len(body)
        if not self.cycle.response_complete:
            self._num_spare += len(body) * (1 + MAX_CHUNK_OVERHEAD)
        else:
            self.flow.pause_reading()
            self._connections.read_on_later(self.flow.resume_reading)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._has_answered:  # without its body
            self.patience.wait_for(Awaited.REQUEST)
        else:
            self.patience.wait_for(Awaited.ANSWER)
            self._connections.answer(self.transport)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self.patience.awaited is Awaited.ANSWER and not self.pipeline:
            self.patience.wait_for(Awaited.REQUEST)
        elif self.patience.awaited is Awaited.BODY:
            self._num_spare = MAX_DRAINED_BYTES
        super().on_response_complete()
        if self._has_answered:
            self._connections.wait(self.transport, self)

    def _should_upgrade(self) -> bool:
        return True  # whatever is asked for is sorted out in the next method

    def handle_websocket_upgrade(self) -> None:
        """Begin a WebSocket. An offer of anything else is ignored, as a server may: the parser has
        stopped before the body, so the request is read again without the offer.

        Java's HttpClient and `curl --http2` offer HTTP/2 with every request; uvicorn alone would
        take their bodies for empty.
        """
        asked = self._get_upgrade()
        stopped = sys.exception()
        rest = b"" if not isinstance(stopped, HttpParserUpgrade) else self._piece[stopped.args[0] :]
        if asked == b"websocket" and self.scope["method"] == "GET":
            self._connections.answer(self.transport)  # pings tell whether its peer is there
            super().handle_websocket_upgrade()
            if rest := rest + self.flow.inlet.rest():
                self.transport.get_protocol().data_received(rest)  # type: ignore[attr-defined]
        elif asked is None or not isinstance(stopped, HttpParserUpgrade):
            self.send_400_response(f"{self.scope['method']} is not supported.")  # CONNECT
        else:
            version = self.parser.get_http_version()
            lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version.encode())]
            lines += [b"%b: %b" % pair for pair in self.headers if pair[0] != b"upgrade"]
            self.parser = HttpRequestParser(self)
            self.flow.inlet.put_back(b"\r\n".join([*lines, b"", b""]) + rest)

    def send_400_response(self, msg: str) -> None:
        refuse(self.transport, InvalidRequest(msg))

    @property
    def waits(self) -> bool:
        if self.flow.read_paused:
            return False
        if self.patience.awaited is Awaited.BODY and not self.cycle.response_started:
            return True
        return self._has_answered

    @property
    def _has_answered(self) -> bool:
        """Whatever was asked so far."""
        return self.cycle is None or self.cycle.response_complete

    def give_up(self, error: ChatError | None) -> None:
        if self.patience.awaited is Awaited.BODY:
            has_begun = self.cycle.response_started
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        else:
            has_begun = self.patience.awaited is not Awaited.HEAD or not self._has_answered
        if has_begun or error is None:
            self.transport.close()
        else:
            refuse(self.transport, error)

    @property
    def lags(self) -> bool:
        """True while the client has not taken enough of what was written, or is gone."""
        return bool(self.flow.write_paused) or self.transport.is_closing()

    def write_soon(self, body: bytes) -> None:
        """Send a piece of the answer that was begun, of unknown length, before anything later.

        It saves a task's turn of the loop. And the pieces of one step leave one right after the
        other, in one write per connection, so that a client of many streams is woken less often.
        """
        if not self._soon:
            self.loop.call_soon(self.flush)
        self._soon.append(body)

    def flush(self) -> None:
        """Write what is to be sent soon: called before anything else of the answer is sent."""
        body = b"".join(self._soon)
        self._soon.clear()
        if body and not self.transport.is_closing():
            self.transport.write(b"%x\r\n%b\r\n" % (len(body), body))


def refuse(transport: asyncio.Transport, error: ChatError) -> None:
    """Answer what is no request that could reach the application, and close."""
    if transport.is_closing():
        return
    status, response = HTTPStatus(error.status), error_response(error)
    head = b"HTTP/1.1 %d %b\r\nconnection: close\r\n" % (status, status.phrase.encode())
    head += b"".join(b"%b: %b\r\n" % pair for pair in response.raw_headers)
    transport.write(head + b"\r\n" + bytes(response.body))
    transport.close()


def _too_much(awaited: Awaited) -> ChatError:
    if awaited is Awaited.BODY:
        return PayloadTooLarge("The body has more around its chunks than in them.")
    error = PayloadTooLarge(
        f"The request line and headers must have <= {MAX_HEAD_BYTES} bytes. Given: more."
    )
    error.status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    return error


def connection_of(scope: Mapping[str, Any]) -> HttpProtocol | None:
    """The connection of a request; None when another protocol serves it."""
    connection: HttpProtocol | None = scope.get("state", {}).get("connection")
    return connection


async def unsent_is_none(scope: Mapping[str, Any]) -> None:
    """Return when everything that was written has left for the reader of this request."""
    connection = connection_of(scope)
    pause_s = 0.0  # what waits in the loop is written in its next turn
    while connection is not None and _num_unsent(connection.transport):
        await asyncio.sleep(pause_s)
        pause_s = POLL_S


def _num_unsent(transport: asyncio.Transport) -> int:
    """In bytes; 0 for a connection that was lost."""
    if transport.is_closing():
        return 0
    num_bytes = transport.get_write_buffer_size()
    if num_bytes or sys.platform != "linux":
        return num_bytes
    descriptor = transport.get_extra_info("socket").fileno()
    return int.from_bytes(fcntl.ioctl(descriptor, SIOCOUTQNSD, bytes(4)), sys.byteorder)

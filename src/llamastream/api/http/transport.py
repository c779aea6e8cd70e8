"""uvicorn's HTTP protocol: what it does not tell an application, whether a reader lags, and what it
does not bound, the head of a request."""

import asyncio
import fcntl
import sys
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from httptools import HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from llamastream.api.http.errors import error_body
from llamastream.errors import ChatError, InvalidRequest, PayloadTooLarge

MAX_HEAD_BYTES = 64 * 1024  # of a request line and headers, beside the read in which they begin
SIOCOUTQNSD = 0x894B  # Linux: bytes that the kernel holds because the reader's window is closed
POLL_S = 0.005  # there is no event for it


class HttpProtocol(HttpToolsProtocol):
    """Gives each request, in its state, the connection it came on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._soon: list[bytes] = []
        self._num_head_bytes: int | None = None  # of the head that has begun and not ended
        self._unread = b""

    def data_received(self, data: bytes) -> None:
        if self._num_head_bytes is not None:
            self._num_head_bytes += len(data)
        self._unread = data
        while data := self._unread:
            super().data_received(data)
            if self._unread is data:  # and not what is to be read again
                self._unread = b""
        if self._num_head_bytes is not None and self._num_head_bytes > MAX_HEAD_BYTES:
            error = PayloadTooLarge(
                f"The request line and headers must have <= {MAX_HEAD_BYTES} bytes. Given: more."
            )
            error.status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self._refuse(error)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["connection"] = self
        self._num_head_bytes = 0

    def on_headers_complete(self) -> None:
        self._num_head_bytes = None
        super().on_headers_complete()

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
        if asked == b"websocket" and self.scope["method"] == "GET":
            super().handle_websocket_upgrade()
        elif asked is None or not isinstance(stopped, HttpParserUpgrade):
            self._refuse(InvalidRequest(f"{self.scope['method']} is not supported."))  # CONNECT
        else:
            version = self.parser.get_http_version()
            lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version.encode())]
            lines += [b"%b: %b" % pair for pair in self.headers if pair[0] != b"upgrade"]
            rest = self._unread[stopped.args[0] :]
            self.parser = HttpRequestParser(self)
            self._unread = b"\r\n".join([*lines, b"", b""]) + rest

    def send_400_response(self, msg: str) -> None:
        self._refuse(InvalidRequest(msg))

    def _refuse(self, error: ChatError) -> None:
        """Answer what is no request that could reach the application, and close."""
        if self.transport.is_closing():
            return
        status, body = HTTPStatus(error.status), error_body(error)
        head = (
            f"HTTP/1.1 {status} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

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

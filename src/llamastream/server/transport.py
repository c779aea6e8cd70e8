"""uvicorn's HTTP protocol, and what it does not tell an application: whether a reader lags."""

import asyncio
import fcntl
import sys
from collections.abc import Mapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

SIOCOUTQNSD = 0x894B  # Linux: bytes that the kernel holds because the reader's window is closed
POLL_S = 0.005  # there is no event for it


class HttpProtocol(HttpToolsProtocol):
    """Gives each request, in its state, the connection it came on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._soon: list[bytes] = []

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["connection"] = self

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
            self.loop.call_soon(self._write)
        self._soon.append(body)

    def _write(self) -> None:
        body = b"".join(self._soon)
        self._soon.clear()
        if not self.transport.is_closing():
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

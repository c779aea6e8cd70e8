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

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["transport"] = self.transport


async def unsent_is_none(scope: Mapping[str, Any]) -> None:
    """Return when everything that was written has left for the reader of this request."""
    transport = scope.get("state", {}).get("transport")
    pause_s = 0.0  # uvloop writes at the end of its iteration
    while transport is not None and _num_unsent(transport):
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

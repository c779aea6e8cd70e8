"""A client on a bare socket, which can leave, stall and misbehave in ways that httpx cannot."""

import asyncio
import json
import socket
import struct
from typing import Any, Self

import httpx


class RawClient:
    """One connection. `read_until` and `read_all` see the bytes of the response."""

    def __init__(self, server: httpx.URL | str) -> None:
        url = httpx.URL(str(server))
        self._address = (url.host, url.port)
        self.seen = b""

    async def __aenter__(self) -> Self:
        # A small window, so that a reader that stalls is felt by the server soon.
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, self._address)
        self._reader, self._writer = await asyncio.open_connection(sock=sock, limit=4096)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    def post(self, path: str, body: dict[str, Any] | bytes) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
        self.send(head.encode() + data)

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def drain(self) -> None:
        """Wait until the server has taken most of what was sent. Raises ConnectionError."""
        await self._writer.drain()

    async def read_slowly(self, *, num_reads: int) -> None:
        """A byte at a time, with a turn of the event loop between two."""
        for _ in range(num_reads):
            self.seen += await self._reader.read(1)
            await asyncio.sleep(0)

    async def read_until(self, mark: bytes) -> bytes:
        """Up to the first `mark` and whatever came with it."""
        parts, tail = [self.seen], self.seen
        while mark not in tail:
            data = await self._reader.read(2**16)
            assert data, f"the connection ended before {mark!r}"
            parts.append(data)
            tail = tail[-len(mark) :] + data
        self.seen = b"".join(parts)
        return self.seen

    async def read_all(self) -> bytes:
        """Up to the end of a chunked response."""
        return await self.read_until(b"\r\n0\r\n\r\n")

    async def read_to_end(self) -> bytes:
        """Until the server closes the connection."""
        while data := await self._reader.read(2**16):
            self.seen += data
        return self.seen

    def finish(self) -> None:
        """Say that nothing more will be sent."""
        self._writer.write_eof()

    def leave(self) -> None:
        """Close the connection in the polite way (FIN)."""
        self._writer.close()

    def reset(self) -> None:
        """Close it by RST, as a crashed client does."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

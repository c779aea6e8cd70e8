"""A TCP relay on loopback between readers and server, and what a network does to them.

A link is one connection through it. It can be cut by RST at both ends, fall silent without closing
either end, or bring the server's bytes one per second.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Self

CHUNK_BYTES = 65536
SMALL_BUFFER_BYTES = 4096
SLOW_AFTER_BYTES = 2000  # handshakes and first events come at full speed
SLOW_S = 1.0  # per byte
LINGER_ZERO = struct.pack("ii", 1, 0)  # closing sends RST


class Link:
    """One connection. Slow while `is_fast` is not set, silent while `is_through` is not."""

    def __init__(
        self,
        reader: socket.socket,
        server: socket.socket,
        is_fast: asyncio.Event,
        is_through: asyncio.Event,
    ) -> None:
        self.num_bytes = 0  # brought to the reader
        self.port = int(server.getsockname()[1])  # by which the server knows it
        self._is_fast = is_fast
        self._is_through = is_through
        self.is_frozen = False
        self._ends = (reader, server)
        self._pumps = (
            asyncio.create_task(self._forward(reader, server)),
            asyncio.create_task(self._forward(server, reader, is_down=True)),
        )

    async def run(self) -> None:
        """Return when it has ended, or is frozen, and then its ends are open."""
        await asyncio.gather(*self._pumps, return_exceptions=True)
        if not self.is_frozen:
            self.close()

    async def freeze(self) -> None:
        """Forward nothing any more and close nothing: both ends meet silence."""
        self.is_frozen = True
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def reset(self) -> None:
        await self.freeze()
        for end in self._ends:
            if end.fileno() >= 0:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
        self.close()

    def close(self) -> None:
        for end in self._ends:
            end.close()

    async def _forward(
        self, source: socket.socket, sink: socket.socket, *, is_down: bool = False
    ) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await loop.sock_recv(source, 1 if self._is_slow else CHUNK_BYTES):
                await self._is_through.wait()
                await loop.sock_sendall(sink, data)
                if is_down:
                    self.num_bytes += len(data)
                    await self._dawdle()
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # one end is gone: so that the other direction ends, too
            for end in self._ends:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    @property
    def _is_slow(self) -> bool:
        return self.num_bytes >= SLOW_AFTER_BYTES and not self._is_fast.is_set()

    async def _dawdle(self) -> None:
        if self._is_slow:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_fast.wait(), SLOW_S)


class Relay:
    """Listens on `port`. `links` are the open ones, frozen ones included."""

    def __init__(self, target_port: int, *, has_small_buffers: bool = False) -> None:
        """Small buffers let the server feel early that a reader lags; they cost speed."""
        self.links: set[Link] = set()
        self.is_fast = asyncio.Event()
        self.is_fast.set()
        self.is_through = asyncio.Event()
        self.is_through.set()
        self._has_small_buffers = has_small_buffers
        self._target = ("127.0.0.1", target_port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def to(cls, target_port: int, *, has_small_buffers: bool = False) -> AsyncIterator[Self]:
        relay = cls(target_port, has_small_buffers=has_small_buffers)
        accepting = asyncio.create_task(relay._accept())
        try:
            yield relay
        finally:
            accepting.cancel()
            await asyncio.gather(accepting, return_exceptions=True)
            await relay.reset(relay.links)
            await asyncio.gather(*relay._tasks)
            relay._listener.close()

    async def reset(self, links: set[Link]) -> None:
        for link in set(links):
            await link.reset()
        self.links.difference_update(links)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            reader, _ = await loop.sock_accept(self._listener)
            task = asyncio.create_task(self._serve(reader))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: socket.socket) -> None:
        server = socket.socket()
        if self._has_small_buffers:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
        for end in (reader, server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncio.get_running_loop().sock_connect(server, self._target)
        except OSError:
            reader.close()
            server.close()
            return
        link = Link(reader, server, self.is_fast, self.is_through)
        self.links.add(link)
        await link.run()
        if not link.is_frozen:
            self.links.discard(link)

"""From an answer to whoever asked for it: one loop for all formats and transports.

A client that leaves closes its reader; whether that ends the answer is its keeper's affair. Writing
waits for a slow client, and nobody waits for it. While a client keeps up, deltas go out as they are
shown, without a turn of its task.
"""

import asyncio
import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from starlette.types import Receive, Scope, Send

from llamastream.api.http.errors import retry_after_s
from llamastream.api.http.transport import HttpProtocol, connection_of
from llamastream.api.wire.format import Format
from llamastream.errors import ChatError, InternalError
from llamastream.generation import Generation, Reader
from llamastream.types import Delta

logger = logging.getLogger(__name__)


class Connection(Protocol):
    """A transport that takes bytes outside of any task."""

    @property
    def lags(self) -> bool:
        """True while the client has not taken enough of what was written, or is gone."""
        ...

    def write_soon(self, body: bytes) -> None:
        """Send a frame before anything that is written later."""
        ...


class ClientLeft(Exception):
    """Raised by a sink: there is nobody to be told anything."""


class Sink(ABC):
    """Where frames go."""

    connection: Connection | None = None

    @abstractmethod
    async def write(self, frames: list[bytes]) -> None: ...

    @abstractmethod
    async def end(self, frames: list[bytes]) -> None:
        """The last frames."""

    async def fail(self, error: ChatError, wire: Format) -> None:
        """The answer does not end normally."""
        await self.end([wire.error(error)])


async def deliver(
    generation: Generation,
    reader: Reader,
    wire: Format,
    sink: Sink,
    *,
    ping_interval_s: float | None = None,
) -> None:
    """Read an answer to its end, or to the error in place of it. `ping_interval_s` None: never."""
    try:
        if opening := wire.opening():
            await sink.write(opening)
        while not reader.exhausted:
            deltas = await reader.read(ping_interval_s)
            frames = [frame for delta in wire.gather(deltas) for frame in wire.frames(delta)]
            if frames:
                await sink.write(frames)
            elif deltas:
                await asyncio.sleep(0)  # a long way to what is shown must not hold up the others
            elif not reader.exhausted:
                await sink.write([wire.ping])
        await sink.end([] if reader.closed else wire.closing(generation))
    except ClientLeft:
        return
    except ChatError as error:
        await sink.fail(error, wire)
    except Exception:  # our own bug must not look like a normal end
        logger.exception("failed while sending request_id=%s", generation.id)
        await sink.fail(InternalError("Internal error while sending the answer."), wire)


def pushing(wire: Format, connection: Connection | None) -> Callable[[Delta], bool] | None:
    """What sends one delta without waking a task; it gives False where that is the task's to do."""
    if connection is None:
        return None

    def push(delta: Delta) -> bool:
        if connection.lags:
            return False
        try:
            frames = wire.frames(delta)
        except Exception:  # the task will meet it as well, and ends this answer only
            return False
        for frame in frames:
            connection.write_soon(frame)
        return True

    return push


class StreamedAnswer:
    """An ASGI response. The headers leave at once, before the first token."""

    def __init__(self, generation: Generation, wire: Format, *, ping_interval_s: float) -> None:
        self._generation = generation
        self._wire = wire
        self._ping_interval_s = ping_interval_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wire, sink = self._wire, HttpSink(scope, send)
        with self._generation.follow(wire.start, pushing(wire, sink.connection)) as reader:
            async with closed_when_client_leaves(reader, receive):
                await sink.start(wire.media_type)
                interval_s = self._ping_interval_s
                await deliver(self._generation, reader, wire, sink, ping_interval_s=interval_s)


class WholeAnswer:
    """An ASGI response: one JSON body when everything was generated.

    Raises the ChatError that kept the answer from ending, before anything was sent.
    """

    def __init__(self, generation: Generation, wire: Format) -> None:
        self._generation = generation
        self._wire = wire

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        generation = self._generation
        with generation.follow(sys.maxsize, lambda _: True) as reader:
            async with closed_when_client_leaves(reader, receive):
                while not reader.exhausted:
                    await reader.read()
                if reader.closed:
                    return
                body = self._wire.whole(generation)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


class HttpSink(Sink):
    """The body of an HTTP response, in chunks."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.connection: HttpProtocol | None = connection_of(scope)
        self._send = send

    async def start(self, media_type: str) -> None:
        headers = [
            (b"content-type", media_type.encode()),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),  # asks nginx not to hold events back
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def write(self, frames: list[bytes]) -> None:
        await self._write(b"".join(frames), more=True)

    async def fail(self, error: ChatError, wire: Format) -> None:
        """With the line by which event streams say when to come back, where that helps."""
        seconds = retry_after_s(error)
        hint = b"" if seconds is None else b"retry: %d\n" % (1000 * seconds)
        await self.end([hint + wire.error(error)])

    async def end(self, frames: list[bytes]) -> None:
        await self._write(b"".join(frames), more=False)

    async def _write(self, body: bytes, *, more: bool) -> None:
        if self.connection is not None:
            self.connection.flush()
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


@asynccontextmanager
async def closed_when_client_leaves(reader: Reader, receive: Receive) -> AsyncIterator[None]:
    """Around the sending of an answer: its reader is closed when nobody reads."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        reader.close()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()

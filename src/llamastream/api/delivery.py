"""From a Stream to an HTTP response: server-sent events, or one JSON body at the end.

Either way the client's leaving closes the stream, which frees its blocks within one step. Writing
waits for a slow client's socket; meanwhile the stream melts its deltas together.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from starlette.types import Receive, Scope, Send

from llamastream.api.http.errors import error_body
from llamastream.api.http.transport import HttpProtocol, connection_of
from llamastream.api.wire.openai import Format
from llamastream.errors import ChatError, InternalError
from llamastream.generation.stream import Stream
from llamastream.types import Delta

logger = logging.getLogger(__name__)

PING = b": ping\n\n"  # a comment: readers of server-sent events skip it
EVENT_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # asks nginx not to hold events back
]


class EventStream:
    """An ASGI response. The headers leave at once, before the first token."""

    def __init__(self, stream: Stream, wire: Format, *, ping_interval_s: float) -> None:
        self._stream = stream
        self._wire = wire
        self._ping_interval_s = ping_interval_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with closed_when_client_leaves(self._stream, receive):
            await send(
                {"type": "http.response.start", "status": 200, "headers": EVENT_STREAM_HEADERS}
            )
            await self._send_events(send, connection_of(scope))

    async def _send_events(self, send: Send, connection: HttpProtocol | None) -> None:
        stream, wire = self._stream, self._wire
        take = None if connection is None else partial(self._send_now, connection)
        try:
            while not stream.exhausted:
                deltas = await stream.read(self._ping_interval_s, take)
                frames = [frame for delta in deltas for frame in wire.frames(delta)]
                if frames:
                    await send(_body(b"".join(frames), more=True))
                elif not deltas and not stream.exhausted:
                    await send(_body(PING, more=True))
            end = b"" if stream.closed else b"".join(wire.last_frames(stream.usage()))
        except ChatError as error:
            end = _error_event(error)
        except Exception:  # our own bug must not look like a normal end
            logger.exception("failed while sending request_id=%s", stream.id)
            end = _error_event(InternalError("Internal error while sending the answer."))
        await send(_body(end, more=False))

    def _send_now(self, connection: HttpProtocol, delta: Delta) -> bool:
        """Send one delta without waking the task. False: that is the task's to do."""
        if connection.lags:
            return False
        try:
            frames = self._wire.frames(delta)
        except Exception:  # the task will meet it as well, and ends this answer only
            return False
        if frames:
            connection.write_soon(b"".join(frames))
        return True


class WholeAnswer:
    """An ASGI response: one JSON body when everything was generated.

    Raises the stream's ChatError before anything was sent.
    """

    def __init__(self, stream: Stream, wire: Format) -> None:
        self._stream = stream
        self._wire = wire

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        deltas: list[Delta] = []
        async with closed_when_client_leaves(self._stream, receive):
            while not self._stream.exhausted:
                deltas += await self._stream.read()
            if self._stream.closed:
                return
            body = self._wire.whole(deltas, self._stream.usage())
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send(_body(body, more=False))


@asynccontextmanager
async def closed_when_client_leaves(stream: Stream, receive: Receive) -> AsyncIterator[None]:
    """Around the sending of an answer: the stream is closed at its end, or when nobody reads."""
    watcher = asyncio.create_task(_close_on_disconnect(stream, receive))
    try:
        yield
    finally:
        watcher.cancel()
        await stream.aclose()


async def _close_on_disconnect(stream: Stream, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    await stream.aclose()


def _error_event(error: ChatError) -> bytes:
    return b"data: " + error_body(error) + b"\n\n"


def _body(body: bytes, *, more: bool) -> dict[str, object]:
    return {"type": "http.response.body", "body": body, "more_body": more}

"""The events of one answer for one reader, and their way into an HTTP response: server-sent events,
or one JSON body at the end.

A client that leaves only stops reading: whether that stops the answer is the service's affair.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

import orjson
from starlette.types import Receive, Scope, Send

from llamastream.api.delivery import EVENT_STREAM_HEADERS, PING
from llamastream.api.http.errors import error_fields
from llamastream.errors import ChatError, InternalError
from llamastream.generation.response_log import Reader
from llamastream.generation.stream import Stream
from llamastream.types import Delta

logger = logging.getLogger(__name__)

START = -1  # the number before the first event


class Event(NamedTuple):
    number: int
    type: str
    body: bytes  # JSON
    is_last: bool = False


class Feed(ABC):
    """Read by one consumer, until an event is the last."""

    def __init__(self, id: str, source: Reader | Stream, opening: list[Event]) -> None:
        """`opening` events are there before the answer's first delta."""
        self.id = id
        self._source = source
        self._opening = opening

    async def read(self, timeout_s: float | None) -> list[Event]:
        """Events that are ready, waiting for at least one; empty when the time passed without any.

        Raises the ChatError that keeps the answer from going on here.
        """
        if self._opening:
            opening, self._opening = self._opening, []
            return opening
        while True:
            deltas = await self._source.read(timeout_s)
            events = self._events_of(deltas)
            if events or not deltas:
                return events
            await asyncio.sleep(0)  # a long way to what was not seen must not hold up the others

    @abstractmethod
    def _events_of(self, deltas: list[Delta]) -> list[Event]:
        """Those that were not seen; the end's as well, once the source is exhausted."""

    @abstractmethod
    def whole(self) -> bytes:
        """All of it as one JSON object, after the last event."""


Opening = AbstractAsyncContextManager[Feed]
"""A feed that is not open yet. It is closed when its reader has left."""


class FeedAnswer:
    """An ASGI response.

    Streamed: the headers leave at once, before the first token, and an error is an event. Whole:
    raises the ChatError that kept the answer from ending here, before anything was sent.
    """

    def __init__(
        self,
        opening: Opening,
        frame: Callable[[Event], bytes],
        *,
        is_stream: bool,
        ping_interval_s: float,
    ) -> None:
        """`frame` makes the bytes of a server-sent event."""
        self._opening = opening
        self._frame = frame
        self._is_stream = is_stream
        self._ping_interval_s = ping_interval_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = self._send_events(send) if self._is_stream else self._send_whole(send)
        await until_client_leaves(sending, receive)

    async def _send_events(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": EVENT_STREAM_HEADERS})
        async with self._opening as feed:
            async for events in read_all(feed, self._ping_interval_s):
                body = b"".join(map(self._frame, events)) if events else PING
                await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_whole(self, send: Send) -> None:
        async with self._opening as feed:
            while not any(event.is_last for event in await feed.read(None)):
                pass
            body = feed.whole()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


async def read_all(feed: Feed, ping_interval_s: float | None) -> AsyncIterator[list[Event]]:
    """All events; nothing for each silent interval; an error event in place of the end."""
    number = -1
    try:
        while True:
            events = await feed.read(ping_interval_s)
            if events:
                number = events[-1].number
            yield events
            if events and events[-1].is_last:
                return
    except ChatError as error:
        yield [error_event(error, number)]
    except Exception:  # our own bug must not look like a normal end
        logger.exception("failed while sending response=%s", feed.id)
        yield [error_event(InternalError("Internal error while sending the answer."), number)]


def error_event(error: ChatError, number: int) -> Event:
    """`number` is that of the event before it, so that resuming behind it loses nothing."""
    fields = {
        "type": "error",
        "sequence_number": max(number, 0),
        "status": error.status,
        "error": error_fields(error),
    }
    return Event(number, "error", orjson.dumps(fields), is_last=True)


async def until_client_leaves(sending: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Run `sending` to its end, or cancel it when the client disconnects."""
    sender = asyncio.create_task(sending)
    watcher = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait([sender, watcher], return_when=asyncio.FIRST_COMPLETED)
    finally:
        watcher.cancel()
        if not sender.done():
            sender.cancel()
        await asyncio.gather(sender, watcher, return_exceptions=True)
    if not sender.cancelled() and (error := sender.exception()) is not None:
        raise error


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

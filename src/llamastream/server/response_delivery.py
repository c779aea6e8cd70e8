"""From a Feed to an HTTP response: server-sent events, or one JSON body at the end.

A client that leaves only stops reading: whether that stops the response is the service's affair.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from llamastream.errors import ChatError, InternalError
from llamastream.server.delivery import EVENT_STREAM_HEADERS, PING
from llamastream.server.errors import error_fields
from llamastream.server.framing import DONE
from llamastream.server.response_events import Event
from llamastream.server.response_feed import Feed, OpenFeed

logger = logging.getLogger(__name__)


class FeedStream:
    """An ASGI response. The headers leave at once, before the first token."""

    def __init__(
        self, open_feed: OpenFeed, frame: Callable[[Event], bytes], *, ping_interval_s: float
    ) -> None:
        """`frame` makes the bytes of a server-sent event."""
        self._open_feed = open_feed
        self._frame = frame
        self._ping_interval_s = ping_interval_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await until_client_leaves(self._send(send), receive)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": EVENT_STREAM_HEADERS})
        async with self._open_feed() as feed:
            async for events in read_all(feed, self._ping_interval_s):
                body = b"".join(map(self._frame, events)) if events else PING
                await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class WholeFeed:
    """An ASGI response: one JSON body when everything was generated.

    Raises the ChatError that kept it from ending here, before anything was sent.
    """

    def __init__(self, open_feed: OpenFeed) -> None:
        self._open_feed = open_feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await until_client_leaves(self._send(send), receive)

    async def _send(self, send: Send) -> None:
        async with self._open_feed() as feed:
            is_last = False
            while not is_last:
                is_last = any(event.is_last for event in await feed.read(None))
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


def response_frame(event: Event) -> bytes:
    """An event of a response. The specification wants its type in front, and no `id:`."""
    end = DONE if event.is_last else b""
    return b"event: %b\ndata: %b\n\n%b" % (event.type.encode(), event.body, end)

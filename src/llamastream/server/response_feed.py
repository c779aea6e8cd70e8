"""The events of one response for one reader: of a stored one from any number on, or of a stream
that nobody keeps. Transports frame them."""

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Protocol

import orjson

from llamastream.messages import Delta, FinishReason, TokenLogprob
from llamastream.server.response_events import NUM_OPENING, Event, ResponseEvents, Snapshot
from llamastream.service.response_log import Reader, ResponseLog
from llamastream.service.stream import Stream

STATUSES = {
    FinishReason.STOP: "completed",
    FinishReason.LENGTH: "incomplete",
    FinishReason.CANCELLED: "cancelled",
}


class Feed(Protocol):
    """Read by one consumer, until an event is the last."""

    id: str  # of the response

    async def read(self, timeout_s: float | None) -> list[Event]:
        """Events that are ready, waiting for at least one; empty when the time passed without any.

        Raises the ChatError that keeps the response from going on here.
        """
        ...

    def whole(self) -> bytes:
        """All of it as one JSON object, after the last event."""
        ...


OpenFeed = Callable[[], AbstractAsyncContextManager[Feed]]


class StoredFeed:
    """The events with a number over `after`, but for the last, which always comes."""

    def __init__(self, reader: Reader, *, after: int) -> None:
        """`reader` starts at `start_of(after)`."""
        self.id = reader.record.id
        self._reader = reader
        self._after = after
        self._events = ResponseEvents(opened(reader.log))
        self._is_open = False

    async def read(self, timeout_s: float | None) -> list[Event]:
        if not self._is_open:
            self._is_open = True
            if events := self._new(self._events.opening()):
                return events
        while True:
            deltas = await self._reader.read(timeout_s)
            events = self._new(self._events_of(deltas))
            if events or not deltas:
                return events

    def whole(self) -> bytes:
        return orjson.dumps(read_up(self._reader).to_json())

    def _events_of(self, deltas: list[Delta]) -> list[Event]:
        shown = [delta for delta in deltas if delta.text or delta.token_ids]
        events = [self._events.delta(NUM_OPENING + d.sequence_number, d) for d in shown]
        if self._reader.exhausted:
            number = NUM_OPENING + self._reader.num_shown
            events += self._events.closing(number, read_up(self._reader))
        return events

    def _new(self, events: list[Event]) -> list[Event]:
        return [event for event in events if event.number > self._after or event.is_last]


class StreamFeed:
    """The events of a stream that is not stored, from its start. One event per delta."""

    def __init__(self, stream: Stream, snapshot: Snapshot) -> None:
        self.id = snapshot.id
        self._stream = stream
        self._snapshot = snapshot
        self._events = ResponseEvents(snapshot)
        self._next = 0
        self._text: list[str] = []
        self._logprobs: list[TokenLogprob] = []

    async def read(self, timeout_s: float | None) -> list[Event]:
        if not self._next:
            self._next = NUM_OPENING
            return self._events.opening()
        events: list[Event] = []
        for delta in await self._stream.read(timeout_s):
            if delta.text or delta.token_ids:
                events.append(self._events.delta(self._next, delta))
                self._next += 1
            self._text.append(delta.text)
            self._logprobs += delta.logprobs
            if delta.finish_reason is not None:
                self._end(STATUSES[delta.finish_reason])
        if self._stream.exhausted and not self._stream.closed:
            self._snapshot = replace(self._snapshot, usage=self._stream.usage())
            events += self._events.closing(self._next, self._snapshot)
        return events

    def whole(self) -> bytes:
        return orjson.dumps(self._snapshot.to_json())

    def _end(self, status: str) -> None:
        self._snapshot = replace(
            self._snapshot,
            status=status,
            completed_at=int(time.time()),
            text="".join(self._text),
            logprobs=tuple(self._logprobs),
        )


def start_of(after: int) -> int:
    """The position of the first token whose event has a number over `after`."""
    return max(after + 1 - NUM_OPENING, 0)


def opened(log: ResponseLog) -> Snapshot:
    """A stored response as it began."""
    record = log.record
    return Snapshot(
        id=record.id,
        created_at=int(record.created_at),
        wire=record.request["wire"],
        conversation_id=record.conversation_id,
        previous_response_id=record.previous_response_id,
    )


def read_up(reader: Reader) -> Snapshot:
    """A stored response of which `reader` has read all that there is."""
    record = reader.record
    snapshot = replace(opened(reader.log), status=record.status.value)
    if not reader.log.is_finished:
        return snapshot
    snapshot = replace(
        snapshot,
        completed_at=None if record.finished_at is None else int(record.finished_at),
        usage=reader.log.usage(),
        error=record.error,
    )
    if record.error is not None:
        return snapshot
    return replace(snapshot, text=reader.text, logprobs=tuple(reader.logprobs))

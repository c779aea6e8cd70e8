"""The feeds of a response: of a stored one from any number on, or of a stream that nobody keeps."""

import time
from dataclasses import replace

import orjson

from llamastream.messages import Delta, TokenLogprob
from llamastream.server.feed import Event
from llamastream.server.responses.events import NUM_OPENING, ResponseEvents, Snapshot
from llamastream.service.generations import STATUSES
from llamastream.service.response_log import Reader
from llamastream.service.stream import Stream


class StoredFeed:
    """The events with a number over `after`, but for the last, which always comes."""

    def __init__(self, reader: Reader, *, after: int) -> None:
        """`reader` starts at `start_of(after)`."""
        self.id = reader.record.id
        self._reader = reader
        self._after = after
        self._events = ResponseEvents(Snapshot.opened(reader.log))
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
        return orjson.dumps(Snapshot.read_up(self._reader).to_json())

    def _events_of(self, deltas: list[Delta]) -> list[Event]:
        shown = [delta for delta in deltas if delta.text or delta.token_ids]
        events = [self._events.delta(NUM_OPENING + d.sequence_number, d) for d in shown]
        if self._reader.exhausted:
            number = NUM_OPENING + self._reader.num_shown
            events += self._events.closing(number, Snapshot.read_up(self._reader))
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
                self._end(STATUSES[delta.finish_reason].value)
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

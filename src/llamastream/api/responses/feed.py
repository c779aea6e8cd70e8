"""The feed of one response: of a stored one behind any event, or of a stream that nobody keeps."""

import time
from dataclasses import replace

import orjson

from llamastream.api.feed import START, Event, Feed
from llamastream.api.wire.response_events import NUM_OPENING, ResponseEvents, Snapshot
from llamastream.generation.generations import STATUSES
from llamastream.generation.response_log import Reader
from llamastream.generation.stream import Stream
from llamastream.types import Delta, FinishReason, TokenLogprob


class ResponseFeed(Feed):
    """The events with a number over `after`, and of the last, which always comes.

    Deltas are read from the first on, since the end repeats the whole text. A stored response has
    one per token, so that its events are the same for every reader; an unstored one as they come.
    """

    def __init__(self, source: Reader | Stream, opened: Snapshot, *, after: int = START) -> None:
        self.snapshot = opened
        self._after = after
        self._events = ResponseEvents(opened)
        self._next = NUM_OPENING  # number of the next event
        self._text: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._finish_reason: FinishReason | None = None
        super().__init__(opened.id, source, self._new(self._events.opening()))

    def _events_of(self, deltas: list[Delta]) -> list[Event]:
        events = [event for delta in deltas for event in self._take(delta)]
        if self._source.exhausted:
            self.snapshot = self._ended()
            events += self._new(self._events.closing(self._next, self.snapshot))
        return events

    def whole(self) -> bytes:
        return orjson.dumps(self.snapshot.to_json())

    def _take(self, delta: Delta) -> list[Event]:
        """Its event, unless it shows nothing or was seen."""
        self._text.append(delta.text)
        self._logprobs += delta.logprobs
        self._finish_reason = delta.finish_reason
        if not (delta.text or delta.token_ids):
            return []
        self._next += 1
        number = self._next - 1
        return [self._events.delta(number, delta)] if number > self._after else []

    def _new(self, events: list[Event]) -> list[Event]:
        return [event for event in events if event.number > self._after or event.is_last]

    def _ended(self) -> Snapshot:
        """The response after its last delta."""
        ended = replace(self.snapshot, text="".join(self._text), logprobs=tuple(self._logprobs))
        if isinstance(self._source, Reader):
            return ended.recorded(self._source.log)
        assert self._finish_reason is not None
        return replace(
            ended,
            status=STATUSES[self._finish_reason].value,
            completed_at=int(time.time()),
            usage=self._source.usage(),
        )

"""A response on the wire: the object, and the events of its stream.

The number of an event follows from the journal alone: 0 to 3 open the response, its message and the
message's text; token n is event 4 + n, also where it completes no character; then come the closing
ones. So a reader that comes again gets the same bytes as the first. Of an answer that may hold more
than a message only 0 and 1 are so; see `response_items`.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import orjson

from llamastream.api.wire.format import START, Format
from llamastream.api.wire.openai import DONE, error_event, logprob_entries
from llamastream.api.wire.response_items import (
    Event,
    ItemEvents,
    Json,
    make_event,
    message,
    output_of,
    output_text,
)
from llamastream.errors import ChatError
from llamastream.generation import Generation
from llamastream.generation.items import ItemStatus, output_item_id
from llamastream.types import Delta, Part, TokenLogprob, Usage

NUM_CREATED, NUM_OPENING = 2, 4
INCOMPLETE_REASONS = {"incomplete": "max_output_tokens", "cancelled": "cancelled"}
TERMINAL_TYPES = {
    "completed": "response.completed",
    "incomplete": "response.incomplete",
    # The specification has no event of its own for it: the status tells.
    "cancelled": "response.incomplete",
    "failed": "response.failed",
}


Frame = Callable[[Event], bytes]


@dataclass(frozen=True, slots=True)
class ResponseShown:
    """What a response repeats of its request, in this order, and what shapes its events; kept with
    it."""

    model: str
    instructions: str | None
    background: bool
    store: bool
    metadata: dict[str, str]
    temperature: float
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    max_output_tokens: int | None
    top_logprobs: int
    truncation: str
    user: str | None
    safety_identifier: str | None
    prompt_cache_key: str | None
    logprobs: bool
    return_token_ids: bool
    text_format: Json | None = None
    tools: tuple[Json, ...] = ()
    tool_choice: Any = "auto"
    parallel_tool_calls: bool = True
    seed: int | None = None  # unknown of responses that were stored without it
    prompt_cache_retention: str | None = None

    def repeated(self) -> Json:
        return {name: getattr(self, name) for name in REPEATED}


SHOWN_ELSEWHERE = {"logprobs", "return_token_ids", "text_format"}
SHOWN_ELSEWHERE |= {"tools", "tool_choice", "parallel_tool_calls"}
REPEATED = tuple(field.name for field in fields(ResponseShown) if field.name not in SHOWN_ELSEWHERE)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A response at one moment, as its object shows it. Times are seconds since 1970."""

    id: str
    created_at: int
    shown: ResponseShown
    conversation: Json | None
    previous_response_id: str | None
    status: str = "in_progress"
    completed_at: int | None = None
    usage: Usage | None = None
    error: str | None = None
    warnings: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()  # none: no output
    logprobs: tuple[TokenLogprob, ...] = ()

    @classmethod
    def opened(cls, generation: Generation) -> Self:
        """A response as it began."""
        return cls(
            id=generation.id,
            created_at=int(generation.created_at),
            shown=ResponseShown(**generation.details.wire),
            conversation=_conversation_of(generation),
            previous_response_id=generation.previous_response_id,
        )

    @classmethod
    def of(cls, generation: Generation) -> Self:
        """A response as it is now. Of a failed one no text is shown."""
        opened, end = cls.opened(generation), generation.end
        if end is None:
            return opened
        ended = replace(
            opened,
            status=end.status.value,
            completed_at=None if end.finished_at is None else int(end.finished_at),
            usage=end.usage,
            error=end.error,
            warnings=end.warnings,
        )
        if end.error is not None:
            return ended
        log = generation.log
        return replace(ended, parts=log.parts(), logprobs=log.text_logprobs())

    @property
    def item_status(self) -> ItemStatus:
        """The last item's."""
        return "completed" if self.status == "completed" else "incomplete"

    def output(self) -> list[Json]:
        return output_of(self.id, self.parts, self.logprobs, self.item_status)

    def to_json(self) -> Json:
        reason = INCOMPLETE_REASONS.get(self.status)
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created_at,
            "completed_at": self.completed_at if self.status == "completed" else None,
            "status": self.status,
            "error": self.error and {"code": "server_error", "message": self.error},
            "incomplete_details": reason and {"reason": reason},
            "conversation": self.conversation,
            "previous_response_id": self.previous_response_id,
            **self.shown.repeated(),
            "output": self.output(),
            "usage": None if self.usage is None else usage_json(self.usage),
            "max_tool_calls": None,
            "parallel_tool_calls": self.shown.parallel_tool_calls,
            "reasoning": None,
            "service_tier": "default",
            "text": {"format": self.shown.text_format or {"type": "text"}},
            "tool_choice": self.shown.tool_choice,
            "tools": self.shown.tools,
            **({"warnings": self.warnings} if self.warnings else {}),
        }


class ResponseEvents:
    """Makes the events of one response. Numbers them as it is told."""

    def __init__(self, opened: Snapshot) -> None:
        """`opened` is the response as it began."""
        self._opened = opened
        self._place = {
            "item_id": output_item_id(opened.id),
            "output_index": 0,
            "content_index": 0,
        }
        self._before, self._after = _split_delta(self._place)
        shown = opened.shown
        self._is_plain = not (shown.logprobs or shown.return_token_ids)

    def opening(self) -> list[Event]:
        item = message(output_item_id(self._opened.id), "assistant", [], status="in_progress")
        part = self._place | {"part": output_text("")}
        return [
            *created(self._opened),
            make_event(2, "response.output_item.added", {"output_index": 0, "item": item}),
            make_event(3, "response.content_part.added", part),
        ]

    def delta(self, number: int, delta: Delta) -> Event:
        kind = "response.output_text.delta"
        if self._is_plain:
            text = orjson.dumps(delta.text)
            return Event(number, kind, b"%b%d%b%b}" % (self._before, number, self._after, text))
        more = self._place | {"logprobs": logprob_entries(delta.logprobs), "delta": delta.text}
        if self._opened.shown.return_token_ids:
            more["token_ids"] = delta.token_ids
        return make_event(number, kind, more)

    def closing(self, number: int, ended: Snapshot) -> list[Event]:
        """What follows the last delta, from `number` on. `ended` is the response as it then is."""
        bodies: list[tuple[str, Json]] = []
        for item in ended.output():
            (part,) = item["content"]
            done = self._place | {"text": part["text"], "logprobs": part["logprobs"]}
            bodies = [
                ("response.output_text.done", done),
                ("response.content_part.done", self._place | {"part": part}),
                ("response.output_item.done", {"output_index": 0, "item": item}),
            ]
        events = [make_event(number + k, kind, body) for k, (kind, body) in enumerate(bodies)]
        return [*events, last_event(number + len(events), ended)]


class ManyItemsEvents:
    """The same where an answer may hold more than a message; is told of all deltas."""

    def __init__(self, opened: Snapshot) -> None:
        self._opened = opened
        shown = opened.shown
        self._items = ItemEvents(
            opened.id, NUM_CREATED, logprobs=shown.logprobs, token_ids=shown.return_token_ids
        )

    def opening(self) -> list[Event]:
        return created(self._opened)

    def delta(self, delta: Delta) -> list[Event]:
        return self._items.delta(delta)

    def closing(self, ended: Snapshot) -> list[Event]:
        events = self._items.closing(ended.item_status) if ended.parts else []
        return [*events, last_event(self._items.number, ended)]


def created(opened: Snapshot) -> list[Event]:
    response = {"response": opened.to_json()}
    kinds = ("response.created", "response.in_progress")
    return [make_event(number, kind, response) for number, kind in enumerate(kinds)]


def last_event(number: int, ended: Snapshot) -> Event:
    event = make_event(number, TERMINAL_TYPES[ended.status], {"response": ended.to_json()})
    return event._replace(is_last=True)


class ResponseFormat(Format):
    """The events with a number over `after`, and the last, which always comes."""

    def __init__(
        self, generation: Generation, *, after: int = START, frame: Frame | None = None
    ) -> None:
        """`frame` makes the bytes of an event: without it, of a server-sent one."""
        opened = Snapshot.opened(generation)
        rules = generation.details.rules
        is_plain = rules.reasoning is None and rules.calls is None
        self.start = max(after + 1 - NUM_OPENING, 0) if is_plain else 0
        self._events = ResponseEvents(opened) if is_plain else ManyItemsEvents(opened)
        self._after = after
        self._frame = frame or sse_frame
        self._last = START  # the number that was sent last

    def opening(self) -> list[bytes]:
        return self._unseen(self._events.opening())

    def frames(self, delta: Delta) -> list[bytes]:
        if isinstance(self._events, ManyItemsEvents):
            return self._unseen(self._events.delta(delta))
        if not (delta.text or delta.token_ids):
            return []
        self._last = NUM_OPENING + delta.sequence_number
        return [self._frame(self._events.delta(self._last, delta))]

    def closing(self, generation: Generation) -> list[bytes]:
        ended = Snapshot.of(generation)
        if isinstance(self._events, ManyItemsEvents):
            return self._unseen(self._events.closing(ended))
        number = NUM_OPENING + len(generation.log)
        if number > NUM_OPENING:
            last = generation.log.delta(len(generation.log) - 1)
            number -= not (last.text or last.token_ids)  # it only said why, which no event shows
        return self._unseen(self._events.closing(number, ended))

    def error(self, error: ChatError) -> bytes:
        body = error_event(error, self._last)
        return self._frame(Event(self._last, "error", body, is_last=True))

    def whole(self, generation: Generation) -> bytes:
        return orjson.dumps(Snapshot.of(generation).to_json())

    def _unseen(self, events: list[Event]) -> list[bytes]:
        unseen = [event for event in events if event.number > self._after or event.is_last]
        if unseen:
            self._last = unseen[-1].number
        return [self._frame(event) for event in unseen]


def sse_frame(event: Event) -> bytes:
    """As a server-sent event. The specification wants its type in front, and no `id:`."""
    end = DONE if event.is_last else b""
    return b"event: %b\ndata: %b\n\n%b" % (event.type.encode(), event.body, end)


def _conversation_of(generation: Generation) -> Json | None:
    if generation.conversation_id is None:
        return None
    after = generation.details.after
    return {"id": generation.conversation_id} | ({} if after is None else {"after": after})


def usage_json(usage: Usage) -> Json:
    prompt, cached, output, reasoning = usage
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": prompt + output,
    }


def _split_delta(place: Json) -> tuple[bytes, bytes]:
    """A plain delta event's bytes before its number, and between that and its text."""
    _, _, body, _ = make_event(
        0, "response.output_text.delta", place | {"logprobs": [], "delta": 0}
    )
    before, _, rest = body.partition(b'"sequence_number":0')
    return before + b'"sequence_number":', rest.removesuffix(b"0}")

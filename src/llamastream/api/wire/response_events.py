"""A response on the wire: the object, and the events of its stream.

The number of an event follows from the journal alone: 0 to 3 open the response, its message and the
message's text; token n is event 4 + n, also where it completes no character; then come the closing
ones. So a reader that comes again gets the same bytes as the first.
"""

from dataclasses import dataclass, replace
from typing import Self

import orjson

from llamastream.api.feed import Event
from llamastream.api.wire.messages import Json, message, output_text
from llamastream.api.wire.openai import DONE, logprob_entries
from llamastream.generation.items import output_item_id
from llamastream.generation.response_log import ResponseLog
from llamastream.types import Delta, TokenLogprob, Usage

NUM_OPENING = 4
INCOMPLETE_REASONS = {"incomplete": "max_output_tokens", "cancelled": "cancelled"}
TERMINAL_TYPES = {
    "completed": "response.completed",
    "incomplete": "response.incomplete",
    # The specification has no event of its own for it: the status tells.
    "cancelled": "response.incomplete",
    "failed": "response.failed",
}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A response at one moment, as its object shows it. Times are seconds since 1970."""

    id: str
    created_at: int
    wire: Json  # of ResponseBody
    conversation_id: str | None
    previous_response_id: str | None
    status: str = "in_progress"
    completed_at: int | None = None
    usage: Usage | None = None
    error: str | None = None
    text: str | None = None  # None: no message
    logprobs: tuple[TokenLogprob, ...] = ()

    @classmethod
    def opened(cls, log: ResponseLog) -> Self:
        """A stored response as it began."""
        record = log.record
        return cls(
            id=record.id,
            created_at=int(record.created_at),
            wire=record.request["wire"],
            conversation_id=record.conversation_id,
            previous_response_id=record.previous_response_id,
        )

    def recorded(self, log: ResponseLog) -> Self:
        """The same as `log` says that it ended. Of a failed one no text is shown."""
        record = log.record
        ended = replace(
            self,
            status=record.status.value,
            completed_at=None if record.finished_at is None else int(record.finished_at),
            usage=log.usage(),
            error=record.error,
        )
        return ended if record.error is None else replace(ended, text=None, logprobs=())

    def message(self) -> Json:
        status = "completed" if self.status == "completed" else "incomplete"
        content = output_text(self.text or "", logprob_entries(self.logprobs))
        item = message(output_item_id(self.id), "assistant", [], status=status)
        return item | {"content": [content]}

    def to_json(self) -> Json:
        wire = {k: v for k, v in self.wire.items() if k not in ("logprobs", "return_token_ids")}
        reason = INCOMPLETE_REASONS.get(self.status)
        of_conversation = self.conversation_id and {"id": self.conversation_id}
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created_at,
            "completed_at": self.completed_at if self.status == "completed" else None,
            "status": self.status,
            "error": self.error and {"code": "server_error", "message": self.error},
            "incomplete_details": reason and {"reason": reason},
            "conversation": of_conversation,
            "previous_response_id": self.previous_response_id,
            **wire,
            "output": [] if self.text is None else [self.message()],
            "usage": None if self.usage is None else usage_json(self.usage),
            "max_tool_calls": None,
            "parallel_tool_calls": True,
            "reasoning": None,
            "service_tier": "default",
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
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
        wire = opened.wire
        self._is_plain = not (wire["logprobs"] or wire["return_token_ids"])

    def opening(self) -> list[Event]:
        response = self._opened.to_json()
        place = self._place
        item = message(output_item_id(self._opened.id), "assistant", [], status="in_progress")
        return [
            _event(0, "response.created", {"response": response}),
            _event(1, "response.in_progress", {"response": response}),
            _event(2, "response.output_item.added", {"output_index": 0, "item": item}),
            _event(3, "response.content_part.added", place | {"part": output_text("")}),
        ]

    def delta(self, number: int, delta: Delta) -> Event:
        kind = "response.output_text.delta"
        if self._is_plain:
            text = orjson.dumps(delta.text)
            return Event(number, kind, b"%b%d%b%b}" % (self._before, number, self._after, text))
        fields = self._place | {"logprobs": logprob_entries(delta.logprobs), "delta": delta.text}
        if self._opened.wire["return_token_ids"]:
            fields["token_ids"] = delta.token_ids
        return _event(number, kind, fields)

    def closing(self, number: int, ended: Snapshot) -> list[Event]:
        """What follows the last delta, from `number` on. `ended` is the response as it then is."""
        last = TERMINAL_TYPES[ended.status]
        bodies: list[tuple[str, Json]] = []
        if ended.text is not None:
            item = ended.message()
            (part,) = item["content"]
            done = self._place | {"text": part["text"], "logprobs": part["logprobs"]}
            bodies = [
                ("response.output_text.done", done),
                ("response.content_part.done", self._place | {"part": part}),
                ("response.output_item.done", {"output_index": 0, "item": item}),
            ]
        bodies.append((last, {"response": ended.to_json()}))
        events = [_event(number + k, kind, fields) for k, (kind, fields) in enumerate(bodies)]
        events[-1] = events[-1]._replace(is_last=True)
        return events


def frame(event: Event) -> bytes:
    """As a server-sent event. The specification wants its type in front, and no `id:`."""
    end = DONE if event.is_last else b""
    return b"event: %b\ndata: %b\n\n%b" % (event.type.encode(), event.body, end)


def usage_json(usage: Usage) -> Json:
    prompt, cached, output = usage
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + output,
    }


def _event(number: int, kind: str, fields: Json) -> Event:
    return Event(number, kind, orjson.dumps({"type": kind, "sequence_number": number} | fields))


def _split_delta(place: Json) -> tuple[bytes, bytes]:
    """A plain delta event's bytes before its number, and between that and its text."""
    _, _, body, _ = _event(0, "response.output_text.delta", place | {"logprobs": [], "delta": 0})
    before, _, rest = body.partition(b'"sequence_number":0')
    return before + b'"sequence_number":', rest.removesuffix(b"0}")

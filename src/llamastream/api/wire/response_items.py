"""Items of responses and conversations on the wire, and the events of items that open as they come.

The invariant: the number of an event follows from the deltas before it alone, so that whoever comes
again, also in the middle of a call, gets the same bytes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import orjson

from llamastream.api.wire.openai import logprob_entries
from llamastream.generation.items import (
    ItemStatus,
    call_item_id,
    output_item_id,
    output_items,
    parts_of,
)
from llamastream.records import Item
from llamastream.types import Delta, Part, TokenLogprob, ToolCall, ToolResult

Json = dict[str, Any]


class Event(NamedTuple):
    number: int
    type: str
    body: bytes  # JSON
    is_last: bool = False


def make_event(number: int, kind: str, body: Json) -> Event:
    return Event(number, kind, orjson.dumps({"type": kind, "sequence_number": number} | body))


def wire_item(item: Item) -> Json:
    shown = _shown(item)
    return shown if item.follows is None else shown | {"after": item.follows}


def _shown(item: Item) -> Json:
    body, parts = item.body, parts_of(item)
    match parts:
        case (ToolCall() as call,):
            return call_item(item.id, call, status=body["status"])
        case (ToolResult() as result,):
            is_custom = result.kind == "custom"
            return {
                "type": "custom_tool_call_output" if is_custom else "function_call_output",
                "id": item.id,
                "call_id": result.call_id,
                "output": result.text,
                "status": body["status"],
            }
    texts = [part for part in parts if isinstance(part, str)]
    return message(item.id, body["role"], texts, status=body["status"])


def message(id: str, role: str, parts: list[str], *, status: str) -> Json:
    content = [
        output_text(text) if role == "assistant" else {"type": "input_text", "text": text}
        for text in parts
    ]
    return {"type": "message", "id": id, "status": status, "role": role, "content": content}


def output_text(text: str, logprobs: list[Json] | None = None) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs or []}


def call_item(id: str, call: ToolCall, *, status: str) -> Json:
    is_custom = call.kind == "custom"
    return {
        "type": "custom_tool_call" if is_custom else "function_call",
        "id": id,
        "call_id": call.id,
        "name": call.name,
        "input" if is_custom else "arguments": call.arguments,
        "status": status,
    }


def output_of(
    response_id: str, parts: Sequence[Part], logprobs: Iterable[TokenLogprob], status: ItemStatus
) -> list[Json]:
    """What a response consists of, if it does. logprobs: of its text."""
    if not parts:
        return []
    shown = [wire_item(item) for item in output_items(response_id, parts, status)]
    for item in shown[:1]:
        if item["type"] == "message":
            item["content"][0]["logprobs"] = logprob_entries(logprobs)
    return shown


class ItemEvents:
    """Makes the events of the items of one response, each item when its first piece comes."""

    def __init__(self, response_id: str, number: int, *, logprobs: bool, ids: bool) -> None:
        """number: of the first event. logprobs, ids: whether those of tokens are shown."""
        self.number = number
        self._response_id = response_id
        self._shows_logprobs, self._shows_ids = logprobs, ids
        self._held: list[Delta] = []  # of tokens that have shown nothing yet
        self._index = -1  # of the open item
        self._call: ToolCall | None = None  # the open one, so far
        self._num_calls = 0
        self._text: list[str] | None = None  # of the open message
        self._logprobs: list[TokenLogprob] = []

    def delta(self, delta: Delta) -> list[Event]:
        events: list[Event] = []
        if delta.text:
            events += self._text_delta(delta)
        elif not delta.parts and self._call is None:
            self._held.append(delta)
        for part in delta.parts:
            if isinstance(part, ToolCall):
                events += self._call_delta(part)
        return events

    def end(self, status: ItemStatus) -> list[Event]:
        """What is left when nothing more comes. An answer of nothing is a message of no text."""
        opening = self._open_message() if self._index < 0 else []
        return [*opening, *self._close(status)]

    def _close(self, status: ItemStatus = "completed") -> list[Event]:
        """The end of the item that is open."""
        if self._call is not None:
            return self._close_call(self._call, status)
        return [] if self._text is None else self._close_message("".join(self._text), status)

    def _open_message(self) -> list[Event]:
        self._index, self._text = self._index + 1, []
        item = message(output_item_id(self._response_id), "assistant", [], status="in_progress")
        return [
            self._event("response.output_item.added", {"output_index": self._index, "item": item}),
            self._event("response.content_part.added", self._place | {"part": output_text("")}),
        ]

    def _text_delta(self, delta: Delta) -> list[Event]:
        opening = self._open_message() if self._text is None else []
        assert self._text is not None
        self._text.append(delta.text)
        tokens = [*self._held, delta]
        self._held = []
        logprobs = [entry for one in tokens for entry in one.logprobs]
        self._logprobs += logprobs
        shown = logprob_entries(logprobs) if self._shows_logprobs else []
        more = {"token_ids": [i for one in tokens for i in one.token_ids]}
        body = self._place | {"logprobs": shown, "delta": delta.text}
        body |= more if self._shows_ids else {}
        return [*opening, self._event("response.output_text.delta", body)]

    def _close_message(self, text: str, status: str) -> list[Event]:
        logprobs = logprob_entries(self._logprobs)
        part = output_text(text, logprobs)
        item = message(output_item_id(self._response_id), "assistant", [], status=status)
        item["content"] = [part]
        done = self._place | {"text": text, "logprobs": logprobs}
        self._text = None
        return [
            self._event("response.output_text.done", done),
            self._event("response.content_part.done", self._place | {"part": part}),
            self._event("response.output_item.done", {"output_index": self._index, "item": item}),
        ]

    def _call_delta(self, piece: ToolCall) -> list[Event]:
        events: list[Event] = []
        call = self._call
        if call is None or call.id != piece.id:
            events = self._close()
            self._index, self._num_calls = self._index + 1, self._num_calls + 1
            call = replace(piece, arguments="")
            item = call_item(self._call_item_id, call, status="in_progress")
            place = {"output_index": self._index, "item": item}
            events.append(self._event("response.output_item.added", place))
        self._call = replace(call, arguments=call.arguments + piece.arguments)
        if piece.arguments:
            body = self._call_place | {"delta": piece.arguments}
            events.append(self._event(f"{_kind_of(piece)}.delta", body))
        return events

    def _close_call(self, call: ToolCall, status: str) -> list[Event]:
        item = call_item(self._call_item_id, call, status=status)
        field = "input" if call.kind == "custom" else "arguments"
        done = self._call_place | {field: call.arguments}
        if call.kind == "function":
            done["name"] = call.name
        self._call = None
        return [
            self._event(f"{_kind_of(call)}.done", done),
            self._event("response.output_item.done", {"output_index": self._index, "item": item}),
        ]

    @property
    def _place(self) -> Json:
        id = output_item_id(self._response_id)
        return {"item_id": id, "output_index": self._index, "content_index": 0}

    @property
    def _call_item_id(self) -> str:
        return call_item_id(self._response_id, self._num_calls - 1)

    @property
    def _call_place(self) -> Json:
        return {"item_id": self._call_item_id, "output_index": self._index}

    def _event(self, kind: str, body: Json) -> Event:
        self.number += 1
        return make_event(self.number - 1, kind, body)


def _kind_of(call: ToolCall) -> str:
    name = "custom_tool_call_input" if call.kind == "custom" else "function_call_arguments"
    return f"response.{name}"

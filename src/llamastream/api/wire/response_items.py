"""Items of responses and conversations on the wire, and the events of those that open with their
first piece, and close when another begins.

Where an answer may hold more than a message, numbers follow from its deltas alone, from the first
on: a piece is an event, and so are an item's beginning and its end.
"""

from collections.abc import Callable, Sequence
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
    reasoning_item_id,
)
from llamastream.generation.log import with_text
from llamastream.records import Item
from llamastream.tools import split_name
from llamastream.types import Delta, Part, Reasoning, TokenLogprob, ToolCall, ToolResult

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
    thoughts = [_reasoning_text(part.text) for part in parts if isinstance(part, Reasoning)]
    if thoughts and not texts:
        return reasoning_item(item.id, thoughts, status=body["status"])
    return message(item.id, body["role"], texts, status=body["status"])


def message(id: str, role: str, parts: list[str], *, status: str) -> Json:
    content = [
        output_text(text) if role == "assistant" else {"type": "input_text", "text": text}
        for text in parts
    ]
    return {"type": "message", "id": id, "status": status, "role": role, "content": content}


def output_text(text: str, logprobs: list[Json] | None = None) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs or []}


def reasoning_item(id: str, content: list[Json], *, status: str) -> Json:
    return {"type": "reasoning", "id": id, "summary": [], "content": content, "status": status}


def _reasoning_text(text: str, _: list[Json] | None = None) -> Json:
    return {"type": "reasoning_text", "text": text}


def call_item(id: str, call: ToolCall, *, status: str) -> Json:
    is_custom = call.kind == "custom"
    namespace, name = split_name(call.name)
    item = {
        "type": "custom_tool_call" if is_custom else "function_call",
        "id": id,
        "call_id": call.id,
        "name": name,
        "input" if is_custom else "arguments": call.arguments,
        "status": status,
    }
    return item if namespace is None else item | {"namespace": namespace}


class Kind(NamedTuple):
    """Of an item with one text. `content` makes that, `item` the item by id, status and content."""

    event: str
    content: Callable[[str, list[Json]], Json]
    item: Callable[[str, str, list[Json]], Json]
    has_logprobs: bool


def _message_item(response_id: str, status: str, content: list[Json]) -> Json:
    item = message(output_item_id(response_id), "assistant", [], status=status)
    return item | {"content": content}


def _reasoning_item(response_id: str, status: str, content: list[Json]) -> Json:
    return reasoning_item(reasoning_item_id(response_id), content, status=status)


MESSAGE = Kind("response.output_text", output_text, _message_item, True)
REASONING = Kind("response.reasoning_text", _reasoning_text, _reasoning_item, False)


def _kind_of(piece: Part) -> tuple[Kind, str]:
    """And the piece's text."""
    if isinstance(piece, str):
        return MESSAGE, piece
    assert isinstance(piece, Reasoning)
    return REASONING, piece.text


def _name_of(call: ToolCall) -> str:
    """Of its events."""
    name = "custom_tool_call_input" if call.kind == "custom" else "function_call_arguments"
    return f"response.{name}"


def output_of(
    response_id: str, parts: Sequence[Part], logprobs: Sequence[TokenLogprob], status: ItemStatus
) -> list[Json]:
    """What a response consists of, if it does. logprobs: of its text."""
    if not parts:
        return []
    shown = [wire_item(item) for item in output_items(response_id, parts, status)]
    for item in shown:
        if item["type"] == "message":
            item["content"][0]["logprobs"] = logprob_entries(logprobs)
    return shown


class ItemEvents:
    """The events of one response's items. Is told all of its deltas."""

    def __init__(self, response_id: str, number: int, *, logprobs: bool, token_ids: bool) -> None:
        """number: of the first event. logprobs, token_ids: whether deltas show them."""
        self.number = number
        self._response_id = response_id
        self._shows_logprobs, self._shows_ids = logprobs, token_ids
        self._open: Kind | None = None
        self._call: ToolCall | None = None  # that is open, so far
        self._num_calls = 0
        self._index = -1  # of the item
        self._place: Json = {}
        self._text: list[str] = []  # of what is open, with its log-probabilities
        self._logprobs: list[Json] = []
        self._new_logprobs: list[Json] = []  # of tokens that no event has shown
        self._new_ids: list[int] = []

    def delta(self, delta: Delta) -> list[Event]:
        self._new_logprobs += logprob_entries(delta.logprobs)
        self._new_ids += delta.token_ids
        pieces = with_text(delta.parts, delta.text) if delta.parts or delta.text else ()
        events: list[Event] = []
        for piece in pieces:
            if isinstance(piece, ToolCall):
                events += self._call_piece(piece)
                continue
            kind, text = _kind_of(piece)
            if kind is not self._open:
                events += [*self._close("completed"), *self._begin(kind)]
            events.append(self._piece(kind, text))
        if (
            not pieces
            and self._open
            and self._new_ids
            and (self._shows_ids or self._shows_logprobs)
        ):
            events.append(self._piece(self._open, ""))
        return events

    def closing(self, status: str) -> list[Event]:
        """There is an item at least, and the last has this status."""
        begun = [] if self._open or self._call else self._begin(MESSAGE)
        return [*begun, *self._close(status)]

    def _begin(self, kind: Kind) -> list[Event]:
        self._open, self._index, self._text, self._logprobs = kind, self._index + 1, [], []
        item = kind.item(self._response_id, "in_progress", [])
        output_index = {"output_index": self._index}
        self._place = {"item_id": item["id"], **output_index, "content_index": 0}
        return [
            self._event("response.output_item.added", {**output_index, "item": item}),
            self._event(
                "response.content_part.added", self._place | {"part": kind.content("", [])}
            ),
        ]

    def _piece(self, kind: Kind, text: str) -> Event:
        body = self._place | {"delta": text}
        if kind.has_logprobs:
            body["logprobs"] = self._new_logprobs
            self._logprobs += self._new_logprobs
        if self._shows_ids:
            body["token_ids"] = self._new_ids
        self._new_logprobs, self._new_ids = [], []
        self._text.append(text)
        return self._event(kind.event + ".delta", body)

    def _close(self, status: str) -> list[Event]:
        kind, call = self._open, self._call
        if call is not None:
            return self._close_call(call, status)
        if kind is None:
            return []
        part = kind.content("".join(self._text), self._logprobs)
        item = kind.item(self._response_id, status, [part])
        done = {"text": part["text"]} | ({"logprobs": self._logprobs} if kind.has_logprobs else {})
        return [
            self._event(kind.event + ".done", self._place | done),
            self._event("response.content_part.done", self._place | {"part": part}),
            self._event("response.output_item.done", {"output_index": self._index, "item": item}),
        ]

    def _call_piece(self, piece: ToolCall) -> list[Event]:
        events: list[Event] = []
        call = self._call
        if call is None or call.id != piece.id:
            events = self._close("completed")
            self._open, self._index, self._num_calls = None, self._index + 1, self._num_calls + 1
            call = replace(piece, arguments="")
            id = call_item_id(self._response_id, self._num_calls - 1)
            self._place = {"item_id": id, "output_index": self._index}
            item = call_item(id, call, status="in_progress")
            added = {"output_index": self._index, "item": item}
            events.append(self._event("response.output_item.added", added))
        self._call = replace(call, arguments=call.arguments + piece.arguments)
        if piece.arguments:
            body = self._place | {"delta": piece.arguments}
            if self._shows_ids:
                body["token_ids"] = self._new_ids
                self._new_ids = []
            events.append(self._event(f"{_name_of(piece)}.delta", body))
        return events

    def _close_call(self, call: ToolCall, status: str) -> list[Event]:
        field = "input" if call.kind == "custom" else "arguments"
        done = self._place | {field: call.arguments}
        if call.kind == "function":
            done["name"] = split_name(call.name)[1]
        item = call_item(self._place["item_id"], call, status=status)
        return [
            self._event(f"{_name_of(call)}.done", done),
            self._event("response.output_item.done", {"output_index": self._index, "item": item}),
        ]

    def _event(self, kind: str, body: Json) -> Event:
        self.number += 1
        return make_event(self.number - 1, kind, body)

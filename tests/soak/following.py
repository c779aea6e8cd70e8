"""What one reader has seen of one response, and what it was promised of that.

Event numbers come without a hole and without a repetition.
"""

import time
from dataclasses import dataclass, field
from typing import Any

from llamastream.tools import call_id

TERMINAL = ("response.completed", "response.incomplete", "response.failed")


class Disagreement(Exception):
    """A promise was broken."""


class Interrupted(Exception):
    """The connection ended before the response did."""


@dataclass
class Call:
    """`id` is what its result is sent back with."""

    id: str
    name: str
    arguments: str = ""
    is_whole: bool = False


@dataclass
class Following:
    """One reader's view of one response. `body` is that of the request that began it."""

    body: dict[str, Any]
    key: str  # Idempotency-Key
    response_id: str | None = None
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    calls: dict[str, "Call"] = field(default_factory=dict)  # by the ids of their items
    documents: dict[int, int] | None = None  # over gRPC: number -> token id
    last_number: int = -1
    door: int | None = None  # through which it came last, where there are several
    status: str | None = None
    num_connections: int = 0
    errors: list[str] = field(default_factory=list)  # that events told of
    longest_pause_s: float = 0.0  # between two of its tokens
    _last_s: float | None = None

    def take(self, event: dict[str, Any]) -> None:
        """Raises Disagreement for an event that is not the next one, Interrupted for an error."""
        kind = event["type"]
        if kind == "document":
            self._take_document(event)
            return
        if kind == "document.end":
            self.status = event["status"]
            return
        if kind == "error":
            self.errors.append("{code}: {message}".format(**event["error"]))
            raise Interrupted(self.errors[-1])
        number = event["sequence_number"]
        if number == 0 and self.response_id is None:
            self.last_number = -1
        if number != self.last_number + 1:
            raise Disagreement(f"event {number} ({kind}) came after {self.last_number}")
        self.last_number = number
        if kind == "response.created":
            self.response_id = event["response"]["id"]
        elif kind == "response.output_text.delta":
            self._note_time()
            self.token_ids += event["token_ids"]
            self.text += event["delta"]
        elif kind.startswith("response.function_call_arguments."):
            self._take_arguments(event)
        elif kind == "response.output_item.added" and event["item"]["type"] == "function_call":
            self._begin_call(event["item"])
        elif kind in TERMINAL:
            self._end(event["response"])

    @property
    def said_calls(self) -> list[tuple[str, str]]:
        """Without their ids, which are the response's own."""
        return [(call.name, call.arguments) for call in self.calls.values()]

    @property
    def seen(self) -> tuple[Any, ...]:
        """What every reader of the response sees."""
        return self.token_ids, self.text, self.documents, self.calls

    @property
    def is_amid_call(self) -> bool:
        return any(not call.is_whole for call in self.calls.values())

    def _begin_call(self, item: dict[str, Any]) -> None:
        assert self.response_id is not None
        expected = call_id(self.response_id, 0, len(self.calls))
        if item["call_id"] != expected or item["id"] in self.calls:
            raise Disagreement(f"call {item['call_id']} where {expected} was to come")
        self.calls[item["id"]] = Call(item["call_id"], item["name"])

    def _take_arguments(self, event: dict[str, Any]) -> None:
        self._note_time()
        call = self.calls[event["item_id"]]
        if "delta" in event:
            self.token_ids += event["token_ids"]
            call.arguments += event["delta"]
            return
        call.is_whole = True
        if event["arguments"] != call.arguments:
            raise Disagreement(f"arguments {event['arguments']!r} of pieces {call.arguments!r}")

    def _end(self, response: dict[str, Any]) -> None:
        self.status = response["status"]
        made = [o for o in response["output"] if o["type"] == "function_call"]
        told = [Call(o["call_id"], o["name"], o["arguments"], True) for o in made]
        if told != list(self.calls.values()):
            raise Disagreement(f"calls {told} at the end, where {self.calls} were told of")

    def _note_time(self) -> None:
        now_s = time.monotonic()
        if self._last_s is not None:
            self.longest_pause_s = max(self.longest_pause_s, now_s - self._last_s)
        self._last_s = now_s

    def _take_document(self, document: dict[str, Any]) -> None:
        """A hole shows in the text alone: not every token has a document."""
        self._note_time()
        self.documents = {} if self.documents is None else self.documents
        number = document["sequence_number"]
        if number <= self.last_number:
            raise Disagreement(f"document {number} came after {self.last_number}")
        self.last_number = number
        self.response_id = document["stream_id"]
        self.documents[number] = document["token_id"]
        self.text += document["generated_text"]

    def difference(self, whole: "Following") -> str | None:
        """How this view differs from that of an uninterrupted reader of events."""
        if self.text != whole.text:
            return f"another text: {self.text!r} for {whole.text!r}"
        calls, expected_calls = self.said_calls, whole.said_calls
        if calls != expected_calls:
            return f"other calls: {calls} for {expected_calls}"
        if self.documents is None:
            return _difference(self.token_ids, whole.token_ids)
        last = len(whole.token_ids) - 1  # text that the end released has the last token's id
        expected = {n: whole.token_ids[min(n, last)] for n in self.documents}
        return None if self.documents == expected else "a document has another token's id"


def _difference(seen: list[int], expected: list[int]) -> str | None:
    if seen == expected:
        return None
    pairs = enumerate(zip(seen, expected, strict=False))
    first = next((n for n, (a, b) in pairs if a != b), min(len(seen), len(expected)))
    return f"{len(seen)} ids for {len(expected)}, first difference at {first}"

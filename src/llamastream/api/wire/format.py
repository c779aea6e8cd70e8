"""What a wire format is: one object per answer and reader, from deltas to bytes.

A frame is what is sent in one piece: a server-sent event, a line, a message of a WebSocket.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from llamastream.api.wire.options import AnswerOptions
from llamastream.errors import ChatError, InternalError, InvalidRequest
from llamastream.generation import End, Generation, NewAnswer
from llamastream.records import IdempotencyKey
from llamastream.sampling import SamplingParams
from llamastream.types import ChatRequest, Delta

Body = TypeVar("Body", bound=AnswerOptions)

START = -1  # the number before the first event


class Format(ABC):
    """`frames` is called with all deltas from `start` on, in order; the rest at most once."""

    media_type = "text/event-stream; charset=utf-8"
    ping = b": ping\n\n"  # a comment: readers of server-sent events skip it
    start = 0  # the first delta that this reader is to be shown

    def opening(self) -> list[bytes]:
        """What comes before the first delta."""
        return []

    def gather(self, deltas: list[Delta]) -> list[Delta]:
        """What a reader that lags is shown of what waits for it: each of them, unless said
        otherwise."""
        return deltas

    @abstractmethod
    def frames(self, delta: Delta) -> list[bytes]:
        """None for a delta that shows nothing."""

    @abstractmethod
    def closing(self, generation: Generation) -> list[bytes]:
        """What follows the last delta. May raise the ChatError that it ended with."""

    @abstractmethod
    def error(self, error: ChatError) -> bytes:
        """In place of the end."""

    def whole(self, generation: Generation) -> bytes:
        """The body of an answer that is not streamed. May raise the ChatError it ended with."""
        raise InvalidRequest("This format is streamed: send `stream: true`.", param="stream")


def end_of(generation: Generation) -> End:
    """How an answer ended well. Raises the error that a stored one failed with."""
    assert generation.end is not None
    if generation.end.error is not None:
        raise InternalError(generation.end.error)
    return generation.end


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the API key's scope, the request's label for the log, and an Idempotency-Key."""

    scope: str
    label: str
    key: IdempotencyKey | None = None


class Endpoint(ABC, Generic[Body]):
    """A wire format as the handler needs it."""

    shows_unfinished = False  # whether an answer in progress has a whole, too

    @abstractmethod
    def parse(self, raw: dict[str, Any]) -> Body:
        """The checked body. Raises InvalidRequest."""

    @abstractmethod
    async def plan(
        self, body: Body, caller: Caller, defaults: SamplingParams
    ) -> tuple[ChatRequest, NewAnswer]:
        """What is to be generated, and as what. `defaults` are the model's. Raises ChatError."""

    @abstractmethod
    def format(self, generation: Generation, after: int = START) -> Format:
        """For a reader who has seen the events up to number `after`."""

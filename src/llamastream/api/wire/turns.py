"""What was said up to the responses of one connection that are not stored: it may go on with them.

Knows no transport. Nothing here outlives its connection.
"""

from llamastream.generation import Generation
from llamastream.records import Status
from llamastream.types import Message

MAX_CHARS = 1 << 22  # of all texts; the oldest go first


class Turns:
    def __init__(self) -> None:
        self._said: dict[str, tuple[Message, ...]] = {}  # by response, oldest first
        self._ended: set[str] = set()

    def begin(self, id: str, messages: tuple[Message, ...]) -> None:
        """Messages that the response is asked to answer."""
        self._keep(id, messages)

    def end(self, generation: Generation) -> None:
        """Take its answer, if it was begun here and has one."""
        messages, end = self._said.pop(generation.id, None), generation.end
        if messages is None or end is None or end.status is Status.FAILED:
            return
        self._ended.add(generation.id)
        self._keep(generation.id, (*messages, _said(generation)))

    def find(self, id: str) -> tuple[Message, ...] | None:
        """All that was said up to the end of a response."""
        return self._said[id] if id in self._ended else None

    def forget(self, id: object) -> None:
        """Not to be gone on with any more; unknown ids, or none, are ignored."""
        if isinstance(id, str):
            self._said.pop(id, None)
            self._ended.discard(id)

    def _keep(self, id: str, messages: tuple[Message, ...]) -> None:
        self._said[id] = messages
        while len(self._said) > 1 and sum(map(_size, self._said.values())) > MAX_CHARS:
            self.forget(next(iter(self._said)))


def _said(generation: Generation) -> Message:
    parts, text = generation.log.parts(), generation.log.text()
    return Message("assistant", text if parts == (text,) else parts)


def _size(messages: tuple[Message, ...]) -> int:
    return sum(message.size for message in messages)

"""A reader: a position in the log of an answer, and a way to hear of what is behind it.

Nothing is queued for anybody: a reader that lags reads on from where it is.
"""

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from llamastream.generation.waiter import Waiter
from llamastream.types import Delta

if TYPE_CHECKING:
    from llamastream.generation.generation import Generation

MAX_READ = 256  # deltas given at a time, which bounds what a slow reader's transport holds


class Reader:
    """Reads like an async iterator, or in batches by `read`.

    While `read` waits, `push` is offered each delta as it is shown; one that it takes (True) is
    read, and wakes nobody. At the first that it refuses, `read` returns.
    """

    def __init__(
        self, generation: "Generation", start: int, push: Callable[[Delta], bool] | None
    ) -> None:
        self.position = start
        self._generation = generation
        self._push = push
        self._waiter = Waiter()
        self._is_waiting = False
        self._has_pushed = False
        self._is_closed = False

    @property
    def exhausted(self) -> bool:
        """True once everything was read: `read` would wait for ever."""
        return self._is_closed or (self._generation.end is not None and not self._num_unread)

    @property
    def closed(self) -> bool:
        """True once its reader has left."""
        return self._is_closed

    async def read(self, timeout_s: float | None = None) -> list[Delta]:
        """What is there, at most MAX_READ deltas, waiting for at least one.

        Empty when `timeout_s` passed in silence, and at the end (see `exhausted`). Raises the
        ChatError that keeps the answer from going on here, behind all that was shown.
        """
        generation = self._generation
        while not self.exhausted:
            if self._num_unread:
                end = min(self.position + MAX_READ, generation.num_public)
                deltas = generation.log.deltas(self.position, end)
                self.position = end
                return deltas
            if generation.error is not None:
                raise generation.error
            if not await self.wait(timeout_s) and not self._was_pushed():
                return []
        return []

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Return True when something has changed that `push` did not take, False when the time is
        over."""
        self._is_waiting = True
        try:
            return await self._waiter.wait(timeout_s)
        finally:
            self._is_waiting = False

    def on_news(self) -> None:
        """Something was shown, or the answer has ended: called by the answer."""
        if not self._is_waiting:
            return
        generation, push = self._generation, self._push
        if push is not None:
            position, end = self.position, generation.num_public
            if position < end:
                delta_of = generation.log.delta
                while position < end and push(delta_of(position)):
                    self.position = position = position + 1
                    self._has_pushed = True
            if position >= end and generation.end is None and generation.error is None:
                return
        self._is_waiting = False  # what comes before it runs is read, and not pushed
        self._waiter.wake()

    def close(self) -> None:
        """Its reader has left: `read` ends. Idempotent."""
        self._is_closed = True
        self._waiter.close()

    async def __aiter__(self) -> AsyncIterator[Delta]:
        while not self.exhausted:
            for delta in await self.read():
                yield delta

    @property
    def _num_unread(self) -> int:
        return max(self._generation.num_public - self.position, 0)

    def _was_pushed(self) -> bool:
        """Whether anything was, since this was asked last."""
        was, self._has_pushed = self._has_pushed, False
        return was

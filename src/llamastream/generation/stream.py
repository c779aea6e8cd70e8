"""A stream: the deltas of one request on their way to its one reader.

Writing never waits. A reader that keeps up sees every delta as it was made; behind one that lags,
the deltas of a choice melt into one, so that memory is bounded by the answer itself.
"""

from collections import deque
from collections.abc import AsyncIterator, Callable
from itertools import chain
from typing import Self

from llamastream.errors import ChatError
from llamastream.generation.waiter import Waiter
from llamastream.types import Delta, Usage

MAX_PENDING = 64  # deltas kept apart for a reader that is briefly behind, about a second's worth


class Stream(AsyncIterator[Delta]):
    """Reads like an async iterator, or in whole batches by `read`. Use one of the two.

    `push`, `end` and `fail` are the service's. Deltas come in the order of their sequence numbers;
    the number of a melted delta is that of the last one in it. An error is raised once everything
    before it was read.
    """

    def __init__(
        self,
        stream_id: str,
        prompts: tuple[tuple[int, ...], ...],
        *,
        num_dropped_turns: int,
        on_close: Callable[[], None],
    ) -> None:
        self.id = stream_id
        self.prompts = prompts  # their token ids
        self.num_dropped_turns = num_dropped_turns
        # Given up at the end: it leads back here, and a cycle would wait for the collector.
        self._on_close: Callable[[], None] | None = on_close
        self._num_deltas = 0
        self._pending: deque[Delta] = deque()
        self._melted: dict[int, list[Delta]] = {}  # choice -> deltas that will be read as one
        self._usage: Usage | None = None
        self._error: ChatError | None = None
        self._closed = False
        self._waiter = Waiter()
        self._take: Callable[[Delta], bool] | None = None

    # What the reader calls.

    @property
    def exhausted(self) -> bool:
        """True once everything was read: `read` would wait for ever."""
        return self._closed or (self._usage is not None and not self._pending and not self._melted)

    @property
    def closed(self) -> bool:
        """True once the reader left or the stream failed."""
        return self._closed

    def usage(self) -> Usage:
        """Token counts, known after the last delta."""
        if self._usage is None:
            raise RuntimeError("usage() is known after the end of the stream only")
        return self._usage

    async def read(
        self, timeout_s: float | None = None, take: Callable[[Delta], bool] | None = None
    ) -> list[Delta]:
        """All deltas that are ready, waiting for at least one.

        While it waits `take` is offered each delta as it comes; one that it takes (True) is not
        returned, and does not end the wait. Empty when `timeout_s` passed, and at the end (see
        `exhausted`). Raises the stream's ChatError in place of its end.
        """
        if not self._pending and not self._over and not self._closed:
            self._take = take
            await self._waiter.wait(timeout_s)
            self._take = None
        deltas = list(self._pending)
        self._pending.clear()
        if self._melted:
            deltas += self._solidify()
        if not deltas and self._error is not None and not self._closed:
            self._closed = True
            raise self._error
        return deltas

    async def __anext__(self) -> Delta:
        if not self._pending:
            ready = await self.read()
            if not ready:
                raise StopAsyncIteration
            self._pending.extendleft(reversed(ready))
        return self._pending.popleft()

    async def aclose(self) -> None:
        """The reader leaves: what is still being generated is cancelled. Idempotent."""
        self._waiter.close()
        if self._closed:
            return
        self._closed = True
        self._pending.clear()
        self._melted.clear()
        self._leave()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # What the service calls.

    def next_sequence_number(self) -> int:
        """Count one more delta."""
        self._num_deltas += 1
        return self._num_deltas - 1

    def push(self, delta: Delta) -> None:
        """Hand one delta to the reader, without waiting for it."""
        if self._closed:
            return
        if self._take is not None and not self._pending and self._take(delta):
            return
        if self._melted or len(self._pending) >= MAX_PENDING:
            self._melt(delta)
        else:
            self._pending.append(delta)
        self._waiter.wake()

    def end(self, usage: Usage) -> None:
        """The normal end: every choice has its finish reason."""
        self._usage = usage
        self._on_close = None
        self._waiter.wake()

    def fail(self, error: ChatError) -> None:
        """The abnormal end, raised from the iterator after the deltas before it."""
        self._error = error
        self._on_close = None
        self._waiter.wake()

    @property
    def _over(self) -> bool:
        return self._usage is not None or self._error is not None

    def _leave(self) -> None:
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()

    def _melt(self, delta: Delta) -> None:
        parts = self._melted.setdefault(delta.choice, [])
        parts.append(delta)
        if len(parts) >= MAX_PENDING:
            parts[:] = [_join(parts)]

    def _solidify(self) -> list[Delta]:
        melted = [_join(deltas) for deltas in self._melted.values()]
        self._melted.clear()
        return sorted(melted, key=lambda delta: delta.sequence_number)


def _join(deltas: list[Delta]) -> Delta:
    last = deltas[-1]
    return last._replace(
        text="".join(delta.text for delta in deltas),
        token_ids=tuple(chain.from_iterable(delta.token_ids for delta in deltas)),
        logprobs=tuple(chain.from_iterable(delta.logprobs for delta in deltas)),
    )

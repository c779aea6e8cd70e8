"""One reader's waits for news, each with a time limit."""

import asyncio


class Waiter:
    """Used by one reader at a time.

    One timer serves all its waits: to start and stop one per token was a quarter of a token's way.
    """

    def __init__(self) -> None:
        self._future: asyncio.Future[bool] | None = None
        self._deadline_s = 0.0  # on the event loop's clock
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, timeout_s: float | None) -> bool:
        """Return True when woken, False when the time is over."""
        loop = asyncio.get_running_loop()
        self._future = loop.create_future()
        if timeout_s is not None:
            self._deadline_s = loop.time() + timeout_s
            if self._timer is None:
                self._timer = loop.call_at(self._deadline_s, self._on_timer)
        try:
            return await self._future
        finally:
            self._future = None

    def wake(self) -> None:
        self._end_wait(True)

    def close(self) -> None:
        """End a wait, and the timer."""
        self._end_wait(True)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end_wait(self, has_news: bool) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(has_news)

    def _on_timer(self) -> None:
        self._timer = None
        if self._future is None:
            return  # the next wait starts another
        loop = asyncio.get_running_loop()
        if loop.time() >= self._deadline_s:
            self._end_wait(False)
        else:  # this wait began after the one for which the timer was set
            self._timer = loop.call_at(self._deadline_s, self._on_timer)

"""A real store whose writing can be made to fail, as on a full disk."""

import asyncio
from collections.abc import Sequence
from typing import Any

from llamastream.errors import StoreUnavailable
from llamastream.records import Drawn, Outcome, Response
from llamastream.store.store import Store


class FailingStore(Store):
    """Opened like any; refuses steps and ends while `is_failing`, at once unless `is_slow`."""

    is_failing = False
    is_slow = False
    num_refused = 0

    @property
    def is_working(self) -> bool:
        return super().is_working and not self.is_failing

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.waiting: list[asyncio.Future[Any]] = []

    def append(self, drawn: Sequence[Drawn]) -> "asyncio.Future[Any]":
        if not self.is_failing:
            return super().append(drawn)
        self.num_refused += 1
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        if not self.is_slow:
            self.give_up()
        return future

    def give_up(self) -> None:
        """Refuse the oldest step that waits."""
        self.waiting.pop(0).set_exception(StoreUnavailable("The database failed: disk full."))

    def fail(self, is_failing: bool = True) -> None:
        self.is_failing = is_failing
        self.responses.finish = self._finish  # type: ignore[method-assign]

    async def _finish(self, id: str, outcome: Outcome, drawn: Drawn | None = None) -> Response:
        if self.is_failing:
            self.num_refused += 1
            raise StoreUnavailable("The database failed: disk full.")
        return await type(self.responses).finish(self.responses, id, outcome, drawn)

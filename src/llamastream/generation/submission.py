"""What is known of a stored answer in progress beside the answer itself."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from llamastream.generation.generation import Generation

if TYPE_CHECKING:
    from llamastream.store.journal import Refused

logger = logging.getLogger(__name__)


class Submission:
    """One submission of an answer to the engine, and what of it is journalled.

    A parked answer gets a new one, so that a late word of the store on the one before finds that it
    is not meant any more.
    """

    def __init__(self, generation: Generation, number: int = 0) -> None:
        """All tokens in its log are journalled."""
        self.generation = generation
        self.number = number  # of the submission
        self.num_journalled = generation.num_tokens  # committed
        self.is_behind = False  # the journal misses tokens that were shown
        self.outstanding: asyncio.Future[Refused] | None = None  # the last step that was sent
        self._grace: asyncio.TimerHandle | None = None

    @property
    def request_id(self) -> str:
        """The engine's name for it."""
        id, number = self.generation.id, self.number
        return f"{id}/{number}" if number else id

    @property
    def is_pending(self) -> bool:
        """Whether what was sent last is still to be answered, and the answer to be taken in."""
        return self.outstanding is not None

    async def answered(self) -> None:
        """Return when nothing is pending."""
        while self.outstanding is not None:
            await asyncio.wait((self.outstanding,))
            await asyncio.sleep(0)  # it may be done, and nobody have been told yet

    def watch(self, grace_s: float, on_deserted: Callable[[Generation], None]) -> None:
        """Call `on_deserted` when nobody has followed for `grace_s`; not for `background`."""
        self.stop_watching()
        if not self.generation.details.background and not self.generation.num_readers:
            loop = asyncio.get_running_loop()
            self._grace = loop.call_later(grace_s, self._end_if_deserted, on_deserted)

    def _end_if_deserted(self, on_deserted: Callable[[Generation], None]) -> None:
        if not self.generation.num_readers:
            logger.info("nobody follows request_id=%s: cancelled", self.generation.id)
            on_deserted(self.generation)

    def stop_watching(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None


class Tasks:
    """Work in the background; what goes wrong in it is logged."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    async def close(self) -> None:
        """Cancel what is not done."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a stored answer's task failed", exc_info=error)

"""The keeper of answers that other servers generate: read from their journals while they grow.

A reader here does not notice when another server goes on with one, nor when this one does. One
query in POLL_INTERVAL_S serves all of them, and none runs while there are no readers.
"""

import asyncio
import logging
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from llamastream.errors import ChatError, NotFound, ResponseInterrupted, StoreUnavailable
from llamastream.generation.dispatch import Dispatcher
from llamastream.generation.generation import Generation
from llamastream.generation.replay import Replay
from llamastream.generation.submission import Tasks

if TYPE_CHECKING:
    from llamastream.store.store import Store

logger = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.05
MAX_FOLLOW_INTERVAL_S = 5.0  # between two words to the owner that somebody follows here


class Elsewhere:
    def __init__(
        self, store: "Store", replay: Replay, dispatcher: Dispatcher, *, grace_s: float
    ) -> None:
        """`grace_s`: how long the owner goes on with what nobody follows."""
        self._store = store
        self._replay = replay
        self._metrics = dispatcher.metrics
        dispatcher.when_over(lambda _: self._end())
        self._follow_interval_s = min(grace_s / 4, MAX_FOLLOW_INTERVAL_S)
        self._known: WeakValueDictionary[str, Generation] = WeakValueDictionary()  # in progress
        self._tasks = Tasks()
        self._is_polling = False
        self._is_over = False  # the server stops, and waits for nobody any more

    @property
    def num_followed(self) -> int:
        return len(self._followed())

    def get(self, id: str) -> Generation | None:
        return self._known.get(id)

    def share(self, generation: Generation) -> Generation:
        """The one of this id that all readers here follow: this one, unless there is one."""
        return generation if generation.end else self._known.setdefault(generation.id, generation)

    def keep(self, generations: Iterable[Generation]) -> None:
        """Those that were generated here until now."""
        for generation in generations:
            generation.keeper = self
            self._known[generation.id] = generation
            self._poll_soon()

    def drop(self, id: str) -> Generation | None:
        """One that is not read from the store any more."""
        return self._known.pop(id, None)

    async def close(self) -> None:
        await self._tasks.close()

    # See `Keeper`: nothing is drawn here.

    def drawn(self, generations: Iterable[Generation]) -> None: ...

    def ended(self, generation: Generation) -> None: ...

    def failed(self, generation: Generation, error: ChatError) -> None: ...

    def readers_changed(self, generation: Generation, change: int) -> None:
        self._metrics.readers.inc(change)
        self._poll_soon()

    def _poll_soon(self) -> None:
        if self._is_over:
            self._fail()
        elif not self._is_polling and self._followed():
            self._is_polling = True
            self._tasks.spawn(self._poll_regularly())

    def _followed(self) -> list[Generation]:
        return [one for one in self._known.values() if one.num_readers]

    async def _poll_regularly(self) -> None:
        clock, told_s = asyncio.get_running_loop().time, -math.inf
        try:
            while followed := self._followed():
                if clock() - told_s >= self._follow_interval_s:
                    told_s = clock()
                    with suppress(StoreUnavailable):  # where that lasts, reading fails as well
                        await self._store.responses.follow([one.id for one in followed])
                await self._poll(followed)
                await asyncio.sleep(POLL_INTERVAL_S)
        except ChatError as error:
            self._fail(error)
        except Exception:
            logger.exception("failed to follow what other servers generate")
            self._fail(StoreUnavailable("The database failed."))
        finally:
            self._is_polling = False

    async def _poll(self, followed: Sequence[Generation]) -> None:
        known = {one.id: one.num_tokens for one in followed}
        grown = await self._store.responses.grown(known)
        for generation in followed:
            if self._known.get(generation.id) is not generation:
                continue  # this server goes on with it
            if (growth := grown.get(generation.id)) is None:
                self.drop(generation.id)
                gone = f"Response {generation.id!r} was deleted."
                generation.fail(NotFound(gone, param="response_id"))
                continue
            if growth.ended is not None:
                self.drop(generation.id)
            await self._replay.grow(generation, growth)

    def _end(self) -> None:
        self._is_over = True
        self._fail()

    def _fail(self, error: ChatError | None = None) -> None:
        """Readers are told, and may come again. Without an error: this server ends."""
        for generation in self._followed():
            self.drop(generation.id)
            generation.fail(error or ResponseInterrupted(generation.id))

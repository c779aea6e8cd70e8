"""What passes between servers of one database: answers that are taken over, and handed over.

Where others took this server for dead, it goes on under a new name: what it generated is theirs,
and its readers here go on with what those write. So they do when it stops.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llamastream.errors import ChatError, DamagedRecord, Fenced, NotFound, StoreUnavailable
from llamastream.generation.dispatch import Dispatcher
from llamastream.generation.durable import Durability
from llamastream.generation.elsewhere import Elsewhere
from llamastream.generation.generation import Generation
from llamastream.generation.prefixes import Prefixes
from llamastream.generation.replay import Replay
from llamastream.generation.submission import Tasks
from llamastream.records import Asked, Interrupted, Outcome, Recovery, Status
from llamastream.types import EngineState, Usage

if TYPE_CHECKING:
    from llamastream.store.servers import Sight
    from llamastream.store.store import Store

logger = logging.getLogger(__name__)

LOOK_INTERVAL_S = 0.25  # the beat of a server: others wait for some of these before they take over
FAILED_RESULT = {"usage": list(Usage(0, 0, 0)), "text": ""}


class Takeover:
    def __init__(
        self,
        store: "Store",
        durability: Durability,
        elsewhere: Elsewhere,
        replay: Replay,
        prefixes: Prefixes,
        dispatcher: Dispatcher,
        *,
        model_id: str,
    ) -> None:
        self._store = store
        self._durability = durability
        self._elsewhere = elsewhere
        self._replay = replay
        self._prefixes = prefixes
        self._model_id = model_id
        self._dispatcher = dispatcher
        self._follows: dict[str, int] = {}  # by id, as they were said last
        self._tasks = Tasks()
        self._life = 0  # under one name
        self._is_heeding = False
        self._is_leaving = False
        self.is_fenced = False  # others go on with all of ours, and we have no new name yet

    async def start(self) -> None:
        """Go on with what is left, and from now on with what will be."""
        await self._take(await self._store.membership.recover(), self._life)
        self._tasks.spawn(self._look_regularly())

    async def close(self) -> None:
        await self._tasks.close()

    async def hand_over(self) -> None:
        """Let others go on with all of it at once, if there are others."""
        if not self._store.membership.has_peers:
            return
        self._let_go()
        self._is_leaving = True
        try:
            await self._store.membership.rename(stays=False)
        except ChatError as error:
            logger.warning("not handed over: %s", error.message)
            self.is_fenced = True  # which is tried again
        finally:
            self._is_leaving = False

    def _let_go(self) -> None:
        self._life += 1
        self._elsewhere.keep(self._durability.let_go())

    async def _look_regularly(self) -> None:
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            try:
                await self._look()
            except ChatError as error:
                logger.debug("no look at the other servers: %s", error.message)
            except Exception:  # without it this server would be taken for dead
                logger.exception("failed on a look at the other servers")

    async def _look(self) -> None:
        if self._is_leaving:
            return
        life = self._life
        try:
            if self.is_fenced:
                await self._store.membership.rename(stays=not self._dispatcher.is_draining)
                self.is_fenced = False
            if self._dispatcher.engine.status().state is EngineState.READY:
                await self._store.membership.serve()
            sight = await self._store.membership.look()
        except Fenced:
            if life != self._life:  # by ourselves, meanwhile
                return
            logger.warning("taken for dead: others go on with responses=%d", len(self._durability))
            self.is_fenced = True
            self._dispatcher.metrics.fenced.inc()
            self._let_go()
            return
        if not self._is_heeding:  # which waits for the writer, and a beat waits for nobody
            self._is_heeding = True
            self._tasks.spawn(self._heed(sight))

    async def _heed(self, sight: "Sight") -> None:
        life = self._life
        try:
            news = await self._store.membership.heed(sight)
            await self._take(news.recovery, life)
            for id in news.removed:
                if (live := self._durability.get(id)) is not None:
                    self._durability.remove(live)
            self._heed_asked(news.asked)
        except ChatError as error:
            logger.debug("nothing taken over: %s", error.message)
        finally:
            self._is_heeding = False

    def _heed_asked(self, asked: Sequence[Asked]) -> None:
        before, self._follows = self._follows, {one.id: one.num_follows for one in asked}
        for one in asked:
            if (live := self._durability.get(one.id)) is None:
                continue
            if one.num_follows != before.get(one.id, 0):
                self._durability.readers_changed(live, 0)  # it is not deserted
            if one.is_cancelled and not live.is_cancelled:
                self._durability.cancel(live)

    async def _take(self, recovery: Recovery, life: int) -> None:
        """What another model began is failed, and what cannot be read. `life`: of the taking."""
        if recovery.interrupted or recovery.failed:
            found, failed = len(recovery.interrupted), len(recovery.failed)
            logger.info("resuming responses=%d failed=%d", found, failed)
            self._dispatcher.metrics.taken_over.inc(found)
        ours: list[Generation] = []
        others: list[Generation] = []
        for one in recovery.interrupted:
            generation = await self._generation(one)
            if generation is not None:
                is_ours = generation.details.model_id == self._model_id
                (ours if is_ours else others).append(generation)
        if life == self._life:
            self._durability.go_on(ours, others)
        else:  # let go of meanwhile
            self._elsewhere.keep([*ours, *others])

    async def _generation(self, one: Interrupted) -> Generation | None:
        known = self._elsewhere.drop(one.response.id)
        while True:
            try:
                replayed = self._replay.of_interrupted(one, self._store, self._durability, known)
                generation = await replayed
                if (owner := await self._prefixes.own(generation)) is not None:
                    owner.confirm()
                return generation
            except NotFound:  # deleted since
                return None
            except DamagedRecord as error:
                failed = Outcome(Status.FAILED, FAILED_RESULT, error=error.message)
                await self._store.responses.finish(one.response.id, failed)
                return None
            except StoreUnavailable:  # it is ours: nobody else would go on with it
                await asyncio.sleep(LOOK_INTERVAL_S)

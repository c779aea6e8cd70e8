"""All replicas together: which are well, and who is to be asked next. Knows no request."""

import asyncio
from collections.abc import Callable

from llamastream.engine.remote.replica import Replica
from llamastream.errors import EngineDead

CHECK_EVERY_S = 2.0
PATIENCE_S = 300.0  # that a request waits for any replica to come back: a large model's loading


class Replicas:
    """Belongs to one event loop."""

    def __init__(
        self,
        replicas: list[Replica],
        check_every_s: float = CHECK_EVERY_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._replicas = replicas
        self._check_every_s, self._patience_s = check_every_s, patience_s
        self._has_any = asyncio.Event()
        self._watching: list[asyncio.Task[None]] = []
        self._on_limit: Callable[[int], None]

    def start(self, on_limit: Callable[[int], None]) -> None:
        """Begin to look after them. `on_limit` is told the longest sequence that all can take,
        before any counts as up."""
        self._on_limit = on_limit
        self._watching = [asyncio.create_task(self._watch(replica)) for replica in self._replicas]

    async def stop(self) -> None:
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        for replica in self._replicas:
            await replica.close()
        self._has_any.set()  # who waits is to look again

    @property
    def is_any_up(self) -> bool:
        return any(replica.is_up for replica in self._replicas)

    async def any_up(self) -> None:
        await self._has_any.wait()

    async def choose(self) -> Replica:
        """The one with the least to do, once any is up. Raises EngineDead when none comes back."""
        try:
            async with asyncio.timeout(self._patience_s):
                await self._has_any.wait()
        except TimeoutError:
            raise EngineDead(
                f"No engine of --engine-url came back within {self._patience_s:g} s."
            ) from None
        up = [replica for replica in self._replicas if replica.is_up]
        return min(up, key=lambda replica: replica.num_streams)

    async def check(self, replica: Replica) -> None:
        """Ask it now, and know from then on whether it is up."""
        await replica.check()
        if not self.is_any_up:
            self._has_any.clear()
            return
        # Of all that were ever up: what is begun at one must fit the others as well.
        limits = [each.max_model_len for each in self._replicas if each.max_model_len]
        self._on_limit(min(limits))
        self._has_any.set()

    async def _watch(self, replica: Replica) -> None:
        while True:
            await self.check(replica)
            await asyncio.sleep(self._check_every_s)

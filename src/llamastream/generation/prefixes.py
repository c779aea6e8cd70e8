"""Which stored answers have the cache blocks of their prompts kept on disk, and for how long.

Blocks hold what was said, as numbers. So they are kept for somebody who is stored, a conversation
or a chain of answers, and go with it, and with any answer that had a part in it.
"""

import asyncio
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from llamastream.generation.generation import Generation
from llamastream.records import CacheRetention
from llamastream.types import BlockOwner

if TYPE_CHECKING:
    from llamastream.store.store import Store


class DiskCache(Protocol):
    """Where the engine keeps blocks. Belongs to the event loop."""

    def owner(
        self, name: str, id: str, retention: CacheRetention | None = None
    ) -> BlockOwner | None:
        """For an answer `id` of what is called `name`: nothing is kept before it is confirmed."""
        ...

    def forget(self, id: str) -> "Future[None]":
        """Remove all blocks with text of this id. Done once they are gone."""
        ...

    def expire(self) -> None:
        """Remove what was to be kept for a day."""
        ...

    def ids(self) -> set[str]:
        """Whose text is in any block. Waits until those of the last server are known."""
        ...


class Prefixes:
    """`disk`: None where nothing is kept."""

    def __init__(self, disk: DiskCache | None, store: "Store") -> None:
        self._disk = disk
        self._store = store

    async def own(self, generation: Generation) -> BlockOwner | None:
        """Name for whom blocks of a stored answer are kept: None for nobody. What that is then
        confirms it. Raises StoreUnavailable."""
        retention = generation.details.cache_retention
        if self._disk is None or retention == "in_memory":
            return None
        name = generation.conversation_id or generation.id
        if (previous := generation.previous_response_id) is not None:
            name = await self._store.first_of_chain(previous, scope=generation.scope)
        (choice,) = generation.choices
        owner = self._disk.owner(name, generation.id, retention)
        choice.request = replace(choice.request, owner=owner)
        return owner

    async def forget(self, id: str) -> None:
        """A conversation or an answer is gone, or something of it."""
        if self._disk is not None:
            await asyncio.wrap_future(self._disk.forget(id))

    async def tidy(self) -> None:
        """Forget what the store does not have any more. Raises StoreUnavailable."""
        if self._disk is None:
            return
        ids = await asyncio.to_thread(self._disk.ids)
        for id in await self._store.missing(ids):
            await self.forget(id)

    def expire(self) -> None:
        """Forget what was to be kept for a day."""
        if self._disk is not None:
            self._disk.expire()

"""Which KV blocks are on disk, and for whom: what `block_files` keeps in memory of its files.

Knows no files. Any thread may call it.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class OwnerBlocks:
    """`blocks`: name to bytes, heads of chains first. A block of several owners counts once."""

    ids: set[str]  # whose text is in them
    begun_s: float  # seconds since 1970
    blocks: dict[str, int] = field(default_factory=dict)


class BlockIndex:
    def __init__(self) -> None:
        self.num_bytes = 0
        self._lock = threading.Lock()
        self._owners: OrderedDict[str, OwnerBlocks] = OrderedDict()  # used longest ago first
        self._owners_of: dict[str, dict[str, None]] = {}  # each block

    def has(self, name: str, owner: str | None = None) -> bool:
        """Whether a block is there, perhaps as one of this owner."""
        with self._lock:
            owners = self._owners_of.get(name)
            return owners is not None and (owner is None or owner in owners)

    def owners(self, name: str) -> list[str]:
        """Of a block."""
        with self._lock:
            return list(self._owners_of.get(name, ()))

    def owners_with(self, id: str) -> list[str]:
        """In whose blocks text of `id` is."""
        with self._lock:
            return [owner for owner, found in self._owners.items() if id in found.ids]

    def ids(self) -> set[str]:
        """Whose text is in any block."""
        with self._lock:
            return set().union(*(found.ids for found in self._owners.values()))

    def begun_before(self, time_s: float) -> list[str]:
        """Owners whose first block came before this, in seconds since 1970."""
        with self._lock:
            return [owner for owner, found in self._owners.items() if found.begun_s < time_s]

    def enter(self, owner: str, found: OwnerBlocks) -> None:
        """An owner that is not in yet, or its further ids, and its blocks."""
        with self._lock:
            known = self._owners.setdefault(owner, OwnerBlocks(set(), found.begun_s))
            known.ids |= found.ids
            for name, size in found.blocks.items():
                self._add(owner, name, size)

    def use(self, owner: str, id: str | None = None) -> bool:
        """It was used just now. False if it is not in, or `id` is none of its."""
        with self._lock:
            if owner not in self._owners:
                return False
            self._owners.move_to_end(owner)
            return id is None or id in self._owners[owner].ids

    def add(self, owner: str, name: str, size: int) -> None:
        with self._lock:
            self._add(owner, name, size)

    def discard(self, owner: str, name: str) -> None:
        """Take a block from its owner. Idempotent."""
        with self._lock:
            self._take(owner, name)

    def drop(self, owner: str) -> None:
        """Forget an owner with all it has. Idempotent."""
        with self._lock:
            if owner in self._owners:
                for name in list(self._owners[owner].blocks):
                    self._take(owner, name)
                del self._owners[owner]

    def least(self, spared: str | None) -> tuple[str, str | None] | None:
        """Whose blocks were used longest ago, and the last one of these, if it has any."""
        with self._lock:
            for owner, found in self._owners.items():
                if owner != spared:
                    return owner, next(reversed(found.blocks), None)
        return None

    def _add(self, owner: str, name: str, size: int) -> None:
        owners = self._owners_of.setdefault(name, {})
        if not owners:
            self.num_bytes += size
        owners[owner] = None
        self._owners[owner].blocks[name] = size

    def _take(self, owner: str, name: str) -> None:
        owners = self._owners_of.get(name, {})
        if owner not in owners:
            return
        del owners[owner]
        size = self._owners[owner].blocks.pop(name)
        if not owners:
            del self._owners_of[name]
            self.num_bytes -= size

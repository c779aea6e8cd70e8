"""KV blocks as files: a folder for each owner, and in it a hard link for each block of its.

    kv/0/lock                held by the server that uses kv/0: the next one takes kv/1
    kv/0/conv_1/3f9c...      a block: a checksum, then its bytes
    kv/0/conv_1/resp_2.id    whose text is in these blocks, too
    kv/0/resp_5.24h/3f9c...  another link to the same bytes; this folder is gone after a day

A block's bytes go with its last link. What is there may be gone, torn or another's at any time: it
is checked when it is read, and then a miss. One thread writes, any may read.
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from llamastream.engine.block_index import BlockIndex, OwnerBlocks

Bytes = NDArray[np.uint8]

CHECKSUM_BYTES = 16
MAX_SERVERS = 64  # of one folder
FREE_SHARE = 0.1  # of what the disk would have without us, where nobody says how much
MOST_BYTES = 20 * 2**30  # of that
DAY = ".24h"  # at the end of an owner's name
ID = ".id"
OWNER = re.compile(r"[A-Za-z0-9_-]{1,200}")
BLOCK = re.compile(r"[0-9a-f]{64}")
LOCK = "lock"


class BlockFiles:
    """Holds `max_bytes` at most: whose owner was used longest ago goes first, tails before heads.

    What writes raises OSError.
    """

    def __init__(self, root: Path, lock: int, max_bytes: int | None) -> None:
        """`lock`: a descriptor, which is closed by `close`. Nothing is found before `scan`, which
        decides on `max_bytes` where nobody did."""
        self.index = BlockIndex()
        self.max_bytes = max_bytes or 0
        self._is_sized = max_bytes is not None
        self.num_damaged = 0  # blocks that were found to be so
        self._root = root
        self._lock = lock

    @classmethod
    def open(cls, parent: Path, max_bytes: int | None) -> Self:
        """Take the first folder that no other server has."""
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in range(MAX_SERVERS):
            root = parent / str(number)
            root.mkdir(mode=0o700, exist_ok=True)
            if (lock := _try_lock(root)) is not None:
                return cls(root, lock, max_bytes)
        raise OSError(errno.EBUSY, f"{MAX_SERVERS} servers use {parent}")

    def scan(self) -> None:
        """Find what an earlier server left."""
        folders = [path for path in self._root.glob("*/") if _is_owners(path)]
        for path in sorted(folders, key=lambda path: path.stat().st_mtime_ns):
            self.index.enter(path.name, _scan_folder(path))
        if not self._is_sized:
            free = shutil.disk_usage(self._root).free + self.index.num_bytes
            self.max_bytes = min(int(free * FREE_SHARE), MOST_BYTES)
        self.make_room(0)

    def close(self) -> None:
        os.close(self._lock)

    def write(self, owner: str, id: str, name: str, data: Bytes | None) -> bool:
        """Keep a block, in which text of `id` is; without data, one that another owner has.

        False where there is nothing to link to, or no room but in place of its own head.
        """
        self._enter(owner, id)
        path = self._root / owner / name
        if data is None:
            size = self._link(path)
        elif self.make_room(CHECKSUM_BYTES + data.nbytes, owner):
            size = self._store(path, data)
        else:
            size = 0
        if size:
            self.index.add(owner, name, size)
        return size > 0

    def read(self, name: str, into: Bytes) -> bool:
        """Fill `into` with a block's bytes; False if they cannot be had whole."""
        owners = self.index.owners(name)
        if not owners:
            return False
        is_damaged = True
        try:
            with (self._root / owners[0] / name).open("rb", buffering=0) as file:
                checksum = file.read(CHECKSUM_BYTES)
                num_read = file.readinto(into.data)
                if num_read == into.nbytes and not file.read(1):
                    is_damaged = checksum != _checksum(name, into)
        except FileNotFoundError:
            self.index.discard(owners[0], name)
            return False
        except OSError:  # the disk cannot read it, which is no better
            pass
        if is_damaged:
            self.num_damaged += 1
            for owner in owners:
                self._remove_block(owner, name)
        return not is_damaged

    def touch(self, name: str) -> None:
        """Who has this block was here just now."""
        for owner in self.index.owners(name):
            self.index.use(owner)
            with contextlib.suppress(OSError):
                os.utime(self._root / owner)

    def make_room(self, num_bytes: int, spared: str | None = None) -> bool:
        """Remove what was used longest ago, of other owners; whether there is room now."""
        while self.index.num_bytes + num_bytes > self.max_bytes:
            least = self.index.least(spared)
            if least is None:
                return False
            owner, name = least
            if name is None:
                self.remove(owner)
            else:
                self._remove_block(owner, name)
        return True

    def shrink(self, share: float) -> None:
        """Keep so much of what is there."""
        self.make_room(self.max_bytes - int(self.index.num_bytes * share))

    def remove(self, owner: str) -> None:
        """All that is kept for it. What cannot be removed stays known."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._root / owner)
        self.index.drop(owner)

    def _remove_block(self, owner: str, name: str) -> None:
        self.index.discard(owner, name)
        with contextlib.suppress(OSError):
            (self._root / owner / name).unlink(missing_ok=True)

    def _enter(self, owner: str, id: str) -> None:
        """Have a folder for it, in which `id` is named."""
        path = self._root / owner
        try:
            path.mkdir(mode=0o700, parents=True)
            self.index.drop(owner)  # whatever there was has been taken from us
        except FileExistsError:
            if self.index.use(owner, id):
                return
        os.close(os.open(path / (id + ID), os.O_CREAT | os.O_WRONLY, 0o600))
        self.index.enter(owner, _scan_folder(path))

    def _store(self, path: Path, data: Bytes) -> int:
        """Write it whole or not at all: under another name until it is. Returns its size."""
        parts = (_checksum(path.name, data), data.data)
        size = CHECKSUM_BYTES + data.nbytes
        temporary = path.with_suffix(".new")
        try:
            file = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            try:
                if os.writev(file, parts) != size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(file)
            temporary.rename(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        return size

    def _link(self, path: Path) -> int:
        """Give a block one more name. Returns its size, 0 where that cannot be."""
        owners = self.index.owners(path.name)
        if not owners:
            return 0
        try:
            path.hardlink_to(self._root / owners[0] / path.name)
        except FileExistsError:
            pass
        except OSError:  # it is gone, or this file system knows no links
            return 0
        return path.stat().st_size


class FolderUse(NamedTuple):
    """What one server's folder holds."""

    path: Path
    is_used: bool  # by a server that runs
    num_owners: int
    num_blocks: int
    num_bytes: int


def folder_uses(parent: Path) -> Iterator[FolderUse]:
    """Of all folders that servers have left."""
    for root in sorted(parent.glob("*/")):
        lock = _try_lock(root)
        if lock is not None:
            os.close(lock)
        folders = [_scan_folder(path, tidy=False) for path in root.glob("*/")]
        sizes = {name: size for folder in folders for name, size in folder.blocks.items()}
        yield FolderUse(root, lock is None, len(folders), len(sizes), sum(sizes.values()))


def clear(parent: Path) -> int:
    """Remove what is in folders that no server uses; returns how many others there are."""
    num_used = 0
    for root in parent.glob("*/"):
        lock = _try_lock(root)
        if lock is None:
            num_used += 1
            continue
        for path in root.glob("*/"):
            shutil.rmtree(path)
        os.close(lock)
    return num_used


def _try_lock(root: Path) -> int | None:
    """A descriptor that holds the folder's lock, until it is closed; None if another has it."""
    file = os.open(root / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException as error:
        os.close(file)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return file


def _is_owners(path: Path) -> bool:
    """Whether it is a folder of ours."""
    return OWNER.fullmatch(path.name.removesuffix(DAY)) is not None and not path.is_symlink()


def _scan_folder(path: Path, *, tidy: bool = True) -> OwnerBlocks:
    """What is in it. `tidy`: remove what a server that was killed had not finished."""
    ids, begun_s, blocks = {path.name.removesuffix(DAY)}, path.stat().st_mtime, []
    with os.scandir(path) as entries:
        for entry in entries:
            found = entry.stat(follow_symlinks=False)
            if OWNER.fullmatch(id := entry.name.removesuffix(ID)) and id != entry.name:
                ids.add(id)
                begun_s = min(begun_s, found.st_mtime)
            elif BLOCK.fullmatch(entry.name):
                blocks.append((found.st_mtime_ns, entry.name, found.st_size))
            elif tidy:
                Path(entry.path).unlink()
    return OwnerBlocks(ids, begun_s, {name: size for _, name, size in sorted(blocks)})


def _checksum(name: str, data: Bytes) -> bytes:
    """Of a block under its name, so that no other block passes for it."""
    state = xxhash.xxh3_128(name.encode())
    state.update(data.data)
    return state.digest()

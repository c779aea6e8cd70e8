"""A disk that is soon full, and files of the cache on disk to which something happens."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random


class NotHere(Exception):
    """What a test needs and this machine has not."""


@contextmanager
def small_disk(folder: Path, num_bytes: int) -> Iterator[Path]:
    """A file system of its own. Raises NotHere where mounting is not permitted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        raise NotHere("mounting a tmpfs is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write until the disk is full, to the last byte."""
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def block_paths(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if len(path.name) == 64)


def damage(paths: Sequence[Path], rng: Random) -> None:
    """Do something to one of these files: a bit, its length, another's bytes, or all of it."""
    path = rng.choice(paths)
    data = bytearray(path.read_bytes()) if path.exists() else bytearray(1)
    kind = rng.randrange(5)
    if kind == 0:
        data = bytearray(rng.choice(paths).read_bytes())
    elif kind == 1:
        del data[rng.randrange(len(data)) :]
    elif kind == 2:
        data += bytes(rng.randrange(1, 100))
    elif data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)

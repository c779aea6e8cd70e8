"""How damage is seen and told: checksums over the values of a row, and errors of parsers.

CRC-32, against accidents of disks and memory, not against people. Whatever is damaged costs one
line in the log, names what it is, and is never taken for what it was.
"""

import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from zlib import crc32

from llamastream.errors import DamagedRecord, InvalidRequest

logger = logging.getLogger(__name__)

# What parsers raise, ours among them, given what is none of theirs.
UNREADABLE = (
    *(ValueError, TypeError, LookupError, AttributeError, OverflowError, struct.error),
    InvalidRequest,
)

_DOUBLE = struct.Struct("<d")


class ChecksumDiffers(ValueError):
    pass


def checksum(*values: str | bytes | float | None) -> int:
    """Of values as the database keeps them; of None too. Raises TypeError for any other value."""
    crc = 0
    for value in values:
        if isinstance(value, bytes):
            crc = crc32(value, crc32(b"b%d:" % len(value), crc))
        elif value is None:
            crc = crc32(b"n", crc)
        elif isinstance(value, str):
            data = value.encode()
            crc = crc32(data, crc32(b"s%d:" % len(data), crc))
        elif isinstance(value, int | float):
            crc = crc32(b"d" + _DOUBLE.pack(value), crc)
        else:
            raise TypeError(f"{type(value).__name__} is not stored")
    return crc


def verify(expected: object, *values: str | bytes | float | None) -> None:
    """Raises ChecksumDiffers or TypeError unless the values have this checksum.

    None, which rows older than checksums have, expects nothing.
    """
    if expected is not None and checksum(*values) != expected:
        raise ChecksumDiffers


@contextmanager
def reading(kind: str, id: object) -> Iterator[None]:
    """Raise DamagedRecord for what cannot be read of a record, and log that. `kind` names it."""
    try:
        yield
    except UNREADABLE as why:
        logger.error("damaged %s=%r: %s", kind, id, type(why).__name__)
        raise DamagedRecord(
            f"{kind.capitalize()} {id!r} cannot be read: what the database holds of it is damaged. "
            "Delete it, or put back a copy of the database."
        ) from why

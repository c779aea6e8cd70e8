"""CRC-32 over the values of a row: a flipped bit, a value cut short or mixed up with another's.

Against accidents of disks and memory, not against people.
"""

import struct
import zlib

_DOUBLE = struct.Struct("<d")


class ChecksumDiffers(ValueError):
    pass


def checksum(*values: str | bytes | float | None) -> int:
    """Of values as the database keeps them; of None too. Raises TypeError for any other value."""
    crc = 0
    for value in values:
        if value is None:
            kind, data = b"n", b""
        elif isinstance(value, str):
            kind, data = b"s", value.encode()
        elif isinstance(value, bytes):
            kind, data = b"b", value
        elif isinstance(value, int | float):
            kind, data = b"d", _DOUBLE.pack(value)
        else:
            raise TypeError(f"{type(value).__name__} is not stored")
        crc = zlib.crc32(data, zlib.crc32(b"%b%d:" % (kind, len(data)), crc))
    return crc


def verify(expected: object, *values: str | bytes | float | None) -> None:
    """Raises ChecksumDiffers or TypeError unless the values have this checksum.

    None, which rows older than checksums have, expects nothing.
    """
    if expected is not None and checksum(*values) != expected:
        raise ChecksumDiffers

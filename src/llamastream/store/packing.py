"""Token ids and log-probabilities as bytes, little-endian on every machine.

    step       (response num, position, token id) u32 each, for every token of the step
    step's log-probabilities   num u32, position u32, then one entry, for tokens that have them
    ids        u32 each
    logprobs   one entry per token, in order
    entry      length u16 in bytes, then logprob f64 and (token id u32, logprob f64) per alternative

Floats are kept as Python has them, so that a resumed reader sees the same digits.
"""

import struct
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from llamastream.records import DrawnLog
from llamastream.types import Token, TokenLogprob

_LENGTH = struct.Struct("<H")
_KEY = struct.Struct("<II")
_LOGPROB = struct.Struct("<d")
_ALTERNATIVE = struct.Struct("<Id")

NO_LOGPROBS = _LENGTH.pack(0)


def pack_ids(ids: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(ids)}I", *ids)


def unpack_ids(data: bytes) -> list[int]:
    ids: list[int] = np.frombuffer(data, "<u4").tolist()
    return ids


def unpack_steps(data: bytes) -> npt.NDArray[np.uint32]:
    """(n, 3): response num, position, token id, in the order of the journal."""
    return np.frombuffer(data, "<u4").reshape(-1, 3)


def pack_entry(logprob: TokenLogprob | None) -> bytes:
    """The entry of one token, with its length in front."""
    if logprob is None:
        return NO_LOGPROBS
    body = _LOGPROB.pack(logprob.logprob) + b"".join(
        [_ALTERNATIVE.pack(other.token_id, other.logprob) for other in logprob.top]
    )
    return _LENGTH.pack(len(body)) + body


def pack_log(log: DrawnLog, num_tokens: int) -> tuple[bytes, bytes | None]:
    """Ids and log-probabilities from the start, as the response's own row keeps them."""
    ids, logprobs = log.drawn(0, num_tokens)
    return pack_ids(ids), b"".join(map(pack_entry, logprobs)) or None


def pack_step_entry(num: int, position: int, entry: bytes) -> bytes:
    return _KEY.pack(num, position) + entry


def unpack_step_entries(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(num, position, entry) of several steps joined."""
    offset = 0
    while offset < len(data):
        num, position = _KEY.unpack_from(data, offset)
        end = _end(data, offset + _KEY.size)
        yield num, position, data[offset + _KEY.size : end]
        offset = end


def split_entries(data: bytes) -> list[bytes]:
    entries, offset = [], 0
    while offset < len(data):
        end = _end(data, offset)
        entries.append(data[offset:end])
        offset = end
    return entries


def make_token(response_id: str, position: int, token_id: int, entry: bytes) -> Token:
    if len(entry) <= _LENGTH.size:
        return Token(response_id, position, token_id)
    (logprob,) = _LOGPROB.unpack_from(entry, _LENGTH.size)
    top = tuple(_ALTERNATIVE.iter_unpack(entry[_LENGTH.size + _LOGPROB.size :]))
    return Token(response_id, position, token_id, logprob, top)


def _end(data: bytes, offset: int) -> int:
    (length,) = _LENGTH.unpack_from(data, offset)
    return offset + _LENGTH.size + int(length)

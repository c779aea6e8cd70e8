"""A gRPC client that costs next to nothing, so that a server's speed can be measured beside it.

One connection, many streams of one unary-stream call. Frames are walked while they come; what is
in them is looked at when the clock has stopped. Source: RFC 9113 (HTTP/2), RFC 7541 (HPACK) and
gRPC's PROTOCOL-HTTP2.md.
"""

import socket
import struct
import time
from typing import NamedTuple

DATA, HEADERS, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
INITIAL_WINDOW_SIZE, LARGEST_WINDOW = 4, 2**31 - 1  # nothing is ever held back for the reader
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Reading(NamedTuple):
    elapsed_s: float
    num_messages: list[int]  # of each stream


def read_streams(port: int, path: str, message: bytes, num_streams: int) -> Reading:
    """Call `path` with `message` on `num_streams` streams at once and read them to their ends."""
    request = struct.pack(">BI", 0, len(message)) + message
    ids = range(1, 2 * num_streams, 2)
    calls = b"".join(
        _frame(HEADERS, END_HEADERS, i, _headers(path)) + _frame(DATA, END_STREAM, i, request)
        for i in ids
    )
    with socket.create_connection(("127.0.0.1", port)) as connection:
        settings = struct.pack(">HI", INITIAL_WINDOW_SIZE, LARGEST_WINDOW)
        window = struct.pack(">I", LARGEST_WINDOW - 65535)
        connection.sendall(
            PREFACE + _frame(SETTINGS, 0, 0, settings) + _frame(WINDOW_UPDATE, 0, 0, window)
        )
        start_s = time.perf_counter()
        connection.sendall(calls)
        data = _read_until_ended(connection, num_streams)
        elapsed_s = time.perf_counter() - start_s
    return Reading(elapsed_s, [_count(b"".join(data[i])) for i in ids])


def _read_until_ended(connection: socket.socket, num_streams: int) -> dict[int, list[bytes]]:
    """The DATA of each stream, once all have their trailers."""
    data: dict[int, list[bytes]] = {i: [] for i in range(1, 2 * num_streams, 2)}
    rest, num_ended = b"", 0
    while num_ended < num_streams:
        received = connection.recv(1 << 20)
        if not received:
            raise ConnectionError("the server closed the connection")
        rest += received
        at = 0
        while at + 9 <= len(rest):
            high, low, kind, flags, stream_id = struct.unpack_from(">BHBBI", rest, at)
            end = at + 9 + (high << 16 | low)
            if end > len(rest):
                break
            payload = rest[at + 9 : end]
            at = end
            if kind == DATA:
                data[stream_id].append(payload)
            elif kind in (SETTINGS, PING) and not flags & ACK:
                echo = payload if kind == PING else b""
                connection.sendall(_frame(kind, ACK, 0, echo))
            elif kind == GOAWAY:
                raise ConnectionError(f"GOAWAY: {payload!r}")
            if kind in (DATA, HEADERS) and flags & END_STREAM:
                num_ended += 1
        rest = rest[at:]
    return data


def _count(data: bytes) -> int:
    """Messages, each behind a flag byte and its length."""
    found = at = 0
    while at < len(data):
        at += 5 + int(struct.unpack_from(">I", data, at + 1)[0])
        found += 1
    return found


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    head = struct.pack(">BHBBI", len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream_id)
    return head + payload


def _headers(path: str) -> bytes:
    """Literal fields without indexing: shorter forms are not worth their code here."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "127.0.0.1",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    return b"".join(b"\0" + _string(name) + _string(value) for name, value in fields.items())


def _string(text: str) -> bytes:
    assert len(text) < 127, "longer lengths take more than one byte"
    return bytes([len(text)]) + text.encode()

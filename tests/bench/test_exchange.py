"""The HTTP reader: framing, ends, and the time at which a byte counts as arrived."""

import time
from urllib.parse import urlsplit

import pytest

from llamastream.bench.errors import ServerFailed
from llamastream.bench.exchange import Exchange, build_request

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED = HEAD + b"5\r\nhello\r\n7;x=y\r\n, world\r\n0\r\n\r\n"


async def test_chunked_body_is_the_same_wherever_the_network_cuts_it() -> None:
    for cut in range(1, len(CHUNKED)):
        exchange = Exchange(b"")
        exchange.data_received(CHUNKED[:cut])
        exchange.data_received(CHUNKED[cut:])
        reply = exchange.reply()
        assert reply is not None
        assert (reply.status, reply.body, reply.complete) == (200, b"hello, world", True)


async def test_each_byte_has_the_time_at_which_it_arrived() -> None:
    exchange = Exchange(b"")
    exchange.data_received(HEAD + b"5\r\nhello\r\n7\r\n, wo")
    between_s = time.perf_counter()
    exchange.data_received(b"rld\r\n0\r\n\r\n")
    reply = exchange.reply()
    assert reply is not None
    assert [data for _, data in reply.pieces] == [b"hello", b", wo", b"rld"]
    times_s = [at_s for at_s, _ in reply.pieces]
    assert times_s[0] == times_s[1] < between_s < times_s[2]


async def test_reply_with_a_length_is_complete_at_that_length() -> None:
    exchange = Exchange(b"")
    exchange.data_received(b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nnon")
    reply = exchange.reply()
    assert reply is not None and not reply.complete
    exchange.data_received(b"e")
    reply = exchange.reply()
    assert reply is not None and reply.complete
    assert (reply.status, reply.body) == (404, b"none")


async def test_reply_without_a_length_ends_with_the_connection() -> None:
    exchange = Exchange(b"")
    exchange.data_received(b"HTTP/1.0 200 OK\r\n\r\nall")
    assert not exchange.reply().complete  # type: ignore[union-attr]
    exchange.connection_lost(None)
    assert exchange.reply().complete  # type: ignore[union-attr]


async def test_chunked_reply_cut_in_the_middle_is_incomplete() -> None:
    exchange = Exchange(b"")
    exchange.data_received(CHUNKED[:-9])
    exchange.connection_lost(ConnectionResetError())
    reply = exchange.reply()
    assert reply is not None
    assert (reply.body, reply.complete) == (b"hello, wor", False)


async def test_no_reply_before_the_headers_end() -> None:
    exchange = Exchange(b"")
    exchange.data_received(HEAD[:-1])
    assert exchange.reply() is None


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"220 mail.example ESMTP\r\n\r\n", "not a sound HTTP answer"),
        (HEAD + b"hello\r\n", "chunk size"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", "not a sound"),
    ],
)
async def test_what_is_not_http_is_refused(raw: bytes, message: str) -> None:
    exchange = Exchange(b"")
    exchange.data_received(raw)
    with pytest.raises(ServerFailed, match=message):
        exchange.reply()


def test_request_names_host_and_length_and_asks_to_close() -> None:
    url = urlsplit("http://127.0.0.1:9/v1/completions")
    request = build_request(url, {"Authorization": "Bearer k"}, b"{}")
    head, _, body = request.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /v1/completions HTTP/1.1"
    assert {"Host: 127.0.0.1:9", "Content-Length: 2", "Connection: close"} <= set(lines)
    assert "Authorization: Bearer k" in lines
    assert body == b"{}"

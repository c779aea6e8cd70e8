"""Requests, frames and messages as broken clients and strangers send them: each is answered in one
line, on every wire, and none by a traceback or a 500.

`python -m tests.api.mutated_wire --count 1000` sends so many of each kind and says what came.
"""

import argparse
import asyncio
import json
import logging
import random
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
from websockets.frames import Frame, Opcode

from tests.api.raw import RawClient
from tests.api.sse import chat_body
from tests.doubles.engine import FakeEngine
from tests.doubles.jina_servers import grpc_port
from tests.doubles.server import running_server
from tests.doubles.service import make_responses, make_service, says
from tests.doubles.waiting import LIMIT_S
from tests.jina_wire.test_grpc_server import STREAM_DOC, call_bytes
from tests.models.mutations import mutate_bytes, mutate_json

SAYS = "ok 😀"
USER = {"role": "user", "content": "hi"}
BODIES: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "/v1/chat/completions",
        chat_body(stop=["x"], n=2, logit_bias={"5": 1}, logprobs=True, top_logprobs=2, seed=1),
    ),
    ("/v1/chat/completions", chat_body(stream=True, stream_options={"include_usage": True})),
    ("/v1/chat/completions", chat_body(store=True, metadata={"a": "b"})),
    (
        "/v1/completions",
        {"model": "demo", "prompt": [[1, 2], "ab"], "max_tokens": 4, "logprobs": 1},
    ),
    (
        "/v1/responses",
        {
            "model": "demo",
            "input": [{**USER, "content": [{"type": "input_text", "text": "hi"}]}],
            "instructions": "be short",
            "text": {"format": {"type": "text"}},
            "include": ["message.output_text.logprobs"],
            "top_logprobs": 1,
        },
    ),
    ("/v1/responses", {"model": "demo", "input": "hi", "stream": True, "background": True}),
    ("/v1/conversations", {"metadata": {"a": "b"}, "items": [{"type": "message", **USER}]}),
    ("/tokenize", {"messages": [USER], "chat_template_kwargs": {"a": 1}}),
    ("/detokenize", {"tokens": [1, 2, 3]}),
    ("/apply-template", {"messages": [USER], "add_generation_prompt": False}),
    ("/stream", {"prompt": "hi", "max_tokens": 4, "stop": ["x"], "store": True, "seed": 1}),
    ("/stream", {"messages": [USER], "max_tokens": 4, "logprobs": True}),
)
HEADS = (
    b"GET /stream?prompt=hi&max_tokens=3&stop=x&seed=5 HTTP/1.1\r\nAccept: text/event-stream",
    b"GET /v1/responses/resp_1?stream=true&starting_after=3 HTTP/1.1\r\nLast-Event-ID: 5",
    b"GET /v1/chat/completions?limit=3&order=asc&metadata%5Ba%5D=b HTTP/1.1\r\nX-Request-Id: a",
    b"POST /v1/conversations HTTP/1.1\r\nTransfer-Encoding: chunked\r\nIdempotency-Key: a",
    b"GET /v1/responses HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=12",
)
HOST = b"\r\nHost: localhost\r\n\r\n"
CREATE = {"type": "response.create", "model": "demo", "input": [USER], "stream_id": "a"}
REFUSALS = {
    *(grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND),
    *(grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE),
}
BUG = 1011  # code of a WebSocket that ends by our own fault


class Server(NamedTuple):
    http: httpx.AsyncClient
    channel: grpc.aio.Channel


Send = Callable[[Server, random.Random], Awaitable[str]]


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Server]:
    answers = make_service(FakeEngine(says(SAYS)))
    stored = make_responses(answers, folder)
    async with (
        running_server(answers, None, stored) as url,
        grpc_port(answers, stored=stored) as port,  # type: ignore[arg-type]
        httpx.AsyncClient(base_url=url, timeout=LIMIT_S) as http,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield Server(http, channel)


def damaged(fields: dict[str, Any], draw: random.Random) -> bytes:
    text = json.dumps(fields)
    if draw.random() < 0.7:
        return mutate_json(text, draw).encode()
    return mutate_bytes(text.encode(), draw)


async def post(server: Server, draw: random.Random) -> str:
    path, fields = draw.choice(BODIES)
    body = damaged(fields, draw)
    answer = await server.http.post(path, content=body)
    assert answer.status_code < 500, (path, body[:300], answer.text)
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert error["message"] and "\n" not in error["message"], (path, body[:300], error)
    return str(answer.status_code)


async def head(server: Server, draw: random.Random) -> str:
    """Of a request, bytes of which are others, up to the end of what its client says."""
    sent = mutate_bytes(draw.choice(HEADS) + HOST, draw)
    seen = await exchange(server, sent)
    assert not seen.startswith(b"HTTP/1.1 5"), (sent, seen)
    return seen[9:12].decode()


async def message(server: Server, draw: random.Random) -> str:
    """Of a WebSocket."""
    text = damaged(CREATE, draw).decode("utf-8", "replace").encode()
    return await frames(server, Frame(Opcode.TEXT, text).serialize(mask=True))


async def frame(server: Server, draw: random.Random) -> str:
    """Several, bytes of which are others."""
    text = json.dumps(CREATE).encode()
    parts = [Frame(Opcode.TEXT, text[:20], fin=False), Frame(Opcode.PING, b"x")]
    parts += [Frame(Opcode.CONT, text[20:])]
    if draw.random() < 0.3:
        parts += [Frame(Opcode.CLOSE, b"\x03\xe8")]
    return await frames(server, mutate_bytes(b"".join(p.serialize(mask=True) for p in parts), draw))


async def frames(server: Server, sent: bytes) -> str:
    async with RawClient(server.http.base_url) as raw:
        raw.send(HEADS[-1].split(b"\r\nSec-WebSocket-E")[0] + HOST)
        assert (await raw.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        seen = await rest_of(server, raw, sent)
    assert BUG.to_bytes(2, "big") not in seen[-130:], (sent, seen)
    assert b'"internal_error"' not in seen, (sent, seen)
    return "error" if b'"type":"error"' in seen else "events" if b"response." in seen else "none"


async def exchange(server: Server, sent: bytes) -> bytes:
    async with RawClient(server.http.base_url) as raw:
        return await rest_of(server, raw, sent)


async def rest_of(server: Server, raw: RawClient, sent: bytes) -> bytes:
    """What is answered, though it may be that more is waited for."""
    raw.send(sent)
    for _ in range(2):  # the server does what it can meanwhile
        assert (await server.http.get("/health")).status_code == 200
    raw.finish()
    try:
        return await raw.read_to_end()
    except ConnectionError:
        return raw.seen


async def call(server: Server, draw: random.Random) -> str:
    """A gRPC message."""
    sent = mutate_bytes(call_bytes(prompt="hi", max_tokens=4, seed=1, store=True), draw)
    stream = server.channel.unary_stream(STREAM_DOC)(sent)
    try:
        while await stream.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError:
        pass
    status = await stream.code()
    assert status in REFUSALS, (sent, status, await stream.details())
    assert "\n" not in (await stream.details() or ""), sent
    return str(status.name)


class Tracebacks(logging.Handler):
    """Those that were logged."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.found.append(record)


async def send_all(send: Send, count: int, folder: Path) -> Counter[str]:
    """What came, by kind. Raises AssertionError for what must not."""
    seen: Counter[str] = Counter()
    tracebacks = Tracebacks()
    logging.getLogger().addHandler(tracebacks)
    try:
        async with serving(folder) as server:
            for seed in range(count):
                seen[await send(server, random.Random(f"{send.__name__}-{seed}"))] += 1
                assert not tracebacks.found, (send, seed, tracebacks.found)
            answer = await server.http.post("/v1/chat/completions", json=chat_body())
            assert answer.json()["choices"][0]["message"]["content"] == SAYS
    finally:
        logging.getLogger().removeHandler(tracebacks)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    count = parser.parse_args().count
    for send in SENDS:
        with tempfile.TemporaryDirectory() as folder:
            print(send.__name__, dict(asyncio.run(send_all(send, count, Path(folder)))), flush=True)


SENDS: tuple[Send, ...] = (post, head, message, frame, call)

if __name__ == "__main__":
    main()

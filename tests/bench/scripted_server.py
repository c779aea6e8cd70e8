"""An HTTP server that answers as it is told: OpenAI's stream, or any way to get it wrong."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

Script = Callable[["Request", asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class ScriptedServer:
    """`script` answers every POST. `requests` are the POSTs in the order they came in."""

    script: Script
    name: str = "server"
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    log: list[str] | None = None  # shared by servers, to see who was asked when
    num_active: int = 0
    max_active: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await _read_request(reader)
            if request.method == "GET":
                await answer_json(writer, {"object": "list", "data": [{"id": "scripted"}]})
            else:
                await self._answer(request, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client left, which some tests are about
        finally:
            writer.close()

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self.requests.append(request)
        if self.log is not None:
            self.log.append(self.name)
        self.num_active += 1
        self.max_active = max(self.max_active, self.num_active)
        try:
            await self.script(request, writer)
        finally:
            self.num_active -= 1


@asynccontextmanager
async def serving(server: ScriptedServer) -> AsyncIterator[ScriptedServer]:
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    async with listener:
        yield server


async def stream(request: Request, writer: asyncio.StreamWriter) -> None:
    """A proper completion stream of max_tokens chunks, with a usage."""
    await start_stream(writer)
    await send_tokens(writer, request.body["max_tokens"])
    prompt_tokens = len(prompt_of(request).split())
    await end_stream(writer, usage=(prompt_tokens, request.body["max_tokens"]))


def prompt_of(request: Request) -> str:
    messages = request.body.get("messages")
    return messages[0]["content"] if messages else request.body["prompt"]


async def start_stream(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
    writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
    await writer.drain()


async def send_tokens(writer: asyncio.StreamWriter, count: int) -> None:
    for _ in range(count):
        await send_event(writer, {"choices": [{"index": 0, "text": " a", "finish_reason": None}]})


async def send_event(writer: asyncio.StreamWriter, event: dict[str, Any] | str) -> None:
    data = event if isinstance(event, str) else json.dumps(event)
    payload = f"data: {data}\n\n".encode()
    writer.write(b"%x\r\n%s\r\n" % (len(payload), payload))
    await writer.drain()


async def end_stream(writer: asyncio.StreamWriter, usage: tuple[int, int] | None = None) -> None:
    await send_event(writer, {"choices": [{"index": 0, "text": "", "finish_reason": "length"}]})
    if usage is not None:
        counts = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
        await send_event(writer, {"choices": [], "usage": counts})
    await send_event(writer, "[DONE]")
    writer.write(b"0\r\n\r\n")
    await writer.drain()


async def answer_json(
    writer: asyncio.StreamWriter, document: dict[str, Any], status: int = 200
) -> None:
    body = json.dumps(document).encode()
    writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
    await writer.drain()


async def _read_request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, path, _ = head[0].split(" ")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:])}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, path, headers, json.loads(body) if body else {})

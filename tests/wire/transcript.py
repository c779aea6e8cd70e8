"""Requests on every transport, and what came back to the byte, but for ids and times."""

import json
import re
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
from websockets.asyncio.client import connect

from llamastream.jina import wire
from llamastream.jina.reading import document_fields

HEADERS = ("content-type", "cache-control", "x-accel-buffering", "retry-after", "www-authenticate")
IDS = re.compile(r"\b(resp|msg|conv|chatcmpl|cmpl|stream)([-_])([0-9a-f]{32})\b")
DOCUMENT = re.compile(r'"id":"([0-9a-f]{24})([0-9a-f]{8})"')
DRAWN = re.compile(r'"(created|created_at|completed_at|seed)":\d+')  # and times
STREAM_DOC = "/jina.JinaSingleDocumentRequestRPC/stream_doc"
LAST = ("response.completed", "response.incomplete", "response.failed", "error")


@dataclass
class Transcript:
    """`entries` is the record: a list of a title and lines."""

    http: httpx.AsyncClient
    channel: grpc.aio.Channel
    entries: dict[str, list[str]] = field(default_factory=dict)
    _names: dict[str, str] = field(default_factory=dict)

    async def ask(
        self,
        title: str,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> str:
        """One HTTP request; gives the body as it came."""
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        answer = await self.http.request(method, path, content=content, headers=headers)
        shown = [f"{name}: {answer.headers[name]}" for name in HEADERS if name in answer.headers]
        self.add(title, [str(answer.status_code), *shown, *_lines(answer.text)])
        return answer.text

    async def say(self, title: str, *messages: Any) -> list[dict[str, Any]]:
        """Messages on a WebSocket, each sent when the answer to the one before has ended."""
        url = str(self.http.base_url).replace("http", "ws", 1)
        raw: list[str] = []
        async with connect(f"{url}/v1/responses", compression=None) as socket:
            for message in messages:
                text = message if isinstance(message, str) else json.dumps(message)
                await socket.send(text)
                while True:
                    raw.append(str(await socket.recv()))
                    if json.loads(raw[-1])["type"] in LAST:
                        break
        self.add(title, raw)
        return [json.loads(text) for text in raw]

    async def call(self, title: str, fields: dict[str, Any], endpoint: str = "/stream") -> str:
        """A document over gRPC; gives the id of a stored answer."""
        request = wire.SingleDocumentRequest()
        request.header.request_id = "r1"
        request.header.exec_endpoint = endpoint
        wire.set_fields(request.document, fields)
        call = self.channel.unary_stream(STREAM_DOC)(request.SerializeToString())
        lines, stream_id = [], ""
        try:
            while (data := await call.read()) is not grpc.aio.EOF:
                response = wire.SingleDocumentRequest.FromString(data)
                document = document_fields(response.document.SerializeToString())
                stream_id = str(document.get("stream_id", ""))
                again = response.SerializeToString(deterministic=True)
                lines.append(
                    f"{len(again)} {json.dumps(document, separators=(',', ':'), sort_keys=True)}"
                )
        except grpc.aio.AioRpcError:
            pass
        metadata = sorted((await call.trailing_metadata()) or ())
        lines += [f"{await call.code()} {await call.details()}"]
        self.add(title, [*lines, *(f"{name}: {value}" for name, value in metadata)])
        return stream_id

    def add(self, title: str, lines: list[str]) -> None:
        assert title not in self.entries, title
        self.entries[title] = [self._without_chance(line) for line in lines]

    def _without_chance(self, line: str) -> str:
        line = DRAWN.sub(r'"\1":0', line)
        line = IDS.sub(lambda m: f"{m[1]}{m[2]}{self._name(m[3])}", line)
        return DOCUMENT.sub(lambda m: f'"id":"{self._name(m[1])}{m[2]}"', line)

    def _name(self, digits: str) -> str:
        """The same for the same beginning: a document's id begins as its answer's does."""
        return self._names.setdefault(digits[:24], f"<{len(self._names)}>")


def _lines(text: str) -> list[str]:
    """Line ends stay in sight."""
    return [line.replace("\r", "\\r") for line in text.split("\n")]

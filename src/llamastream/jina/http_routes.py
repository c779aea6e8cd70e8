"""Jina's HTTP wire: `/stream` answers server-sent events to `jina.Client(protocol='http')`.

What its client demands: CRLF, each event whole in one read, no pings, `event: ` nowhere but at the
start of an event. It reads neither status codes nor events of another name, so an error is framed
such that it raises there, and is an `error` event to every other reader.
"""

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from llamastream.api.deliver import HttpSink, closed_when_client_leaves, deliver
from llamastream.api.http.auth import authorization
from llamastream.api.http.body import read_body, read_object
from llamastream.api.http.errors import error_body, error_response
from llamastream.api.http.idempotency import HEADER as IDEMPOTENCY_KEY
from llamastream.api.http.json_object import parse_object
from llamastream.api.http.openapi import ApiRoute, Operation
from llamastream.api.http.transport import unsent_is_none
from llamastream.api.wire import shapes
from llamastream.errors import ChatError, PayloadTooLarge
from llamastream.jina.documents import ENDPOINT, FIELDS, PromptDocument, PromptRequest
from llamastream.jina.format import DocumentFormat, OutputFields
from llamastream.jina.keys import KEY, KEYLESS_BYTES, too_large_for_a_key
from llamastream.jina.service import StreamService

EVENT_STREAM = "text/event-stream"
DELETE_STREAM = Operation("Delete what is stored of a stream.", shapes.Deleted)
POST_STREAM = Operation(
    "A document's answer, as jina.Client reads it.",
    EVENT_STREAM,
    body=PromptDocument,
    is_open=True,
    errors=(401, 404, 422),
)
GET_STREAM = Operation(
    "The same, with the document in the query.",
    EVENT_STREAM,
    query={name: {"type": "string"} for name in FIELDS},
    is_open=True,
    errors=POST_STREAM.errors,
)
DRY_RUN = Operation("Whether answers are given.", shapes.DryRun, is_open=True, error=shapes.DryRun)
END = b"event: end\r\n\r\n"


def jina_routes(streams: StreamService, max_body_bytes: int) -> list[Route]:
    """`/stream`, by GET as jina.Client sends it or by POST, and `/dry_run` (is_flow_ready)."""

    async def dry_run(_: Request) -> JSONResponse:
        if streams.ready():
            return JSONResponse({"code": 0, "description": "", "exception": None})
        return JSONResponse({"code": 1, "description": "the engine is not ready"}, 503)

    async def delete(request: Request) -> JSONResponse:
        id = request.path_params["id"]
        await streams.delete(id, authorization(request.headers.get))
        return JSONResponse({"id": id, "object": "stream.deleted", "deleted": True})

    stored = [ApiRoute(ENDPOINT + "/{id}", delete, delete=DELETE_STREAM)]
    stream = _StreamRoute(streams, max_body_bytes)
    return [
        *(stored if streams.is_storing else []),
        ApiRoute(ENDPOINT, stream, get=GET_STREAM, post=POST_STREAM),
        ApiRoute("/dry_run", dry_run, get=DRY_RUN),
    ]


class _StreamRoute:
    """An ASGI application, so that events leave without a middleman."""

    def __init__(self, streams: StreamService, max_body_bytes: int) -> None:
        self._streams = streams
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            generation, after = await self._streams.open(await self._read(request))
        except ChatError as error:  # nothing was sent
            await _refusal(error, request)(scope, receive, send)
            return
        except ClientDisconnect:
            return
        wire = DocumentFormat(
            generation, after=after, encode=_update, encode_error=_error_event, last=[END]
        )
        sink = PacedSink(scope, send)
        with generation.follow(wire.start) as reader:
            async with closed_when_client_leaves(reader, receive):
                await sink.start(wire.media_type)
                await deliver(generation, reader, wire, sink)

    async def _read(self, request: Request) -> PromptRequest:
        """The document and whose it is: the key first, as far as it is no part of the document."""
        keys = self._streams.keys
        scope = keys.of_header(authorization(request.headers.get))
        has_body = _has_body(request)
        if not has_body:
            fields = _query_fields(request)
        elif scope is not None:
            fields = await read_object(request, self._max_body_bytes)
        else:
            body = await _read_keyless(request)
            keys.check_json(body)
            fields = parse_object(body)
        if scope is None:
            scope = keys.of_key(fields.get(KEY))
        label = request.scope.get("state", {}).get("label", "")
        return PromptRequest(
            fields, scope, request.headers.get(IDEMPOTENCY_KEY), label=label, text=not has_body
        )


class PacedSink(HttpSink):
    """What waits in a socket reaches the client cut anywhere: so nothing may wait there."""

    def __init__(self, scope: Scope, send: Send) -> None:
        super().__init__(scope, send)
        self.connection = None
        self._scope = scope

    async def write(self, frames: list[bytes]) -> None:
        await super().write(frames)
        await unsent_is_none(self._scope)


async def _read_keyless(request: Request) -> bytes:
    try:
        return await read_body(request, KEYLESS_BYTES)
    except PayloadTooLarge:
        raise too_large_for_a_key() from None


def _has_body(request: Request) -> bool:
    return request.headers.get("content-length") != "0" and (
        "content-length" in request.headers or "transfer-encoding" in request.headers
    )


def _query_fields(request: Request) -> dict[str, object]:
    query = request.query_params
    fields: dict[str, object] = dict(query)
    if "stop" in query:
        fields["stop"] = query.getlist("stop")
    return fields


def _update(document: OutputFields) -> bytes:
    return b"event: update\r\ndata: " + _unmarked(orjson.dumps(document)) + b"\r\n\r\n"


def _unmarked(json: bytes) -> bytes:
    """The same JSON without the client's marker, which can only stand inside a string."""
    return json.replace(b"event: ", rb"event\u003a ")


def _error_event(error: ChatError) -> bytes:
    """One event with two `event:` lines. The last one counts: its type is `error`. jina.Client goes
    by the first, and raises because the data is not the document it expects.
    """
    data = _unmarked(error_body(error))
    return b"event: update\r\ndata: " + data + b"\r\nevent: error\r\n\r\n"


def _refusal(error: ChatError, request: Request) -> Response:
    response = error_response(error)
    if response.status_code == 400:
        response.status_code = 422  # as FastAPI says it, and so Jina
    if EVENT_STREAM not in request.headers.get("accept", ""):
        return response
    del response.headers["content-length"], response.headers["content-type"]
    event = Response(_error_event(error), response.status_code, media_type=EVENT_STREAM)
    event.headers.update(response.headers)
    return event

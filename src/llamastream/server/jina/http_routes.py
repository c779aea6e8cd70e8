"""Jina's HTTP wire: `/stream` answers server-sent events to `jina.Client(protocol='http')`.

What its client demands: CRLF, each event whole in one chunk, no pings, `event: ` nowhere but at the
start of an event. It reads neither status codes nor events of another name, so an error is framed
such that it raises there, and is an `error` event to every other reader.
"""

import asyncio
import logging

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from llamastream.errors import ChatError, InternalError, InvalidRequest, PayloadTooLarge
from llamastream.server.jina.documents import (
    ENDPOINT,
    Answer,
    Authorize,
    OpenStream,
    OutputFields,
    Ready,
    Service,
    authorization,
    parse_prompt,
)

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 16 << 20  # more than MAX_PROMPT_BYTES, so that we can say what is too long
EVENT_STREAM = "text/event-stream"
END = b"event: end\r\n\r\n"
HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
)


def jina_routes(service: Service, *, authorize: Authorize, ready: Ready) -> list[Route]:
    """`/stream`, by GET as jina.Client sends it or by POST, and `/dry_run` (is_flow_ready)."""

    async def dry_run(_: Request) -> JSONResponse:
        if ready():
            return JSONResponse({"code": 0, "description": "", "exception": None})
        return JSONResponse({"code": 1, "description": "the engine is not ready"}, 503)

    return [
        Route(ENDPOINT, _StreamRoute(service, authorize), methods=["GET", "POST"]),
        Route("/dry_run", dry_run, methods=["GET"]),
    ]


class _StreamRoute:
    """An ASGI application, so that events leave without a middleman."""

    def __init__(self, service: Service, authorize: Authorize) -> None:
        self._service = service
        self._authorize = authorize

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            stream = await self._open(request)
        except ChatError as error:
            await _refusal(error, request)(scope, receive, send)
            return
        except ClientDisconnect:
            return
        watcher = asyncio.create_task(_close_when_gone(stream, receive))
        try:
            await _send_answer(stream, send)
        finally:
            watcher.cancel()
            await stream.aclose()

    async def _open(self, request: Request) -> OpenStream:
        body = await _read_body(request)
        fields = _parse_body(body) if body else _query_fields(request)
        scope = self._authorize(authorization(request.headers.get("authorization"), fields))
        return await self._service.open(parse_prompt(fields, scope=scope, text=not body))


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise PayloadTooLarge(f"the body must be <= {MAX_BODY_BYTES} bytes.")
    return bytes(body)


def _parse_body(body: bytes) -> dict[str, object]:
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body must be JSON: {error}.") from None
    if not isinstance(fields, dict):
        raise InvalidRequest("the body must be a JSON object with the fields of a document.")
    return fields


def _query_fields(request: Request) -> dict[str, object]:
    query = request.query_params
    fields: dict[str, object] = dict(query)
    if "stop" in query:
        fields["stop"] = query.getlist("stop")
    return fields


async def _close_when_gone(stream: OpenStream, receive: Receive) -> None:
    message: Message = {}
    while message.get("type") != "http.disconnect":
        message = await receive()
    await stream.aclose()


async def _send_answer(stream: OpenStream, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    last = END
    try:
        async for documents in Answer(stream):
            await _send_body(send, b"".join(map(_update, documents)))
    except ChatError as error:
        last = _error_event(error)
    except Exception:
        logger.exception("%s failed", ENDPOINT)
        last = _error_event(InternalError("internal error"))
    await _send_body(send, last, more=False)


async def _send_body(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


def _update(document: OutputFields) -> bytes:
    return b"event: update\r\ndata: " + _json(document) + b"\r\n\r\n"


def _json(value: object) -> bytes:
    # `event: ` can only stand inside a string, where the escape means the same.
    return orjson.dumps(value).replace(b"event: ", rb"event\u003a ")


def _error_event(error: ChatError) -> bytes:
    """One event with two `event:` lines. The last one counts: its type is `error`. jina.Client goes
    by the first, and raises because the data is not the document it expects, with it in the text.
    """
    data = b"event: update\r\ndata: " + _json(_error_fields(error))
    return data + b"\r\nevent: error\r\n\r\n"


def _error_fields(error: ChatError) -> dict[str, object]:
    return {"error": {"message": error.message, "code": error.code, "param": error.param}}


def _refusal(error: ChatError, request: Request) -> Response:
    status = 422 if error.status == 400 else error.status  # as FastAPI, and so Jina, would
    headers = {}
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        headers["retry-after"] = str(retry_after_s)
    if EVENT_STREAM in request.headers.get("accept", ""):
        return Response(_error_event(error), status, headers, media_type=EVENT_STREAM)
    return Response(_json(_error_fields(error)), status, headers, media_type="application/json")

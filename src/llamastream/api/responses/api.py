"""/v1/responses over HTTP: create, retrieve, follow, cancel, delete, input items."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from llamastream.api.feed import FeedAnswer, Opening
from llamastream.api.http.body import read_json
from llamastream.api.http.errors import check_id
from llamastream.api.http.idempotency import HEADER, idempotency_key, refuse_key
from llamastream.api.http.query import (
    INCLUDE,
    json_response,
    page_json,
    page_query,
    read_position,
)
from llamastream.api.responses.desk import PREFIX, Caller, ResponseDesk
from llamastream.api.wire.messages import wire_item
from llamastream.api.wire.response_events import frame
from llamastream.api.wire.responses import parse_response
from llamastream.config import ServeSettings


class ResponsesApi:
    """Refusals known at admission are raised, as ChatErrors, before anything is sent."""

    def __init__(self, desk: ResponseDesk, settings: ServeSettings) -> None:
        self._desk = desk
        self._responses = desk.responses
        self._max_body_bytes = settings.max_body_bytes
        self._ping_interval_s = settings.ping_interval_s

    async def create(self, request: Request) -> ASGIApp:
        raw, body = await read_json(request, self._max_body_bytes, parse_response)
        caller = _caller(request)
        if not body.is_stored:
            refuse_key(request.headers.get(HEADER))
            return self._deliver(await self._desk.stream(body, caller), bool(body.stream))
        log = await self._desk.create(body, caller, idempotency_key(request, raw))
        if body.background and not body.stream:
            return json_response((await self._desk.retrieve(log)).to_json())
        return self._deliver(self._desk.follow(log), bool(body.stream))

    async def retrieve(self, request: Request) -> ASGIApp:
        is_stream, after = read_position(request)
        log = await self._desk.open(request.path_params["id"], _caller(request))
        if not is_stream:
            return json_response((await self._desk.retrieve(log)).to_json())
        return self._deliver(self._desk.follow(log, after=after), is_stream)

    async def cancel(self, request: Request) -> Response:
        log = await self._desk.cancel(request.path_params["id"], _caller(request))
        return json_response((await self._desk.retrieve(log)).to_json())

    async def delete(self, request: Request) -> Response:
        id = check_id(request.path_params["id"], PREFIX)
        await self._responses.delete(id, scope=_caller(request).scope)
        return json_response({"id": id, "object": "response", "deleted": True})

    async def input_items(self, request: Request) -> Response:
        page = await self._responses.store.responses.input_items(
            check_id(request.path_params["id"], PREFIX),
            scope=_caller(request).scope,
            query=page_query(request, known=INCLUDE),
        )
        return json_response(page_json(page, wire_item))

    def _deliver(self, opening: Opening, is_stream: bool) -> ASGIApp:
        return FeedAnswer(
            opening, frame, is_stream=is_stream, ping_interval_s=self._ping_interval_s
        )


def _caller(request: Request) -> Caller:
    return Caller(request.state.key_scope, request.state.label)

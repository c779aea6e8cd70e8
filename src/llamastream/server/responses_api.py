"""/v1/responses over HTTP: create, retrieve, follow, cancel, delete, input items."""

from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from llamastream.config import ServeSettings
from llamastream.errors import InvalidRequest
from llamastream.server.body import read_json
from llamastream.server.idempotency import idempotency_key
from llamastream.server.queries import (
    check_include,
    check_query,
    json_response,
    page_json,
    page_query,
    read_bool,
    read_int,
    to_int,
)
from llamastream.server.response_delivery import ResponseEventStream, WholeResponse
from llamastream.server.response_feed import OpenFeed
from llamastream.server.response_request import parse_response
from llamastream.server.response_start import START, Caller, ResponseDesk
from llamastream.server.wire_items import wire_item

RETRIEVE_OPTIONS = ("stream", "starting_after", "include", "include[]", "include_obfuscation")


class ResponsesApi:
    """Refusals known at admission are raised, as ChatErrors, before anything is sent."""

    def __init__(self, desk: ResponseDesk, settings: ServeSettings) -> None:
        self._desk = desk
        self._responses = desk.responses
        self._max_body_bytes = int(settings.max_body_mib * 2**20)
        self._ping_interval_s = settings.ping_interval_s

    async def create(self, request: Request) -> ASGIApp:
        raw = await read_json(request, self._max_body_bytes)
        body = parse_response(raw)
        caller = _caller(request)
        if not body.is_stored:
            return self._deliver(await self._desk.stream(body, caller), bool(body.stream))
        log = await self._desk.create(body, caller, idempotency_key(request, raw))
        if body.background and not body.stream:
            return json_response((await self._desk.retrieve(log)).to_json())
        return self._deliver(partial(self._desk.follow, log), bool(body.stream))

    async def retrieve(self, request: Request) -> ASGIApp:
        check_query(request, RETRIEVE_OPTIONS)
        check_include(request)
        is_stream = read_bool(request, "stream")
        after = read_int(request, "starting_after")
        if after is not None and not is_stream:
            raise InvalidRequest("starting_after needs stream=true.", param="starting_after")
        log = await self._responses.open(request.path_params["id"], scope=_caller(request).scope)
        if not is_stream:
            return json_response((await self._desk.retrieve(log)).to_json())
        if after is None:
            last = request.headers.get("last-event-id")
            after = START if last is None else to_int(last, "Last-Event-ID")
        return self._deliver(partial(self._desk.follow, log, after=after), is_stream)

    async def cancel(self, request: Request) -> Response:
        id, scope = request.path_params["id"], _caller(request).scope
        await self._responses.cancel(id, scope=scope)
        log = await self._responses.open(id, scope=scope)
        return json_response((await self._desk.retrieve(log)).to_json())

    async def delete(self, request: Request) -> Response:
        id = request.path_params["id"]
        await self._responses.delete(id, scope=_caller(request).scope)
        return json_response({"id": id, "object": "response", "deleted": True})

    async def input_items(self, request: Request) -> Response:
        query = page_query(request, known=("include", "include[]"))
        check_include(request)
        page = await self._responses.store.responses.input_items(
            request.path_params["id"], scope=_caller(request).scope, query=query
        )
        return json_response(page_json(page, wire_item))

    def _deliver(self, open_feed: OpenFeed, is_stream: bool) -> ASGIApp:
        if is_stream:
            return ResponseEventStream(open_feed, ping_interval_s=self._ping_interval_s)
        return WholeResponse(open_feed)


def _caller(request: Request) -> Caller:
    return Caller(request.state.key_scope, request.state.label)

"""Stored answers over HTTP, whatever their format: retrieve, follow, cancel, delete, and lists."""

import re
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from llamastream.api.generate import Generate, refused_later
from llamastream.api.http.auth import scope_of
from llamastream.api.http.body import read_json
from llamastream.api.http.errors import check_id
from llamastream.api.http.query import (
    INCLUDE,
    check_query,
    json_response,
    page_json,
    page_query,
    path_id,
    read_position,
)
from llamastream.api.wire import chat
from llamastream.api.wire.format import Endpoint
from llamastream.api.wire.options import ChangedMetadata, validate
from llamastream.api.wire.receipts import VerificationFormat, receipt_json
from llamastream.api.wire.response_items import wire_item
from llamastream.config import ServeSettings
from llamastream.generation import Generation, StoredAnswers
from llamastream.records import Response as Record

METADATA_FILTER = re.compile(r"metadata\[(.+)\]", re.DOTALL)


class Stored:
    """One format's: ids begin with `prefix`, and `deleted` is what a deleted one is called."""

    def __init__(
        self,
        stored: StoredAnswers,
        generate: Generate,
        endpoint: Endpoint[Any],
        *,
        prefix: str,
        deleted: str,
    ) -> None:
        self._stored = stored
        self._generate = generate
        self._endpoint = endpoint
        self._prefix = prefix
        self._deleted = deleted

    async def retrieve(self, request: Request) -> ASGIApp:
        is_stream, after = read_position(request)
        generation = await self.find(request)
        wire = self._endpoint.format(generation, after)
        if not is_stream and generation.end is None and self._endpoint.shows_unfinished:
            return Response(wire.whole(generation), media_type="application/json")
        return self._generate.deliver(generation, wire, is_stream=is_stream)

    async def cancel(self, request: Request) -> Response:
        generation = await self._stored.cancel(self.id(request), scope=scope_of(request))
        whole = self._endpoint.format(generation).whole(generation)
        return Response(whole, media_type="application/json")

    async def delete(self, request: Request) -> Response:
        id = self.id(request)
        await self._stored.delete(id, scope=scope_of(request))
        return json_response({"id": id, "object": self._deleted, "deleted": True})

    async def input_items(self, request: Request) -> Response:
        page = await self._stored.input_items(
            self.id(request), scope=scope_of(request), query=page_query(request, known=INCLUDE)
        )
        return json_response(page_json(page, wire_item))

    async def receipt(self, request: Request) -> Response:
        check_query(request, ())
        receipt = await self._stored.verifying.receipt(self.id(request), scope=scope_of(request))
        return json_response(receipt_json(receipt))

    async def verify(self, request: Request) -> ASGIApp:
        check_query(request, ())
        beginning = self._stored.verifying.begin(self.id(request), scope=scope_of(request))
        found = await refused_later(beginning)
        wire = VerificationFormat(found)
        return self._generate.deliver(found.generation, wire, is_stream=False)

    async def find(self, request: Request) -> Generation:
        return await self._stored.find(self.id(request), scope=scope_of(request))

    def id(self, request: Request) -> str:
        return check_id(path_id(request), self._prefix)


class StoredChats(Stored):
    """What chats have beside."""

    def __init__(self, stored: StoredAnswers, generate: Generate, settings: ServeSettings) -> None:
        super().__init__(
            stored,
            generate,
            chat.ChatEndpoint(),
            prefix=chat.PREFIX,
            deleted="chat.completion.deleted",
        )
        self._max_body_bytes = settings.max_body_bytes

    async def list(self, request: Request) -> Response:
        """Those that have ended, without their log-probabilities and token ids."""
        given = request.query_params
        metadata = {m[1]: given[name] for name in given if (m := METADATA_FILTER.fullmatch(name))}
        model = given.get("model")

        def matches(record: Record) -> bool:
            shown = chat.shown_of(record)
            known = shown.metadata or {}
            is_of_model = model is None or shown.model == model
            return is_of_model and all(known.get(name) == metadata[name] for name in metadata)

        filters = ("model", *(f"metadata[{name}]" for name in metadata))
        page = await self._stored.list(
            scope=scope_of(request),
            prefix=chat.PREFIX,
            query=page_query(request, known=filters, order="asc"),
            matches=matches,
        )
        return json_response(page_json(page, chat.completion_of))

    async def messages(self, request: Request) -> Response:
        """What was said to the model, not what it said."""
        page = await self._stored.input_items(
            self.id(request), scope=scope_of(request), query=page_query(request, order="asc")
        )
        return json_response(page_json(page, chat.message_of))

    async def update(self, request: Request) -> ASGIApp:
        parse = partial(validate, ChangedMetadata)
        _, changed = await read_json(request, self._max_body_bytes, parse)
        id, scope = self.id(request), scope_of(request)
        await self._stored.update(id, changed.model_dump(), scope=scope)
        generation = await self.find(request)
        wire = self._endpoint.format(generation)
        return self._generate.deliver(generation, wire, is_stream=False)

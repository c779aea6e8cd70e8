"""/v1/conversations and their items over HTTP."""

import uuid
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from llamastream.api.http.auth import scope_of
from llamastream.api.http.body import read_json
from llamastream.api.http.idempotency import HEADER, refuse_key
from llamastream.api.http.query import (
    INCLUDE,
    SEARCH_OPTIONS,
    check_include,
    check_query,
    json_response,
    page_json,
    page_query,
    path_id,
    read_int,
)
from llamastream.api.wire.messages import Items, Json, parse_input
from llamastream.api.wire.options import ChangedMetadata, Metadata, WireModel, validate
from llamastream.api.wire.response_items import wire_item
from llamastream.config import ServeSettings
from llamastream.errors import InvalidRequest
from llamastream.generation import StoredAnswers
from llamastream.records import Conversation, Found, Item, Page, PageQuery

DEFAULT_FOUND = 20
MAX_NEW_ITEMS = 20  # OpenAI's limit of one request


class NewConversation(WireModel):
    items: Items | None = None
    metadata: Metadata | None = None


class NewItems(WireModel):
    items: Items
    after: str | None = None  # an item of the conversation that the first follows, or "root"


class ConversationsApi:
    def __init__(self, stored: StoredAnswers, settings: ServeSettings) -> None:
        self._stored = stored
        self._max_body_bytes = settings.max_body_bytes

    async def create(self, request: Request) -> Response:
        _refuse_key(request)
        parse = partial(validate, NewConversation)
        _, body = await read_json(request, self._max_body_bytes, parse)
        conversation = await self._stored.conversations.create(
            f"conv_{uuid.uuid4().hex}",
            scope=scope_of(request),
            metadata=body.metadata or {},
            items=_parse_items(body.items) if body.items else (),
            allow=self._stored.allow(scope_of(request)),
        )
        return json_response(_to_json(conversation))

    async def list(self, request: Request) -> Response:
        page = await self._stored.conversations.list(
            scope=scope_of(request), query=page_query(request)
        )
        return json_response(page_json(page, _to_json))

    async def search(self, request: Request) -> Response:
        """By words of titles and texts."""
        check_query(request, SEARCH_OPTIONS)
        limit = read_int(request, "limit")
        found = await self._stored.conversations.search(
            request.query_params.get("query", ""),
            scope=scope_of(request),
            limit=PageQuery(limit=DEFAULT_FOUND if limit is None else limit).limit,
        )
        data = [_found_json(one) for one in found]
        return json_response({"object": "list", "data": data})

    async def retrieve(self, request: Request) -> Response:
        return json_response(_to_json(await self._conversation(request)))

    async def update(self, request: Request) -> Response:
        parse = partial(validate, ChangedMetadata)
        _, body = await read_json(request, self._max_body_bytes, parse)
        conversation = await self._stored.conversations.update(
            path_id(request), scope=scope_of(request), metadata=body.metadata or {}
        )
        return json_response(_to_json(conversation))

    async def delete(self, request: Request) -> Response:
        await self._stored.delete_conversation(path_id(request), scope=scope_of(request))
        return json_response(
            {"id": path_id(request), "object": "conversation.deleted", "deleted": True}
        )

    async def add_items(self, request: Request) -> Response:
        check_include(request)
        _refuse_key(request)
        parse = partial(validate, NewItems)
        _, body = await read_json(request, self._max_body_bytes, parse)
        items = _parse_items(body.items)
        if body.after is not None:
            items = (items[0]._replace(follows=body.after), *items[1:])
        scope = scope_of(request)
        await self._stored.conversations.add_items(
            path_id(request), items, scope=scope, allow=self._stored.allow(scope)
        )
        return json_response(page_json(Page(items, has_more=False), wire_item))

    async def items(self, request: Request) -> Response:
        query = page_query(request, known=INCLUDE)
        page = await self._stored.conversations.items(
            path_id(request), scope=scope_of(request), query=query
        )
        return json_response(page_json(page, wire_item))

    async def item(self, request: Request) -> Response:
        check_include(request)
        item = await self._stored.conversations.item(
            path_id(request), request.path_params["item_id"], scope=scope_of(request)
        )
        return json_response(wire_item(item))

    async def delete_item(self, request: Request) -> Response:
        await self._stored.delete_item(
            path_id(request), request.path_params["item_id"], scope=scope_of(request)
        )
        return json_response(_to_json(await self._conversation(request)))

    async def _conversation(self, request: Request) -> Conversation:
        return await self._stored.conversations.get(path_id(request), scope=scope_of(request))


def _refuse_key(request: Request) -> None:
    refuse_key(request.headers.get(HEADER), "is not supported here: leave it out")


def _parse_items(raw: list[Any]) -> tuple[Item, ...]:
    if len(raw) > MAX_NEW_ITEMS:
        raise InvalidRequest(
            f"items must hold <= {MAX_NEW_ITEMS} items at a time. Given: {len(raw)}.",
            param="items",
        )
    return parse_input(raw, "items")


def _found_json(found: Found) -> Json:
    item = None if found.item is None else wire_item(found.item)
    return {"object": "search_result", "conversation": _to_json(found.conversation), "item": item}


def _to_json(conversation: Conversation) -> Json:
    return {
        "id": conversation.id,
        "object": "conversation",
        "created_at": int(conversation.created_at),
        "metadata": conversation.metadata,
    }

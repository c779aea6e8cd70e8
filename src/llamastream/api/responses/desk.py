"""From a checked body to a response under way, and to its events. All transports begin here."""

import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from llamastream.api.feed import START, Opening
from llamastream.api.http.errors import check_id, check_model
from llamastream.api.responses.feed import ResponseFeed
from llamastream.api.wire.messages import parse_input
from llamastream.api.wire.response_events import Snapshot
from llamastream.api.wire.responses import ResponseBody
from llamastream.errors import InvalidRequest, NotFound
from llamastream.generation.items import to_messages
from llamastream.generation.records import IdempotencyKey, Item
from llamastream.generation.response_log import ResponseLog
from llamastream.generation.responses import Draft, Responses
from llamastream.generation.stream import Stream
from llamastream.types import ChatRequest

PREFIX = "resp_"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the API key's scope, and the request's label for the log."""

    scope: str
    label: str


class ResponseDesk:
    def __init__(self, responses: Responses) -> None:
        self.responses = responses
        self._chat = responses.chat

    async def create(
        self, body: ResponseBody, caller: Caller, key: IdempotencyKey | None
    ) -> ResponseLog:
        """Begin a stored response, or find the one that `key` began."""
        items = self._check(body)
        request = await self._request(body, items, caller)
        draft = Draft(
            id=f"{PREFIX}{uuid.uuid4().hex}",
            wire=body.wire(request.sampling),
            input_items=items,
            conversation_id=body.conversation_id,
            previous_response_id=body.previous_response_id,
            background=bool(body.background),
            idempotency=key,
        )
        return await self.responses.create(request, draft)

    async def stream(self, body: ResponseBody, caller: Caller) -> Opening:
        """Begin a response that nobody keeps: it ends with the reader that is then to come."""
        request = await self._request(body, self._check(body), caller)
        stream = await self._chat.open(request)
        snapshot = Snapshot(
            id=f"{PREFIX}{stream.id}",
            created_at=int(time.time()),
            wire=body.wire(request.sampling),
            conversation_id=None,
            previous_response_id=body.previous_response_id,
        )
        return _following(stream, snapshot)

    @asynccontextmanager
    async def follow(self, log: ResponseLog, *, after: int = START) -> AsyncIterator[ResponseFeed]:
        """The events of a stored response with a number over `after`."""
        async with self.responses.follow(log) as reader:
            yield ResponseFeed(reader, Snapshot.opened(log), after=after)

    async def open(self, id: str, caller: Caller) -> ResponseLog:
        return await self.responses.open(check_id(id, PREFIX), scope=caller.scope)

    async def cancel(self, id: str, caller: Caller) -> ResponseLog:
        """End a response, if it has not ended."""
        await self.responses.cancel(check_id(id, PREFIX), scope=caller.scope)
        return await self.open(id, caller)

    async def retrieve(self, log: ResponseLog) -> Snapshot:
        """A stored response as it is now."""
        if not log.is_finished:
            return Snapshot.opened(log)
        async with self.follow(log, after=sys.maxsize) as feed:
            await feed.read(None)
            return feed.snapshot

    def _check(self, body: ResponseBody) -> tuple[Item, ...]:
        check_model(body.model, self._chat.model_name)
        if body.previous_response_id is not None:
            check_id(body.previous_response_id, PREFIX, "previous_response_id")
        if body.input is None and not (body.conversation_id or body.previous_response_id):
            raise InvalidRequest("input is required.", param="input")
        return () if body.input is None else parse_input(body.input)

    async def _request(
        self, body: ResponseBody, items: tuple[Item, ...], caller: Caller
    ) -> ChatRequest:
        try:
            history = await self.responses.history(
                scope=caller.scope,
                conversation_id=body.conversation_id,
                previous_response_id=body.previous_response_id,
            )
        except NotFound as error:  # names its own id, not the field of the body that gave it
            in_conversation = body.conversation_id is not None
            error.param = "conversation" if in_conversation else "previous_response_id"
            raise
        messages = history + to_messages(items)
        return body.to_request(messages, self._chat.sampling, caller.scope, caller.label)


@asynccontextmanager
async def _following(stream: Stream, snapshot: Snapshot) -> AsyncIterator[ResponseFeed]:
    async with stream:
        yield ResponseFeed(stream, snapshot)

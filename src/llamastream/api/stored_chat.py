"""Chat completions with `store: true`: kept, and resumable behind any of their frames.

Frame n is the n-th event of the stream, `id: n` on the wire; a client that was cut off comes again
by GET with `Last-Event-ID` (or `starting_after`).
"""

import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from llamastream.api.feed import START, Event, Feed, FeedAnswer
from llamastream.api.http.body import read_json
from llamastream.api.http.errors import check_id
from llamastream.api.http.idempotency import idempotency_key
from llamastream.api.http.query import json_response, page_json, page_query, read_position
from llamastream.api.wire.chat import ChatCompletionBody, ChatFormat
from llamastream.api.wire.messages import parse_messages
from llamastream.api.wire.openai import Answer
from llamastream.api.wire.options import ChangedMetadata, validate
from llamastream.config import ServeSettings
from llamastream.errors import InternalError, InvalidRequest
from llamastream.generation.items import new_item
from llamastream.generation.records import Item
from llamastream.generation.records import Response as Record
from llamastream.generation.response_log import FINISH_REASONS, Reader, ResponseLog
from llamastream.generation.responses import Draft, Responses
from llamastream.types import Delta, Usage

PREFIX = "chatcmpl-"
METADATA_FILTER = re.compile(r"metadata\[(.+)\]", re.DOTALL)


class ChatFeed(Feed):
    """The frames with a number over `after`, and one without any bytes as the last."""

    def __init__(self, reader: Reader, *, after: int) -> None:
        """`reader` starts at the first token."""
        super().__init__(reader.record.id, reader, opening=[])
        self._reader = reader
        self._after = after
        wire = reader.record.request["wire"]
        self._format = ChatFormat(_answer(reader.record), wire["metadata"])
        self._next = 0
        self._deltas: list[Delta] = []

    def whole(self) -> bytes:
        usage = self._reader.log.usage()
        assert usage is not None
        return self._format.whole(self._deltas, usage)

    def _events_of(self, deltas: list[Delta]) -> list[Event]:
        self._deltas += deltas
        events = self._number([f for delta in deltas for f in self._format.frames(delta)])
        if not self._reader.exhausted:
            return events
        if self._reader.record.error is not None:
            raise InternalError(self._reader.record.error)
        usage = self._reader.log.usage()
        assert usage is not None
        *frames, done = self._format.last_frames(usage)
        return [*events, *self._number(frames), Event(self._next, "done", done, is_last=True)]

    def _number(self, frames: list[bytes]) -> list[Event]:
        events = [Event(self._next + k, "chunk", frame) for k, frame in enumerate(frames)]
        self._next += len(frames)
        return [event for event in events if event.number > self._after]


class StoredChatApi:
    def __init__(self, responses: Responses, settings: ServeSettings) -> None:
        self._responses = responses
        self._max_body_bytes = settings.max_body_bytes
        self._ping_interval_s = settings.ping_interval_s

    async def create(
        self, request: Request, raw: dict[str, Any], body: ChatCompletionBody
    ) -> ASGIApp:
        if body.n not in (None, 1):
            raise InvalidRequest("n must be 1 with `store: true`.", param="n")
        state = request.state
        chat = self._responses.chat
        id = PREFIX + uuid.uuid4().hex
        messages = [new_item(m.role, [m.content]) for m in parse_messages(body.messages)]
        log = await self._responses.create(
            body.to_request(chat.sampling, state.key_scope, state.label),
            Draft(
                id=id,
                wire=_wire(body),
                input_items=tuple(m._replace(id=f"{id}-{k}") for k, m in enumerate(messages)),
                shows_prompt_ids=bool(body.return_token_ids),
                idempotency=idempotency_key(request, raw),
            ),
        )
        return self._deliver(log, START, bool(body.stream))

    async def retrieve(self, request: Request) -> ASGIApp:
        is_stream, after = read_position(request)
        log = await self._responses.open(_id(request), scope=request.state.key_scope)
        return self._deliver(log, after, is_stream)

    async def list(self, request: Request) -> Response:
        """Those that have ended, without their log-probabilities and token ids."""
        given = request.query_params
        metadata = {m[1]: given[name] for name in given if (m := METADATA_FILTER.fullmatch(name))}
        model = given.get("model")

        def matches(record: Record) -> bool:
            wire = record.request["wire"]
            known = wire["metadata"] or {}
            is_of_model = model is None or wire["model"] == model
            return is_of_model and all(known.get(name) == metadata[name] for name in metadata)

        filters = ("model", *(f"metadata[{name}]" for name in metadata))
        page = await self._responses.store.responses.list(
            scope=request.state.key_scope,
            prefix=PREFIX,
            query=page_query(request, known=filters, order="asc"),
            matches=matches,
        )
        return json_response(page_json(page, _completion))

    async def messages(self, request: Request) -> Response:
        """What was said to the model, not what it said."""
        page = await self._responses.store.responses.input_items(
            _id(request),
            scope=request.state.key_scope,
            query=page_query(request, order="asc"),
        )
        return json_response(page_json(page, _message))

    async def update(self, request: Request) -> ASGIApp:
        parse = partial(validate, ChangedMetadata)
        _, changed = await read_json(request, self._max_body_bytes, parse)
        id, scope = _id(request), request.state.key_scope
        await self._responses.update_wire(id, changed.model_dump(), scope=scope)
        return self._deliver(await self._responses.open(id, scope=scope), START, is_stream=False)

    async def delete(self, request: Request) -> Response:
        await self._responses.delete(_id(request), scope=request.state.key_scope)
        return json_response(
            {"id": _id(request), "object": "chat.completion.deleted", "deleted": True}
        )

    def _deliver(self, log: ResponseLog, after: int, is_stream: bool) -> ASGIApp:
        return FeedAnswer(
            self._follow(log, after),
            _frame,
            is_stream=is_stream,
            ping_interval_s=self._ping_interval_s,
        )

    @asynccontextmanager
    async def _follow(self, log: ResponseLog, after: int) -> AsyncIterator[Feed]:
        async with self._responses.follow(log) as reader:
            yield ChatFeed(reader, after=after)


def _id(request: Request) -> str:
    return check_id(request.path_params["id"], PREFIX)


def _wire(body: ChatCompletionBody) -> dict[str, Any]:
    return {
        "model": body.model,
        "metadata": body.metadata,
        "include_usage": body.include_usage,
        "return_token_ids": bool(body.return_token_ids),
        "logprobs": bool(body.logprobs),
        "shows_dropped_turns": body.truncation == "auto",
    }


def _completion(record: Record) -> dict[str, Any]:
    """One that has ended, as its record alone tells it."""
    assert record.result is not None
    usage, text = Usage(*record.result["usage"]), record.result["text"]
    delta = Delta(0, 0, text, (), finish_reason=FINISH_REASONS[record.status])
    answer = replace(_answer(record), logprobs=False, return_token_ids=False)
    return ChatFormat(answer, record.request["wire"]["metadata"]).completion([delta], usage)


def _message(item: Item) -> dict[str, Any]:
    role, content = item.body["role"], "".join(item.body["parts"])
    common = {"name": None, "refusal": None, "content_parts": None}
    return {"id": item.id, "role": role, "content": content, **common}


def _answer(record: Record) -> Answer:
    wire = record.request["wire"]
    dropped = record.request["num_dropped_turns"] if wire["shows_dropped_turns"] else None
    return Answer(
        id=record.id,
        created=int(record.created_at),
        model=wire["model"],
        n=1,
        prompts=(tuple(record.request["prompt_token_ids"] or ()),),
        num_dropped_turns=dropped,
        include_usage=wire["include_usage"],
        return_token_ids=wire["return_token_ids"],
        logprobs=wire["logprobs"],
    )


def _frame(event: Event) -> bytes:
    if event.type == "chunk":
        return b"id: %d\n%b" % (event.number, event.body)
    if event.type == "error":
        return b"data: %b\n\n" % event.body
    return event.body

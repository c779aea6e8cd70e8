"""/v1/responses over WebSocket: JSON messages in, the same events as over HTTP out.

In: `response.create` (its other fields are those of POST /v1/responses, flat or, as in OpenAI's
realtime interface, in a `response` of their own), `response.cancel` with a
`response_id`, and `response.resume` with a `response_id` and perhaps `starting_after`. Many
responses may run on one socket: the `stream_id` given with a message comes back on its events.
"""

import asyncio
import logging
from typing import Any

import orjson
from pydantic import Field
from starlette.websockets import WebSocket, WebSocketDisconnect

from llamastream.api.feed import START, Opening, error_event, read_all
from llamastream.api.http.body import off_loop
from llamastream.api.http.idempotency import make_key, refuse_key
from llamastream.api.http.json_object import LARGE_BYTES, parse_object
from llamastream.api.responses.desk import Caller, ResponseDesk
from llamastream.api.wire.options import Label, WireModel, asked, validate
from llamastream.api.wire.responses import parse_response
from llamastream.errors import ChatError, InternalError, InvalidRequest, Overloaded, quoted

logger = logging.getLogger(__name__)

MAX_LANES = 64  # responses followed at the same time on one socket
UNSUPPORTED_DATA, INTERNAL_ERROR = 1003, 1011


class ClientMessage(WireModel):
    """What every message may have. `event_id` is the client's own name for it."""

    stream_id: Label | None = None
    event_id: Label | None = None


class CreateMessage(ClientMessage):
    """What `response.create` has beside the fields of POST /v1/responses."""

    idempotency_key: str | None = None
    response: dict[str, Any] | None = None  # those fields


OWN_FIELDS = CreateMessage.model_fields.keys()


class CancelMessage(ClientMessage):
    response_id: str


class ResumeMessage(ClientMessage):
    response_id: str
    starting_after: int | None = Field(None, ge=0)


class ResponsesSocket:
    """The endpoint: one `Session` per connection."""

    def __init__(self, desk: ResponseDesk) -> None:
        self._desk = desk

    async def serve(self, websocket: WebSocket) -> None:
        await websocket.accept()
        caller = Caller(websocket.state.key_scope, websocket.state.label)
        await Session(websocket, self._desk, caller).run()


class Session:
    """One connection: a lane per response that is followed on it."""

    def __init__(self, websocket: WebSocket, desk: ResponseDesk, caller: Caller) -> None:
        self._websocket = websocket
        self._desk = desk
        self._caller = caller
        self._lanes: dict[asyncio.Task[None], str | None] = {}

    async def run(self) -> None:
        """Serve until the client leaves; what is stored goes on without it."""
        try:
            while True:
                message = await self._websocket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                text = message.get("text")
                if text is None:
                    reason = "Binary messages are not supported: send JSON as text."
                    await self._websocket.close(UNSUPPORTED_DATA, reason)
                    return
                await self._handle(text)
        except WebSocketDisconnect:
            return
        except Exception:
            logger.exception("a WebSocket session failed")
            await self._websocket.close(INTERNAL_ERROR, "Internal error.")
        finally:
            lanes = tuple(self._lanes)
            for lane in lanes:
                lane.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)

    async def _handle(self, text: str) -> None:
        """One message. What is wrong with it is answered by an error event."""
        stream_id: str | None = None
        try:
            body = text.encode("utf-8", "replace")
            fields = await off_loop(len(body) > LARGE_BYTES, parse_object, body)
            given = fields.get("stream_id")
            stream_id = given if isinstance(given, str) else None
            await self._dispatch(fields.pop("type", None), fields, stream_id)
        except ChatError as error:
            await self._send(error_event(error, -1).body, stream_id)

    async def _dispatch(self, kind: object, fields: dict[str, Any], stream_id: str | None) -> None:
        if kind == "response.create":
            await self._create(fields, stream_id)
        elif kind == "response.resume":
            resume = validate(ResumeMessage, fields)
            log = await self._desk.open(resume.response_id, self._caller)
            after = START if resume.starting_after is None else resume.starting_after
            self._open_lane(self._desk.follow(log, after=after), stream_id)
        elif kind == "response.cancel":
            cancel = validate(CancelMessage, fields)
            await self._desk.cancel(cancel.response_id, self._caller)
        else:
            raise InvalidRequest(
                "type must be response.create, response.resume or response.cancel. "
                f"Given: {quoted(kind)}.",
                param="type",
            )

    async def _create(self, fields: dict[str, Any], stream_id: str | None) -> None:
        self._check_lane(stream_id)
        own = validate(CreateMessage, {k: v for k, v in fields.items() if k in OWN_FIELDS})
        fields = {name: value for name, value in fields.items() if name not in OWN_FIELDS}
        if own.response is not None:
            if twice := sorted(asked(fields)):
                raise InvalidRequest(
                    f"{twice[0]} must be in `response`, like the other fields.", param=twice[0]
                )
            fields = own.response
        body = parse_response(fields)
        if body.stream is False:
            raise InvalidRequest("stream must be true on a WebSocket.", param="stream")
        key = own.idempotency_key
        if not body.is_stored:
            refuse_key(key)
            self._open_lane(await self._desk.stream(body, self._caller), stream_id)
            return
        idempotency = None if key is None else make_key(key, "/v1/responses", fields)
        log = await self._desk.create(body, self._caller, idempotency)
        self._open_lane(self._desk.follow(log), stream_id)

    def _check_lane(self, stream_id: str | None) -> None:
        if len(self._lanes) >= MAX_LANES:
            raise Overloaded(
                f"A socket follows <= {MAX_LANES} responses at a time. Wait for one to end, or "
                "open another socket."
            )
        if stream_id is not None and stream_id in self._lanes.values():
            raise InvalidRequest(
                f"stream_id {quoted(stream_id)} is in use on this socket. Take another.",
                param="stream_id",
            )

    def _open_lane(self, opening: Opening, stream_id: str | None) -> None:
        self._check_lane(stream_id)
        lane = asyncio.create_task(self._follow(opening, stream_id))
        self._lanes[lane] = stream_id
        lane.add_done_callback(self._lanes.pop)

    async def _follow(self, opening: Opening, stream_id: str | None) -> None:
        try:
            async with opening as feed:
                async for events in read_all(feed, None):
                    for event in events:
                        await self._send(event.body, stream_id)
        except WebSocketDisconnect:
            pass
        except Exception:
            logger.exception("a response's lane failed")
            failure = error_event(InternalError("Internal error while sending the answer."), -1)
            await self._send(failure.body, stream_id)

    async def _send(self, body: bytes, stream_id: str | None) -> None:
        if stream_id is not None:
            body = body[:-1] + b',"stream_id":' + orjson.dumps(stream_id) + b"}"
        await self._websocket.send_text(body.decode())

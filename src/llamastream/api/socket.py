"""/v1/responses over WebSocket: JSON messages in, the same events as over HTTP out.

In: `response.create` (its other fields are those of POST /v1/responses, flat or, as in OpenAI's
realtime interface, in a `response` of their own), `response.cancel` with a
`response_id`, and `response.resume` with a `response_id` and perhaps `starting_after`. Responses
run one after the other, as the specification has it, but beside each other under `stream_id`s of
their own, which come back on their events. What is not stored can be gone on with on its socket.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson
from pydantic import Field
from starlette.websockets import WebSocket, WebSocketDisconnect

from llamastream.api.deliver import ClientLeft, Connection, Sink, deliver, pushing
from llamastream.api.generate import Generate
from llamastream.api.http.body import off_loop
from llamastream.api.http.errors import check_id
from llamastream.api.http.idempotency import make_key, refuse_key
from llamastream.api.http.json_object import LARGE_BYTES, parse_object
from llamastream.api.http.transport import connection_of
from llamastream.api.wire.format import START, Caller
from llamastream.api.wire.openai import error_event
from llamastream.api.wire.options import Label, WireModel, asked, validate
from llamastream.api.wire.response_events import ResponseFormat
from llamastream.api.wire.response_items import Event
from llamastream.api.wire.responses import PREFIX, ResponseEndpoint
from llamastream.api.wire.turns import Turns
from llamastream.errors import ChatError, InternalError, InvalidRequest, Overloaded, quoted
from llamastream.generation import Generation, StoredAnswers

logger = logging.getLogger(__name__)

MAX_FOLLOWED = 64  # responses followed at the same time on one socket
MAX_WAITING = 16  # of these, whose bodies are held until others have ended
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


Begin = Callable[[dict[str, Any], Caller, str | None, Turns], Awaitable[Generation]]


class ResponsesSocket:
    """The endpoint: one `Session` per connection."""

    def __init__(self, stored: StoredAnswers, generate: Generate) -> None:
        self._stored = stored
        self._generate = generate

    async def serve(self, websocket: WebSocket) -> None:
        await websocket.accept()
        caller = Caller(websocket.state.key_scope, websocket.state.label)
        session = Session(websocket, self._stored, caller, self._begin)
        await session.run()

    async def _begin(
        self, fields: dict[str, Any], caller: Caller, key: str | None, turns: Turns
    ) -> Generation:
        """Begin a response, or find the one that `key` began."""
        endpoint = ResponseEndpoint(self._stored, turns)
        body = endpoint.parse(fields)
        if body.stream is False:
            raise InvalidRequest("stream must be true on a WebSocket.", param="stream")
        if not body.is_stored:
            refuse_key(key)
        elif key is not None:
            caller = replace(caller, key=make_key(key, "/v1/responses", fields))
        return await self._generate.begin(endpoint, body, caller)


class Session:
    """One connection, and a task per response that is followed on it."""

    def __init__(
        self, websocket: WebSocket, stored: StoredAnswers, caller: Caller, begin: Begin
    ) -> None:
        self._websocket = websocket
        self._connection: Connection | None = connection_of(websocket.scope)
        self._stored = stored
        self._caller = caller
        self._begin = begin
        self._turns = Turns()
        self._followed: dict[asyncio.Task[None], str | None] = {}  # with its stream_id, in order
        self._num_waiting = 0

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
                await asyncio.sleep(0)  # there may be hundreds of messages: others come first
        except (WebSocketDisconnect, ClientLeft):
            return
        except Exception:
            logger.exception("a WebSocket session failed")
            await self._websocket.close(INTERNAL_ERROR, "Internal error.")
        finally:
            tasks = tuple(self._followed)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _handle(self, text: str) -> None:
        """One message. What is wrong with it is answered by an error event."""
        stream_id: str | None = None
        try:
            await self._websocket.state.check_key()
            body = text.encode("utf-8", "replace")
            fields = await off_loop(len(body) > LARGE_BYTES, parse_object, body)
            given = fields.get("stream_id")
            stream_id = given if isinstance(given, str) else None
            await self._dispatch(fields.pop("type", None), fields, stream_id)
        except ChatError as error:
            await self._tell(error, stream_id)

    async def _tell(self, error: ChatError, stream_id: str | None) -> None:
        body = error_event(error, START)
        await SocketSink(self._websocket).write([named(stream_id, body)])

    async def _dispatch(self, kind: object, fields: dict[str, Any], stream_id: str | None) -> None:
        if kind == "response.create":
            before = [task for task, name in self._followed.items() if name == stream_id]
            if before and self._num_waiting >= MAX_WAITING:
                raise Overloaded(f"<= {MAX_WAITING} responses of a socket wait for their turn.")
            self._num_waiting += bool(before)
            self._follow(self._create(fields, stream_id, before), stream_id)
        elif kind == "response.resume":
            resume = validate(ResumeMessage, fields)
            id = check_id(resume.response_id, PREFIX)
            generation = await self._stored.find(id, scope=self._caller.scope)
            after = START if resume.starting_after is None else resume.starting_after
            if stream_id is not None and stream_id in self._followed.values():
                raise InvalidRequest(
                    f"stream_id {quoted(stream_id)} is in use on this socket. Take another.",
                    param="stream_id",
                )
            self._follow(self._deliver(generation, after, stream_id), stream_id)
        elif kind == "response.cancel":
            cancel = validate(CancelMessage, fields)
            id = check_id(cancel.response_id, PREFIX)
            await self._stored.cancel(id, scope=self._caller.scope)
        else:
            raise InvalidRequest(
                "type must be response.create, response.resume or response.cancel. "
                f"Given: {quoted(kind)}.",
                param="type",
            )

    def _follow(self, work: Coroutine[Any, Any, None], stream_id: str | None) -> None:
        if len(self._followed) >= MAX_FOLLOWED:
            work.close()
            raise Overloaded(
                f"A socket follows <= {MAX_FOLLOWED} responses at a time. Wait for one to end, or "
                "open another socket."
            )
        task = asyncio.create_task(work)
        self._followed[task] = stream_id
        task.add_done_callback(self._followed.pop)

    async def _create(
        self, fields: dict[str, Any], stream_id: str | None, before: list[asyncio.Task[None]]
    ) -> None:
        """Begin a response and deliver it, when those `before` it are over."""
        try:
            if before:
                await asyncio.wait(before)
                self._num_waiting -= 1
            await self._deliver(await self._begun(fields), START, stream_id)
        except ClientLeft:
            return
        except ChatError as error:
            await self._tell_if_there(error, stream_id)
        except Exception:
            logger.exception("a response of a WebSocket session failed")
            bug = InternalError("Internal error while beginning the response.")
            await self._tell_if_there(bug, stream_id)

    async def _tell_if_there(self, error: ChatError, stream_id: str | None) -> None:
        with suppress(ClientLeft):
            await self._tell(error, stream_id)

    async def _begun(self, fields: dict[str, Any]) -> Generation:
        own = validate(CreateMessage, {k: v for k, v in fields.items() if k in OWN_FIELDS})
        fields = {name: value for name, value in fields.items() if name not in OWN_FIELDS}
        if own.response is not None:
            if twice := sorted(asked(fields)):
                raise InvalidRequest(
                    f"{twice[0]} must be in `response`, like the other fields.", param=twice[0]
                )
            fields = own.response
        try:
            return await self._begin(fields, self._caller, own.idempotency_key, self._turns)
        except ChatError:  # the specification: a turn that fails forgets what it went on from
            self._turns.forget(fields.get("previous_response_id"))
            raise

    async def _deliver(self, generation: Generation, after: int, stream_id: str | None) -> None:
        def frame(event: Event) -> bytes:
            return named(stream_id, event.body)

        wire = ResponseFormat(generation, after=after, frame=frame)
        with generation.follow(wire.start, pushing(wire, self._connection)) as reader:
            await deliver(generation, reader, wire, SocketSink(self._websocket))
        self._turns.end(generation)


class SocketSink(Sink):
    """A message per frame."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    async def write(self, frames: list[bytes]) -> None:
        try:
            for frame in frames:
                await self._websocket.send_text(frame.decode())
        except WebSocketDisconnect:
            raise ClientLeft from None

    async def end(self, frames: list[bytes]) -> None:
        await self.write(frames)


def named(stream_id: str | None, body: bytes) -> bytes:
    """An event's JSON with the id that its client gave the stream."""
    if stream_id is None:
        return body
    return body[:-1] + b',"stream_id":' + orjson.dumps(stream_id) + b"}"

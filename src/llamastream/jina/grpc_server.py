"""Jina's gRPC services on grpc.aio, in the loop of all other transports.

Every refusal and failure is a gRPC status with the error's message. A client that cancels, leaves
or runs out of time closes its stream at once.
"""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Coroutine
from functools import partial
from typing import Any

import grpc

from llamastream.api.deliver import Sink, deliver, pushing
from llamastream.api.http.access import LABEL
from llamastream.api.http.auth import authorization
from llamastream.api.http.body import off_loop
from llamastream.api.http.connections import HEAD_TIMEOUT_S, MAX_CONNECTIONS
from llamastream.api.http.idempotency import HEADER as IDEMPOTENCY_KEY
from llamastream.api.wire.format import Format
from llamastream.errors import ChatError, InternalError, InvalidRequest, NotFound, cut, quoted
from llamastream.generation import Generation
from llamastream.jina import small_calls, wire
from llamastream.jina.documents import ENDPOINT, FIELDS, PromptRequest
from llamastream.jina.format import DocumentFormat, OutputFields, finish_reason_of
from llamastream.jina.keys import Keys
from llamastream.jina.reading import NOTHING, Call, document_fields, read_call
from llamastream.jina.receiving import Context, Receiving
from llamastream.jina.service import StreamService
from llamastream.jina.small_calls import metadata

logger = logging.getLogger(__name__)

DEFAULT_PORT = 12345  # the article's
MAX_REQUEST_ID_CHARS = 128  # of what comes back with every token
LONG_BYTES = 4096  # takes a millisecond to read: more is read off the event loop

OPTIONS = (
    ("grpc.so_reuseport", 0),  # a port in use is an error, not a second server on it
    ("grpc.http2.bdp_probe", 0),  # would widen the window: see `receiving`
    ("grpc.http2.max_pings_without_data", 0),  # as many as `_keepalive` asks for
    # jina.Client pings every 10 s, also without calls. grpc would answer with GOAWAY.
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
)

STATUS_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}


class GrpcServer:
    """A server that listens. `port` is the bound one, also when 0 was asked for."""

    def __init__(self, server: grpc.aio.Server, port: int) -> None:
        self._server = server
        self.port = port

    async def stop(self, grace: float | None = None) -> None:
        """Refuse new calls, give running ones `grace` seconds to end, then cancel them."""
        await self._server.stop(grace)


async def serve_grpc(
    streams: StreamService,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    *,
    reader_timeout_s: float = 60.0,
    max_message_bytes: int = 4 << 20,
    max_connections: int = MAX_CONNECTIONS,
) -> GrpcServer:
    """Listen for jina clients. Who is silent for `reader_timeout_s` is disconnected.

    Raises OSError when the address cannot be had.
    """
    limits = (
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_allowed_incoming_connections", max_connections),
    )
    server = grpc.aio.server(options=(*OPTIONS, *limits, *_keepalive(reader_timeout_s)))
    receiving = Receiving()
    handlers = {
        # Bytes in and out: a message that cannot be parsed gets our answer, not grpc's.
        "jina.JinaSingleDocumentRequestRPC": {
            "stream_doc": small_calls.unread(partial(_stream_doc, streams, receiving))
        },
        **small_calls.jina_handlers(streams.ready),
    }
    handlers |= small_calls.health_handlers(streams.ready, tuple(handlers), receiving)
    handlers |= small_calls.reflection_handlers(tuple(handlers), streams.keys.require)
    for name, methods in handlers.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, methods),))
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        _check_free(host, port)
        bound = server.add_insecure_port(address)
    except (OSError, RuntimeError) as error:
        raise OSError(f"cannot listen for gRPC on {address}: {error}") from None
    await server.start()
    return GrpcServer(server, bound)


def _keepalive(reader_timeout_s: float) -> tuple[tuple[str, int], ...]:
    """A ping after half of the time, and the other half for its answer."""
    half_ms = round(reader_timeout_s * 500)
    return (
        ("grpc.keepalive_time_ms", half_ms),
        ("grpc.keepalive_timeout_ms", half_ms),
        ("grpc.http2.ping_timeout_ms", half_ms),  # else a minute where no call is open
        # Before that there are no pings.
        ("grpc.server_handshake_timeout_ms", min(2 * half_ms, round(HEAD_TIMEOUT_S * 1000))),
    )


def _check_free(host: str, port: int) -> None:
    """Raises OSError if not. grpc itself would also write lines of its own to stderr."""
    family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(where)


async def _stream_doc(
    streams: StreamService, receiving: Receiving, _: object, context: Context
) -> None:
    """One document in, the answer's documents out."""
    refusal = await _answer(streams, receiving, context)
    if refusal is not None:
        await _abort(refusal, context)


async def _answer(
    streams: StreamService, receiving: Receiving, context: Context
) -> ChatError | None:
    """What ended the call too early, without what it was about: grpc keeps an aborted call's frames
    until Python's collector comes by."""
    try:
        call, prompt = await _receive(streams.keys, receiving, context)
        generation, after = await streams.open(prompt)
        wire = _format(call, generation, after)
        sink = GrpcSink(context, generation)
        with generation.follow(wire.start, pushing(wire, sink.connection)) as reader:
            await deliver(generation, reader, wire, sink)
        return sink.failure
    except ChatError as error:
        return _bare(error)
    except Exception:
        logger.exception("stream_doc failed")
        return InternalError("internal error")


def _bare(error: ChatError) -> ChatError:
    error.__context__ = None
    return error.with_traceback(None)


async def _receive(
    keys: Keys, receiving: Receiving, context: Context
) -> tuple[Call, PromptRequest]:
    """The call's message, once its key is known or if it may hold it."""
    await keys.refresh()
    scope = keys.of_header(authorization(partial(metadata, context)))
    if scope is not None:
        message = await receiving.message(context)
    else:
        message = await receiving.strangers_message(context)
        scope = keys.of_message(message)
    call, fields = await off_loop(len(message) > LONG_BYTES, _read, message)
    label = call.request_id if LABEL.fullmatch(call.request_id) else ""
    return call, PromptRequest(fields, scope, metadata(context, IDEMPOTENCY_KEY), label)


def _read(message: bytes) -> tuple[Call, dict[str, object]]:
    try:
        call = read_call(message)
    except ValueError as error:
        raise InvalidRequest(
            f"the message must be a jina.SingleDocumentRequestProto in valid UTF-8: {error}."
        ) from None
    endpoint = call.endpoint or ENDPOINT
    if endpoint.strip("/") != ENDPOINT.strip("/"):
        raise NotFound(f"exec_endpoint must be {ENDPOINT}. Given: {quoted(endpoint)}.")
    try:
        fields = document_fields(call.document, FIELDS)
    except ValueError as error:
        raise InvalidRequest(f"document: {error}.") from None
    return call._replace(document=NOTHING), fields


def _format(call: Call, generation: Generation, after: int) -> DocumentFormat:
    response = wire.SingleDocumentRequest()
    response.header.request_id = cut(call.request_id, MAX_REQUEST_ID_CHARS)
    response.header.exec_endpoint = ENDPOINT

    def encode(fields: OutputFields) -> bytes:
        wire.set_fields(response.document, fields)
        return bytes(response.SerializeToString())

    def encode_error(error: ChatError) -> bytes:
        raise AssertionError("an error is the status of the call")

    return DocumentFormat(
        generation, after=after, encode=encode, encode_error=encode_error, last=[]
    )


class CallConnection:
    """Writes to a call from outside of its task: a message at a time, the next when grpc has taken
    the last. grpc.aio begins a write at the first step of its coroutine, so no task is needed."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._waiting: deque[bytes] = deque()
        self._writing: Coroutine[Any, None, None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_over = False  # grpc refused a message: the call has ended

    @property
    def lags(self) -> bool:
        return self._writing is not None or self._is_over

    def write_soon(self, body: bytes) -> None:
        self._waiting.append(body)
        if self._writing is None:
            self._begin()

    async def idle(self) -> None:
        """Return when nothing is being written."""
        await self._idle.wait()

    def _begin(self) -> None:
        self._idle.clear()
        self._writing = self._context.write(self._waiting.popleft())
        self._go_on()

    def _go_on(self, _: object = None) -> None:
        assert self._writing is not None
        try:
            waited_for = self._writing.send(None)
        except StopIteration:
            self._writing = None
        except (Exception, asyncio.CancelledError):  # the call's task will meet it as well
            self._writing, self._is_over = None, True
            self._waiting.clear()
        else:
            waited_for.add_done_callback(self._go_on)
            return
        if self._waiting:
            self._begin()
        else:
            self._idle.set()


class GrpcSink(Sink):
    """A message per document. The status, and the metadata behind, say how the answer ended."""

    def __init__(self, context: Context, generation: Generation) -> None:
        self.failure: ChatError | None = None  # that the call is to end with
        self.connection = self._connection = CallConnection(context)
        self._context = context
        self._generation = generation

    async def write(self, frames: list[bytes]) -> None:
        await self._connection.idle()
        for frame in frames:
            await self._context.write(frame)

    async def end(self, frames: list[bytes]) -> None:
        await self.write(frames)
        trailing = [("finish-reason", finish_reason_of(self._generation) or "")]
        usage = None if self._generation.end is None else self._generation.end.usage
        if usage is not None:
            trailing += [
                ("num-prompt-tokens", str(usage.num_prompt_tokens)),
                ("num-cached-tokens", str(usage.num_cached_tokens)),
                ("num-output-tokens", str(usage.num_output_tokens)),
            ]
        self._context.set_trailing_metadata(tuple(trailing))

    async def fail(self, error: ChatError, wire: Format) -> None:
        await self._connection.idle()
        self.failure = _bare(error)


async def _abort(error: ChatError, context: Context) -> None:
    trailing = [("error-code", error.code)]
    if error.param is not None:
        trailing.append(("error-param", error.param))
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        trailing.append(("retry-after", str(retry_after_s)))
    await context.abort(STATUS_CODES[error.status], error.message, tuple(trailing))

"""Our two Jina servers, on free ports of the loopback."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette

from llamastream.api.http.auth import KeyRing
from llamastream.api.http.errors import on_chat_error
from llamastream.api.http.transport import HttpProtocol
from llamastream.errors import ChatError
from llamastream.generation import StoredAnswers
from llamastream.jina.grpc_server import serve_grpc
from llamastream.jina.http_routes import jina_routes
from llamastream.jina.service import StreamService
from llamastream.keys import Keys
from tests.doubles.scripted_answers import ScriptedAnswers

KEY = "sesame"

MAX_BODY_BYTES = 4 << 20

Start = Callable[..., Awaitable[int]]
"""`await start(service, *keys)`: a server of its own; its port. The test's end stops it."""


@asynccontextmanager
async def grpc_port(
    service: ScriptedAnswers,
    ready: Callable[[], bool] | None = None,
    port: int = 0,
    stored: StoredAnswers | None = None,
    keys: tuple[str, ...] = (),
    **options: int,
) -> AsyncIterator[int]:
    server = await serve_grpc(_streams(service, ready, stored, keys), port=port, **options)
    try:
        yield server.port
    finally:
        await server.stop(0)


@asynccontextmanager
async def http_port(
    service: ScriptedAnswers,
    ready: Callable[[], bool] | None = None,
    stored: StoredAnswers | None = None,
    keys: tuple[str, ...] = (),
) -> AsyncIterator[int]:
    routes = jina_routes(_streams(service, ready, stored, keys), MAX_BODY_BYTES)
    app = Starlette(routes=routes, exception_handlers={ChatError: on_chat_error})
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http=HttpProtocol, log_config=None, lifespan="off"))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task


def _streams(
    service: ScriptedAnswers,
    ready: Callable[[], bool] | None,
    stored: StoredAnswers | None,
    keys: tuple[str, ...],
) -> StreamService:
    authorize = KeyRing(Keys(keys)).scope_of_header
    streams = StreamService(service, authorize, stored)  # type: ignore[arg-type]
    streams.ready = ready or streams.ready
    return streams


class Readiness:
    """Whether the engine is ready, as the test sets it."""

    value = True

    def __call__(self) -> bool:
        return self.value

"""A real uvicorn on a free port, in the test's own event loop."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.types import ASGIApp

from llamastream.api.app import create_app, keys_of
from llamastream.api.http.auth import KeyRing
from llamastream.api.http.connections import Connections
from llamastream.api.http.transport import HttpProtocol
from llamastream.api.http.websocket import WebSocketProtocol
from llamastream.config import ServeSettings
from llamastream.generation import Answers, StoredAnswers
from llamastream.jina.http_routes import jina_routes
from llamastream.jina.service import StreamService


@asynccontextmanager
async def running_server(
    answers: Answers,
    settings: ServeSettings | None = None,
    stored: StoredAnswers | None = None,
    connections: Connections | None = None,
) -> AsyncIterator[str]:
    """Serve `answers`; yields the base URL."""
    settings = settings or ServeSettings()
    keys = answers.quotas.keys if answers.quotas.keys.are_required else keys_of(settings)
    ring = KeyRing(keys)
    streams = StreamService(answers, ring.scope_of_header, stored, ring.refresh)
    routes = jina_routes(streams, settings.max_body_bytes)
    async with serving(create_app(answers, settings, stored, routes, ring, connections)) as url:
        yield url


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[str]:
    """The same for any application. All connections are closed at the end."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    config = uvicorn.Config(
        app, http=HttpProtocol, ws=WebSocketProtocol, log_config=None, lifespan="on"
    )
    server = uvicorn.Server(config)
    # What `serve` does, but for its sleeps of 0.1 s and its signal handlers.
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listener])
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield url
    finally:
        for listening in server.servers:
            listening.close()
        for connection in list(server.server_state.connections):
            connection.shutdown()
        for task in server.server_state.tasks:
            task.cancel()
        await asyncio.gather(*server.server_state.tasks, return_exceptions=True)
        await server.lifespan.shutdown()

"""A real uvicorn on a free port, in the test's own event loop."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn

from llamastream.config import ServeSettings
from llamastream.server.app import create_app
from llamastream.service import ChatService


@asynccontextmanager
async def running_server(
    service: ChatService, settings: ServeSettings | None = None
) -> AsyncIterator[str]:
    """Serve `service`; yields the base URL. All connections are closed at the end."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app(service, settings or ServeSettings())
    config = uvicorn.Config(app, http="httptools", log_config=None, lifespan="on")
    config.timeout_graceful_shutdown = 1
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task

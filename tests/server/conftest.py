"""A running server per test, on an engine that a test scripts."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from llamastream.config import ServeSettings
from llamastream.service.responses import StorePolicy
from tests.doubles.engine import FakeEngine
from tests.doubles.server import running_server
from tests.doubles.service import make_responses, make_service

Connect = Callable[..., Awaitable[httpx.AsyncClient]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """`await connect(engine, settings)`: an HTTP client of a new server."""
    async with AsyncExitStack() as stack:

        async def start(
            engine: FakeEngine, settings: ServeSettings | None = None
        ) -> httpx.AsyncClient:
            url = await stack.enter_async_context(running_server(make_service(engine), settings))
            client = httpx.AsyncClient(base_url=url, timeout=10)
            return await stack.enter_async_context(client)

        yield start


@pytest.fixture
async def connect_stored(tmp_path: Path) -> AsyncIterator[Connect]:
    """`await connect_stored(engine, settings, policy)`: the same, with a store."""
    async with AsyncExitStack() as stack:

        async def start(
            engine: FakeEngine,
            settings: ServeSettings | None = None,
            policy: StorePolicy | None = None,
        ) -> httpx.AsyncClient:
            service = make_service(engine)
            responses = make_responses(service, tmp_path, policy)
            url = await stack.enter_async_context(running_server(service, settings, responses))
            client = httpx.AsyncClient(base_url=url, timeout=10)
            return await stack.enter_async_context(client)

        yield start

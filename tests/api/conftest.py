"""A running server per test, on an engine that a test scripts."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import httpx
import openai
import pytest

from llamastream.api.app import keys_of
from llamastream.api.http.connections import Connections
from llamastream.config import ServeSettings
from llamastream.generation import StorePolicy
from tests.doubles.engine import FakeEngine
from tests.doubles.server import running_server
from tests.doubles.service import make_responses, make_service
from tests.doubles.tokenizer import CHATML
from tests.doubles.waiting import LIMIT_S

Connect = Callable[..., Awaitable[httpx.AsyncClient]]


@pytest.fixture
async def connect_stored(tmp_path: Path) -> AsyncIterator[Connect]:
    """`await connect_stored(engine, settings, policy)`: an HTTP client of a new server."""
    async with AsyncExitStack() as stack:

        async def start(
            engine: FakeEngine,
            settings: ServeSettings | None = None,
            policy: StorePolicy | None = None,
            *,
            is_stored: bool = True,
            template: str = CHATML,
            connections: Connections | None = None,
        ) -> httpx.AsyncClient:
            keys = keys_of(settings or ServeSettings())
            service = make_service(engine, keys=keys, template=template)
            responses = make_responses(service, tmp_path, policy) if is_stored else None
            url = await stack.enter_async_context(
                running_server(service, settings, responses, connections)
            )
            client = httpx.AsyncClient(base_url=url, timeout=LIMIT_S)
            return await stack.enter_async_context(client)

        yield start


@pytest.fixture
def connect(connect_stored: Connect) -> Connect:
    """The same without a store."""
    return partial(connect_stored, is_stored=False)


def openai_client(server: httpx.AsyncClient, key: str = "EMPTY") -> openai.AsyncOpenAI:
    """The official client of the same server."""
    return openai.AsyncOpenAI(base_url=f"{server.base_url}/v1", api_key=key, max_retries=0)

"""The servers under test."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.doubles.jina_servers import Readiness, Start, grpc_port, http_port


@pytest.fixture
def ready() -> Readiness:
    return Readiness()


@pytest.fixture
async def start_grpc(ready: Readiness) -> AsyncIterator[Start]:
    async with AsyncExitStack() as servers:
        yield lambda service, *keys: servers.enter_async_context(
            grpc_port(service, ready, keys=keys)
        )


@pytest.fixture
async def start_http(ready: Readiness) -> AsyncIterator[Start]:
    async with AsyncExitStack() as servers:
        yield lambda service, *keys: servers.enter_async_context(
            http_port(service, ready, keys=keys)
        )

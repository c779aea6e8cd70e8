"""`serve` opens the port for jina clients beside its own."""

import socket
from collections.abc import Iterator

import pytest
from tests.doubles.engine import FakeEngine
from tests.doubles.service import make_service, says

from llamastream.cli.serve import _serve_grpc
from llamastream.config import ServeSettings
from llamastream.errors import ConfigError
from llamastream.jina.service import StreamService


@pytest.fixture
def taken_port() -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    yield listener.getsockname()[1]
    listener.close()


def streams() -> StreamService:
    return StreamService(make_service(FakeEngine(says("a"))), lambda _: "")


async def test_free_port_is_taken_and_named() -> None:
    server, said = await _serve_grpc(streams(), ServeSettings(grpc_port=0))
    assert server is not None
    assert said.endswith(f":{server.port}")
    await server.stop(0)


async def test_port_that_was_asked_for_must_be_free(taken_port: int) -> None:
    with pytest.raises(ConfigError, match=f"{taken_port}.*--grpc-port"):
        await _serve_grpc(streams(), ServeSettings(grpc_port=taken_port))


async def test_second_server_goes_without_the_default_port(
    taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamastream.jina.grpc_server.DEFAULT_PORT", taken_port)
    server, said = await _serve_grpc(streams(), ServeSettings())
    assert server is None
    assert f"port {taken_port} is in use" in said

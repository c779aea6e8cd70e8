"""`serve` opens the port for jina clients beside its own."""

import socket

import pytest
from tests.doubles.engine import FakeEngine
from tests.doubles.service import make_service, says

from llamastream.cli.serve import _serve_grpc
from llamastream.config import ServeSettings
from llamastream.errors import ConfigError
from llamastream.server.jina import grpc_server


@pytest.fixture
def taken_port() -> int:
    listener = socket.create_server(("127.0.0.1", 0))
    yield listener.getsockname()[1]
    listener.close()


async def test_free_port_is_taken_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    server = await _serve_grpc(make_service(FakeEngine(says("a"))), ServeSettings(grpc_port=0))
    assert server is not None
    assert str(server.port) in capsys.readouterr().out
    await server.stop(0)


async def test_port_that_was_asked_for_must_be_free(taken_port: int) -> None:
    with pytest.raises(ConfigError, match=f"{taken_port}.*--grpc-port"):
        await _serve_grpc(make_service(FakeEngine(says("a"))), ServeSettings(grpc_port=taken_port))


async def test_default_port_in_use_is_a_warning(
    taken_port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("llamastream.cli.serve.DEFAULT_PORT", taken_port)
    assert await _serve_grpc(make_service(FakeEngine(says("a"))), ServeSettings()) is None
    assert "--grpc-port" in caplog.text
    assert grpc_server.DEFAULT_PORT == 12345

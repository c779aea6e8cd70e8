"""From a command to a first token: asked until it answers, and always stopped again."""

import asyncio
import json
import shlex
import socket
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llamastream.bench.errors import BenchError
from llamastream.bench.probe import parse_server
from llamastream.bench.startup import StartedServer, run_starts, start_once
from llamastream.cli.bench import bench

SCRIPT = str(Path(__file__).parent / "slow_starter.py")


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def starter(port: int, how: str, name: str = "it") -> StartedServer:
    command = (sys.executable, SCRIPT, str(port), how)
    return StartedServer(command, parse_server(f"{name}=http://127.0.0.1:{port}"))


async def listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def test_a_server_that_is_still_loading_is_asked_again(port: int) -> None:
    elapsed_s = await start_once(starter(port, "2"))
    assert elapsed_s > 0
    assert not await listens(port)


async def test_servers_start_in_turn_and_the_first_round_is_not_counted(
    port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    servers = [starter(port, "0", "A"), starter(port, "0", "B")]
    found = await run_starts(servers, rounds=1)
    log = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in log] == ["start A", "start B"] * 2
    assert list(found) == ["A", "B"]
    assert found["A"].low == found["A"].high > 0


async def test_a_server_that_ends_is_an_error_with_its_code(port: int) -> None:
    with pytest.raises(BenchError, match="it ended with code 3 before its first token"):
        await start_once(starter(port, "fail"))


async def test_a_server_that_never_gets_ready_is_given_up_and_stopped(port: int) -> None:
    with pytest.raises(BenchError, match=r"it gave no token in 0\.5 s"):
        await start_once(starter(port, "100000"), timeout_s=0.5)
    assert not await listens(port)


async def test_a_port_in_use_is_refused_before_anything_starts(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)):
        with pytest.raises(BenchError, match=f"127.0.0.1:{port} is in use"):
            await start_once(starter(port, "0"))


async def test_a_command_that_does_not_exist_is_named(port: int) -> None:
    missing = StartedServer(("no-such-server",), parse_server(f"http://127.0.0.1:{port}"))
    with pytest.raises(BenchError, match="cannot run no-such-server: No such file"):
        await start_once(missing)


def test_command_ends_on_one_line_of_json(port: int) -> None:
    command = shlex.join([f"it=http://127.0.0.1:{port}", *starter(port, "0").command])
    result = CliRunner().invoke(bench, ["start", "--server", command, "--rounds", "1"])
    lines = result.stdout.splitlines()
    assert lines[0].startswith("it: ")
    assert json.loads(lines[-1])["seconds"]["it"]["median"] > 0

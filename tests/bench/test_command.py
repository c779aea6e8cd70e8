"""What `llamastream bench` prints, and in which order."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from scripted_server import Request, ScriptedServer, answer_json, serving, stream
from typer.testing import CliRunner

from llamastream.bench.errors import BenchError
from llamastream.cli.bench import bench

SMALL = "--concurrency 1,2 --prompt-tokens 8 --output-tokens 3 --prefill-tokens 0 --rounds 1"


class Background:
    """A scripted server on a thread of its own: the command runs its own event loop."""

    def __init__(self, server: ScriptedServer) -> None:
        self._server = server
        self._started = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),))

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with serving(self._server):
            self._started.set()
            await self._stop.wait()

    def start(self) -> str:
        self._thread.start()
        self._started.wait()
        return self._server.url

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    server = ScriptedServer(stream)
    background = Background(server)
    background.start()
    yield server
    background.stop()


def online(*arguments: str) -> Result:
    return CliRunner().invoke(bench, ["online", *SMALL.split(), *arguments])


def test_tables_then_pictures_then_one_line_of_json(server: ScriptedServer, tmp_path: Path) -> None:
    result = online("--url", f"it={server.url}", "--plots", str(tmp_path))
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("Speed")
    assert lines[-3:-1] == [str(tmp_path / "throughput.png"), str(tmp_path / "latency.png")]
    assert (tmp_path / "latency.png").exists()
    assert [cell["server"] for cell in json.loads(lines[-1])["cells"]] == ["it", "it"]
    assert "round 1/1: 2 streams, it" in result.stderr.splitlines()
    assert not any(line.startswith("round") for line in lines)


def test_server_is_asked_as_the_options_say(server: ScriptedServer) -> None:
    assert online("--url", server.url, "--api", "chat", "--no-ignore-eos").exit_code == 0
    assert {request.path for request in server.requests} == {"/v1/chat/completions"}
    assert not any("ignore_eos" in request.body for request in server.requests)


def test_failed_cell_is_reported_and_makes_the_run_fail(server: ScriptedServer) -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.body["max_tokens"] == 3:  # the measured ones
            await answer_json(writer, {"error": {"message": "full"}}, status=429)
        else:
            await stream(request, writer)

    server.script = script
    result = online("--url", server.url)
    assert result.exit_code == 1
    error = json.loads(result.stdout.splitlines()[-1])["cells"][0]["error"]
    assert "4 of 4 requests failed: the server answered 429: full" in error


def test_plots_that_cannot_be_drawn_are_refused_before_anything_is_measured(
    server: ScriptedServer, tmp_path: Path
) -> None:
    result = online("--url", server.url, "--concurrency", "2", "--plots", str(tmp_path))
    assert isinstance(result.exception, BenchError)
    assert "at least two values of concurrency" in str(result.exception)
    assert server.requests == []

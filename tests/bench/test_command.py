"""What `llamastream bench` prints, and in which order."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_server import Request, ScriptedServer, answer_json, serving, stream

from llamastream.bench.command import bench_online
from llamastream.bench.errors import BenchError
from llamastream.bench.online import OnlineOptions
from llamastream.bench.workload import Plan

PLAN = Plan(concurrency=(1, 2), prompt_tokens=8, output_tokens=3, prefill_tokens=0)


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


def test_tables_then_pictures_then_one_line_of_json(
    server: ScriptedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = OnlineOptions((f"it={server.url}",), PLAN.workloads(), rounds=1)
    assert bench_online(options, plots=tmp_path)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("Speed")
    assert lines[-3:-1] == [str(tmp_path / "throughput.png"), str(tmp_path / "latency.png")]
    assert (tmp_path / "latency.png").exists()
    assert [cell["server"] for cell in json.loads(lines[-1])["cells"]] == ["it", "it"]
    assert "round 1/1: 2 streams, it" in err.splitlines()
    assert not any(line.startswith("round") for line in lines)


def test_failed_cell_is_reported_and_makes_the_run_fail(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.body["max_tokens"] == 3:  # the measured ones
            await answer_json(writer, {"error": {"message": "full"}}, status=429)
        else:
            await stream(request, writer)

    server.script = script
    assert not bench_online(OnlineOptions((server.url,), PLAN.workloads(), rounds=1))
    lines = capsys.readouterr().out.splitlines()
    assert (
        "4 of 4 requests failed: the server answered 429: full"
        in json.loads(lines[-1])["cells"][0]["error"]
    )


def test_plots_that_cannot_be_drawn_are_refused_before_anything_is_measured(
    server: ScriptedServer, tmp_path: Path
) -> None:
    workloads = Plan(concurrency=(2,)).workloads()
    with pytest.raises(BenchError, match="at least two values of concurrency"):
        bench_online(OnlineOptions((server.url,), workloads), plots=tmp_path)
    assert server.requests == []

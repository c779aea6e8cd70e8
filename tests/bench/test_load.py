"""Load on a scripted server: who is asked when, and every way in which an answer can fail."""

import asyncio
from urllib.parse import urlsplit

import pytest
from scripted_server import (
    Request,
    ScriptedServer,
    answer_json,
    end_stream,
    prompt_of,
    send_tokens,
    serving,
    start_stream,
    stream,
)

from llamastream.bench.errors import ServerFailed
from llamastream.bench.load import LoadResult, Target, run_workload
from llamastream.bench.openai import RequestOptions
from llamastream.bench.workload import Workload


async def load(
    server: ScriptedServer,
    workload: Workload,
    options: RequestOptions | None = None,
    api_key: str | None = None,
) -> LoadResult:
    target = Target("t", urlsplit(f"{server.url}/v1"), "m", api_key)
    return await run_workload(target, options or RequestOptions(), workload, seed="test")


def closed(streams: int, num_requests: int, background: int = 0) -> Workload:
    return Workload("w", 6, 3, num_requests, concurrency=streams, background=background)


async def test_closed_loop_keeps_so_many_streams_and_no_more() -> None:
    full = asyncio.Event()

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        if server.num_active == 4:
            full.set()
        await full.wait()  # nobody is answered before four have asked
        await stream(request, writer)

    server = ScriptedServer(script)
    async with serving(server):
        result = await load(server, closed(4, 12))
    assert server.max_active == 4
    assert len(server.requests) == 12
    assert len({prompt_of(request) for request in server.requests}) == 12
    assert [outcome.error for outcome in result.measured] == [None] * 12
    assert {o.timeline.num_output_tokens for o in result.measured if o.timeline} == {3}


async def test_open_loop_sends_without_waiting_for_answers_and_counts_from_the_due_time() -> None:
    all_sent = asyncio.Event()

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) == 5:
            all_sent.set()
        await all_sent.wait()
        await stream(request, writer)

    server = ScriptedServer(script)
    async with serving(server):
        workload = Workload("w", 6, 3, 5, request_rate=200.0)
        result = await load(server, workload)
    due_s = [outcome.sent_s for outcome in result.measured]
    assert due_s == sorted(due_s)
    firsts = [o.timeline.token_times_s[0] for o in result.measured if o.timeline]
    assert len(firsts) == 5 and min(firsts) > max(due_s)


@pytest.mark.parametrize("api", ["chat", "completions"])
async def test_request_carries_what_was_asked_for(api: str) -> None:
    server = ScriptedServer(stream)
    async with serving(server):
        options = RequestOptions(api=api)  # type: ignore[arg-type]
        await load(server, closed(1, 1), options, api_key="secret")
    (request,) = server.requests
    assert request.path == ("/v1/chat/completions" if api == "chat" else "/v1/completions")
    assert request.headers["authorization"] == "Bearer secret"
    assert len(prompt_of(request).split()) == 6


async def error_of(script, options: RequestOptions | None = None) -> str:  # type: ignore[no-untyped-def]
    server = ScriptedServer(script)
    async with serving(server):
        result = await load(server, closed(1, 1), options)
    (outcome,) = result.measured
    assert outcome.timeline is None
    assert outcome.error is not None
    return outcome.error


async def test_server_that_refuses_is_quoted() -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        await answer_json(writer, {"error": {"message": "queue full"}}, status=429)

    assert await error_of(script) == "the server answered 429: queue full"


async def test_server_that_dies_in_the_middle_is_an_error() -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        await start_stream(writer)
        await send_tokens(writer, 2)
        writer.transport.abort()

    assert "broke off after" in await error_of(script)


async def test_server_that_hangs_up_at_once_is_an_error() -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        pass

    assert await error_of(script) == "the server closed the connection without an answer"


async def test_server_of_another_protocol_is_an_error() -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ready\r\n\r\n")

    assert "not a sound HTTP answer" in await error_of(script)


async def test_server_that_never_ends_is_given_up() -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        await start_stream(writer)
        await send_tokens(writer, 2)
        await writer.wait_closed()

    error = await error_of(script, RequestOptions(timeout_s=0.05))
    assert error == "the answer had not ended after 0.05 s"


async def test_nobody_listening_is_an_error() -> None:
    server = ScriptedServer(stream)
    async with serving(server):
        pass
    (outcome,) = (await load(server, closed(1, 1))).measured
    assert outcome.error is not None
    assert outcome.error.startswith(f"cannot connect to 127.0.0.1:{server.port}")


class Beside:
    """Background streams (recognised by their length) go on until told otherwise; the measured
    requests are answered at once."""

    def __init__(self) -> None:
        self.num_background = 0
        self.started_before_measured: list[int] = []
        self.measuring = asyncio.Event()

    async def script(self, request: Request, writer: asyncio.StreamWriter) -> None:
        if request.body["max_tokens"] == 3:
            self.started_before_measured.append(self.num_background)
            self.measuring.set()
            await stream(request, writer)
            return
        await start_stream(writer)
        await send_tokens(writer, 2)
        self.num_background += 1
        await self.go_on(writer)

    async def go_on(self, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            await send_tokens(writer, 1)
            await asyncio.sleep(0.001)  # the pace of the simulated server


async def test_background_streams_run_first_and_are_cut_at_the_end() -> None:
    beside = Beside()
    server = ScriptedServer(beside.script)
    async with serving(server):
        result = await load(server, closed(1, 2, background=3))
    assert beside.started_before_measured == [3, 3]
    assert [outcome.error for outcome in result.background] == [None] * 3
    counts = [len(o.timeline.token_times_s) for o in result.background if o.timeline]
    assert len(counts) == 3 and min(counts) >= 2


async def test_background_streams_ask_again_when_they_are_answered() -> None:
    class Short(Beside):
        async def go_on(self, writer: asyncio.StreamWriter) -> None:
            await end_stream(writer)

    beside = Short()
    server = ScriptedServer(beside.script)
    async with serving(server):
        await load(server, closed(1, 30, background=1))
    prompts = [prompt_of(r) for r in server.requests if r.body["max_tokens"] > 3]
    assert len(prompts) > 1
    assert len(set(prompts)) == len(prompts)


async def test_background_stream_that_fails_early_stops_the_workload() -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        await answer_json(writer, {"error": {"message": "no room"}}, status=503)

    server = ScriptedServer(script)
    async with serving(server):
        with pytest.raises(ServerFailed, match="503: no room"):
            await load(server, closed(1, 1, background=2))


async def test_background_stream_that_dies_later_is_an_error() -> None:
    class Dying(Beside):
        async def go_on(self, writer: asyncio.StreamWriter) -> None:
            await self.measuring.wait()
            writer.transport.abort()

    server = ScriptedServer(Dying().script)
    async with serving(server):
        result = await load(server, closed(1, 20, background=1))
    (outcome,) = result.background
    assert outcome.error is not None and "broke off" in outcome.error

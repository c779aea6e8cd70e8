"""Servers side by side: the order of asking, fair prompts, ratios, and servers that fail."""

import asyncio
from dataclasses import replace

import pytest
import reports
from scripted_server import (
    Request,
    ScriptedServer,
    answer_json,
    end_stream,
    prompt_of,
    send_event,
    send_tokens,
    serving,
    start_stream,
    stream,
)

from llamastream.bench.errors import BenchError
from llamastream.bench.machine import Bounds
from llamastream.bench.online import OnlineOptions, OnlineReport, ratios, run_online, with_shares
from llamastream.bench.openai import RequestOptions
from llamastream.bench.probe import parse_server
from llamastream.bench.roofline import Roofline
from llamastream.bench.workload import Workload

ONE = Workload("one", 40, 3, 1, concurrency=1)
TWO = Workload("two", 50, 4, 2, concurrency=2)


async def run(
    *servers: ScriptedServer, workloads: tuple[Workload, ...] = (ONE,), rounds: int = 1
) -> OnlineReport:
    urls = tuple(f"{server.name}={server.url}" for server in servers)
    return await measure(OnlineOptions(urls, workloads, rounds))


async def measure(options: OnlineOptions) -> OnlineReport:
    return await run_online(options, bounds=lambda: Bounds(5e9, 1e12))


async def test_servers_alternate_within_every_round() -> None:
    log: list[str] = []
    a, b = (ScriptedServer(stream, name, log=log) for name in "AB")
    async with serving(a), serving(b):
        await run(a, b, workloads=(ONE, TWO), rounds=3)
    probes, warm_ups, measured = log[:2], log[2:6], log[6:]
    assert probes == ["A", "B"]
    assert warm_ups == ["A", "A", "B", "B"]
    assert "".join(measured) == "ABAABB" * 3


async def test_all_servers_get_the_same_prompts_and_no_round_repeats_one() -> None:
    a, b = ScriptedServer(stream, "A"), ScriptedServer(stream, "B")
    async with serving(a), serving(b):
        await run(a, b, workloads=(ONE, TWO), rounds=2)
        await run(a, rounds=2)
    prompts_a = [prompt_of(request) for request in a.requests]
    prompts_b = [prompt_of(request) for request in b.requests]
    assert sorted(prompts_a[: len(prompts_b)]) == sorted(prompts_b)
    beginnings = [tuple(prompt.split()[1:9]) for prompt in prompts_a]
    assert len(set(beginnings)) == len(beginnings)


async def test_prompts_are_shortened_by_what_the_server_adds() -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        await start_stream(writer)
        await send_tokens(writer, 2)
        await end_stream(writer, usage=(len(prompt_of(request).split()) + 12, 2))

    server = ScriptedServer(script)
    async with serving(server):
        report = await run(server)
    assert len(prompt_of(server.requests[-1]).split()) == 40 - 12
    assert report.cells[0].rounds[0].num_prompt_tokens == 40


async def test_server_without_usage_is_counted_by_chunks() -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        await start_stream(writer)
        await send_tokens(writer, request.body["max_tokens"])
        await end_stream(writer)

    server = ScriptedServer(script)
    async with serving(server):
        report = await run(server)
    (summary,) = report.cells[0].rounds
    assert (summary.counted_by, summary.num_output_tokens) == ("chunks", 3)
    assert len(prompt_of(server.requests[-1]).split()) == 40


async def test_cell_that_fails_keeps_its_error_and_the_rest_goes_on() -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.body["max_tokens"] == TWO.output_tokens:
            await start_stream(writer)
            await send_event(writer, {"error": {"message": "out of memory"}})
        else:
            await stream(request, writer)

    good, bad = ScriptedServer(stream, "good"), ScriptedServer(script, "bad")
    async with serving(good), serving(bad):
        report = await run(good, bad, workloads=(ONE, TWO), rounds=2)
    cells = {(cell.server, cell.workload.name): cell for cell in report.cells}
    failed = cells["bad", "two"]
    assert failed.rounds == []
    assert failed.error is not None and "2 of 2 requests failed" in failed.error
    assert "out of memory" in failed.error
    assert [len(cell.rounds) for cell in report.cells] == [2, 2, 2, 0]
    assert report.failed
    assert {ratio.workload for ratio in ratios(report)} == {"one"}


async def test_ratio_is_taken_within_each_round() -> None:
    a, b = ScriptedServer(stream, "A"), ScriptedServer(stream, "B")
    async with serving(a), serving(b):
        report = await run(a, b, rounds=3)
    first, other = report.cells
    (base,) = first.rounds[:1]
    # The machine slows down threefold; A stays twice, twice and four times as fast as B.
    first.rounds[:] = [replace(base, values={"output_tok_s": s}) for s in (60.0, 40.0, 40.0)]
    other.rounds[:] = [replace(base, values={"output_tok_s": s}) for s in (30.0, 20.0, 10.0)]
    (found,) = [r for r in ratios(report) if r.metric == "output_tok_s"]
    assert (found.server, found.spread) == ("B", (2.0, 2.0, 4.0))
    assert not report.failed


async def test_nobody_at_the_url_is_said_before_anything_is_measured() -> None:
    server = ScriptedServer(stream, "gone")
    async with serving(server):
        pass
    with pytest.raises(BenchError, match=r"gone: nothing accepts connections at 127\.0\.0\.1:"):
        await run(server)


async def test_server_that_is_no_openai_server_is_said_at_once() -> None:
    class Other(ScriptedServer):
        async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            await answer_json(writer, *self.answer)
            writer.close()

    for answer, message in (
        (({"hello": "world"},), "is no OpenAI list of models"),
        (({}, 404), "answered 404. Is this an OpenAI-compatible base URL"),
        (({}, 503), "still loading"),
    ):
        other = Other(stream)
        other.answer = answer  # type: ignore[attr-defined]
        async with serving(other):
            with pytest.raises(BenchError, match=message):
                await run(other)


async def test_refused_ignore_eos_names_the_way_out() -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        if "ignore_eos" in request.body:
            error = {"error": {"message": "Unknown parameter: ignore_eos."}}
            await answer_json(writer, error, status=400)
        else:
            await stream(request, writer)

    server = ScriptedServer(script)
    async with serving(server):
        with pytest.raises(BenchError, match="Give --no-ignore-eos"):
            await run(server)
        options = OnlineOptions((server.url,), (ONE,), 1, request=RequestOptions(ignore_eos=False))
        assert not (await measure(options)).failed


async def test_failed_warm_up_stops_the_run() -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) == 1:  # the probe
            await stream(request, writer)
        else:
            await answer_json(writer, {"error": {"message": "full"}}, status=429)

    server = ScriptedServer(script)
    async with serving(server):
        with pytest.raises(BenchError, match="2 of 2 requests failed: the server answered 429"):
            await run(server, workloads=(TWO,))


@pytest.mark.parametrize(
    ("text", "name", "url"),
    [
        ("http://h:1", "h:1", "http://h:1/v1"),
        ("ours=http://h:1/", "ours", "http://h:1/v1"),
        ("https://h/api/v2?a=b", "h", "https://h/api/v2?a=b"),
        ("http://h:1/v1/", "h:1", "http://h:1/v1"),
    ],
)
def test_url_may_have_a_name_and_gets_v1(text: str, name: str, url: str) -> None:
    server = parse_server(text)
    assert (server.name, server.url.geturl()) == (name, url)


@pytest.mark.parametrize("text", ["127.0.0.1:8000", "ftp://h", "a=", "http://"])
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(BenchError, match="url must be like"):
        parse_server(text)


async def test_two_servers_of_one_name_are_refused() -> None:
    options = OnlineOptions(("a=http://h:1", "a=http://h:2"), (ONE,))
    with pytest.raises(BenchError, match="different names"):
        await measure(options)


def test_shares_of_the_machines_bounds_follow_from_the_decode_speed() -> None:
    document = reports.report({"A": ((100,), (100,)), "B": ((100,), (100,))}, (1, 8))
    work = Roofline(1e6, 1000, num_layer_weights=400_000, num_head_weights=100_000)
    document.options = replace(document.options, roofline=work)
    streams = document.cells[-1].workload
    ours = with_shares(reports.summary(100), streams, document, is_first=True)
    theirs = with_shares(reports.summary(100), streams, document, is_first=False)
    # 4 requests of 64 + 128 tokens; 110 tokens/s are 110 / 8 steps/s of 8 streams.
    read_bytes = 1e6 + 8 * 1000 * (64 + 128 / 2)
    assert ours.values["memory_percent"] == pytest.approx(100 * read_bytes * 110 / 8 / 50e9)
    assert ours.values["compute_percent"] == pytest.approx(100 * 2 * 500_000 * 110 / 1.9e12)
    assert "memory_percent" not in theirs.values  # the size of its weights is not known
    assert theirs.values["compute_percent"] == ours.values["compute_percent"]

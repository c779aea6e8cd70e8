"""Online reports with given numbers, for the tests of tables, JSON and plots."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from llamastream.bench.load import Target
from llamastream.bench.machine import Bounds
from llamastream.bench.online import Cell, OnlineOptions, OnlineReport
from llamastream.bench.summary import Summary
from llamastream.bench.workload import plan
from llamastream.config import BenchSettings, LoadSettings

BOUNDS = (Bounds(40e9, 2e12), Bounds(60e9, 1.8e12), Bounds(50e9, 1.9e12))


def summary(speed: float, counted_by: str = "usage", num_short: int = 0) -> Summary:
    latencies = {
        f"{name}_ms.p{quantile}": times * 1e3 / speed
        for name in ("ttft", "itl", "e2e")
        for times, quantile in enumerate((50, 90, 99), 1)
    }
    return Summary(
        num_requests=4,
        num_short=num_short,
        num_prompt_tokens=256,
        num_output_tokens=512,
        counted_by=counted_by,  # type: ignore[arg-type]
        duration_s=512 / speed,
        values={"output_tok_s": speed, "decode_tok_s": speed * 1.1, **latencies},
    )


def report(
    speeds: dict[str, Sequence[Sequence[float]]], concurrency: tuple[int, ...] = (1, 8, 32)
) -> OnlineReport:
    """`speeds[server][c]` are the rounds' tokens per second at concurrency c."""
    settings = BenchSettings(concurrency=concurrency, prefill_tokens=0)
    workloads = plan(settings, LoadSettings())
    rounds = len(next(iter(speeds.values()))[0])
    urls = tuple(f"{name}=http://127.0.0.1:{port}" for port, name in enumerate(speeds, 8000))
    cells = [
        Cell(workload, name, [summary(speed) for speed in speeds[name][number]])
        for number, workload in enumerate(workloads)
        for name in speeds
    ]
    targets = [
        Target(name, urlsplit(url.partition("=")[2] + "/v1"), "m")
        for name, url in zip(speeds, urls, strict=True)
    ]
    options = OnlineOptions(urls, workloads, rounds)
    return OnlineReport(options, tuple(targets), tuple(cells), BOUNDS)

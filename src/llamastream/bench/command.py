"""`llamastream bench` without its flags: run, show the tables, draw, end on one line of JSON.

Progress goes to stderr, so that stdout can be kept as it is.
"""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import orjson
import uvloop
from rich.console import Console, RenderableType

from llamastream.bench import offline_report, online_report
from llamastream.bench.offline import OfflineOptions, run_offline
from llamastream.bench.online import OnlineOptions, run_online
from llamastream.bench.plots import check_can_draw, draw
from llamastream.bench.roofline import Traffic
from llamastream.bench.startup import StartedServer, StartOptions, run_starts
from llamastream.config import EngineConfig
from llamastream.engine.runner import Runner

PIPED_WIDTH = 160  # columns of a table that no terminal limits


def bench_online(options: OnlineOptions, *, plots: Path | None = None) -> bool:
    """Measure the servers and print the report; True if every cell has its numbers.

    `plots` is the folder for the pictures. Raises BenchError before the first measurement.
    """
    if plots is not None:
        check_can_draw(options.workloads)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(run_online(options, _progress))
    _show(online_report.render(report))
    if plots is not None:
        for path in draw(report, plots):
            print(path)
    print(online_report.to_json(report), flush=True)
    return not report.failed


def bench_offline(
    runner: Runner, config: EngineConfig, traffic: Traffic, options: OfflineOptions
) -> None:
    """Measure an engine on this runner and print the report. Raises BenchError."""
    report = run_offline(runner, config, traffic, options, _progress)
    _show(offline_report.render(report))
    print(offline_report.to_json(report), flush=True)


def bench_starts(servers: Sequence[StartedServer], options: StartOptions) -> None:
    """Start each server several times and print the seconds to its first token."""
    found = asyncio.run(run_starts(servers, options, _progress))
    for name, (median, low, high) in found.items():
        print(f"{name}: {median:.2f} s from start to first token ({low:.2f}-{high:.2f})")
    seconds = {name: spread._asdict() for name, spread in found.items()}
    print(orjson.dumps({"benchmark": "start", "seconds": seconds}).decode(), flush=True)


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _show(report: RenderableType) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    console.print(report)

"""Servers side by side: every workload on every server in turn, round after round.

The machine drifts (neighbours, clocks), so servers alternate within a round and ratios are taken
per round: A, B, A, B, ... The first server is the one the others are compared with.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from llamastream.bench.console import progress
from llamastream.bench.errors import BenchError, ServerFailed
from llamastream.bench.load import Target, run_workload
from llamastream.bench.machine import Bounds, measure_bounds
from llamastream.bench.openai import RequestOptions
from llamastream.bench.probe import parse_server, probe
from llamastream.bench.roofline import Roofline
from llamastream.bench.summary import METRICS, Spread, Summary, spread, summarize
from llamastream.bench.workload import Workload

WARM_UP_TOKENS = 8


@dataclass(frozen=True, slots=True)
class OnlineOptions:
    """What to run. `urls` are `URL` or `NAME=URL`; `model` None takes the first a server lists."""

    urls: tuple[str, ...]
    workloads: tuple[Workload, ...]
    rounds: int = 3
    model: str | None = None
    api_key: str | None = None
    request: RequestOptions = RequestOptions()
    roofline: Roofline | None = None  # of the first server's model; the others have its shape
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)  # makes the prompts new


@dataclass(slots=True)
class Cell:
    """One workload on one server: a summary per round, or the error that ended it."""

    workload: Workload
    server: str
    rounds: list[Summary] = field(default_factory=list)
    error: str | None = None


class Ratio(NamedTuple):
    """First server over another, per round. Above 1 the first is better where higher is better,
    and worse elsewhere."""

    workload: str
    server: str
    metric: str
    spread: Spread


@dataclass(slots=True)
class OnlineReport:
    options: OnlineOptions
    targets: tuple[Target, ...]
    cells: tuple[Cell, ...]
    bounds: tuple[Bounds, ...]  # measured before each round

    @property
    def failed(self) -> bool:
        return any(cell.error for cell in self.cells)


async def run_online(
    options: OnlineOptions, *, bounds: Callable[[], Bounds] = measure_bounds
) -> OnlineReport:
    """Probe, warm up, then measure. Raises BenchError only before the first measurement.

    A cell that fails keeps its error and is left out of later rounds; the others go on.
    """
    servers = [parse_server(text) for text in options.urls]
    if len({server.name for server in servers}) < len(servers):
        raise BenchError("servers need different names: give NAME=URL", param="url")
    targets = [
        await probe(
            server,
            options.request,
            run_id=options.run_id,
            model=options.model,
            api_key=options.api_key,
        )
        for server in servers
    ]
    for target in targets:
        progress(f"warm up {target.name}")
        await _warm_up(target, options)
    cells = [Cell(workload, target.name) for workload in options.workloads for target in targets]
    report = OnlineReport(options, tuple(targets), tuple(cells), ())
    for number in range(options.rounds):
        report.bounds += (bounds(),)
        for cell, target in zip(cells, targets * len(options.workloads), strict=True):
            if cell.error is None:
                progress(
                    f"round {number + 1}/{options.rounds}: {cell.workload.name}, {target.name}"
                )
                await _measure(cell, target, report, seed=f"{options.run_id}/{number}")
    return report


async def _warm_up(target: Target, options: OnlineOptions) -> None:
    seed = f"{options.run_id}/warm up"
    streams = max(workload.concurrency or 1 for workload in options.workloads)
    workload = Workload("warm up", 16, WARM_UP_TOKENS, num_requests=streams, concurrency=streams)
    outcomes = (await run_workload(target, options.request, workload, seed=seed)).measured
    errors = [outcome.error for outcome in outcomes if outcome.error]
    if errors:
        raise BenchError(f"{target.name}: {len(errors)} of {streams} requests failed: {errors[0]}")


async def _measure(cell: Cell, target: Target, report: OnlineReport, *, seed: str) -> None:
    options = report.options
    # Each workload has prompts of its own, or the second would find the first's in the cache.
    seed = f"{seed}/{options.workloads.index(cell.workload)}"
    try:
        result = await run_workload(target, options.request, cell.workload, seed=seed)
        summary = summarize(result, cell.workload)
    except ServerFailed as error:
        cell.error = error.message
    else:
        is_first = target is report.targets[0]
        cell.rounds.append(with_shares(summary, cell.workload, report, is_first=is_first))


def with_shares(
    summary: Summary, workload: Workload, report: OnlineReport, *, is_first: bool
) -> Summary:
    """How many bytes the weights of another server have is not known."""
    speed = summary.values.get("decode_tok_s")
    if report.options.roofline is None or speed is None:
        return summary
    streams = workload.concurrency or 1
    context = (summary.num_prompt_tokens + summary.num_output_tokens / 2) / summary.num_requests
    memory, compute = report.options.roofline.shares(
        [context] * streams, streams / speed, report.bounds[-1]
    )
    shares = {"compute_percent": 100 * compute}
    if is_first:
        shares["memory_percent"] = 100 * memory
    return replace(summary, values=summary.values | shares)


def ratios(report: OnlineReport) -> list[Ratio]:
    """The first server over each other one, for the workloads that both ended in every round."""
    found: list[Ratio] = []
    for first, other in _pairs(report):
        for metric in METRICS:
            pairs = zip(first.rounds, other.rounds, strict=True)
            values = [
                a.values[metric] / b.values[metric]
                for a, b in pairs
                if metric in a.values and b.values.get(metric)
            ]
            if values:
                found.append(Ratio(first.workload.name, other.server, metric, spread(values)))
    return found


def _pairs(report: OnlineReport) -> Sequence[tuple[Cell, Cell]]:
    first_name = report.targets[0].name
    firsts = {cell.workload: cell for cell in report.cells if cell.server == first_name}
    return [
        (firsts[cell.workload], cell)
        for cell in report.cells
        if cell.server != first_name and not cell.error and not firsts[cell.workload].error
    ]

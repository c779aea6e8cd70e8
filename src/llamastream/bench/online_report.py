"""An online report for the eye (tables) and for programs (one line of JSON)."""

import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import orjson
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llamastream.bench.console import bounds_note, span, table
from llamastream.bench.online import Cell, OnlineReport, ratios
from llamastream.bench.summary import METRICS, Spread, Summary, over_rounds

SPEEDS = ("output_tok_s", "decode_tok_s", "prefill_tok_s", "memory_percent", "compute_percent")
LATENCIES = (
    "ttft_ms.p50",
    "ttft_ms.p99",
    "itl_ms.p50",
    "itl_ms.p90",
    "itl_ms.p99",
    "e2e_ms.p50",
    "background_itl_ms.p50",
    "background_itl_ms.p99",
)
RATIOS = (*SPEEDS[:3], "ttft_ms.p50", "itl_ms.p50", "itl_ms.p99", "background_itl_ms.p99")


def render(report: OnlineReport) -> RenderableType:
    """The medians, the ratios where there are several servers, and what to know about them."""
    rounds = report.options.rounds
    over = "" if rounds == 1 else f", medians of {rounds} rounds"
    parts: list[RenderableType] = [
        _medians(report, f"Speed{over} (lowest-highest)" if over else "Speed", SPEEDS),
        _medians(report, f"Latency in ms{over}", LATENCIES),
    ]
    if len(report.targets) > 1:
        parts.append(_ratios(report))
    parts.extend(Text(line) for line in _notes(report))
    return Group(*parts)


def to_json(report: OnlineReport) -> str:
    """Everything measured, on one line; every round apart, so that nothing need be believed."""
    document: dict[str, Any] = {
        "benchmark": "online",
        "cpus": os.cpu_count(),
        "bounds": [bounds._asdict() for bounds in report.bounds],
        "request": report.options.request,
        "servers": [
            {"name": target.name, "url": target.url.geturl(), "model": target.model}
            for target in report.targets
        ],
        "cells": [
            {
                "workload": cell.workload,
                "server": cell.server,
                "error": cell.error,
                "median": _median_values(cell),
                "rounds": [_values(summary) for summary in cell.rounds],
            }
            for cell in report.cells
        ],
        "ratios": [
            {
                "workload": ratio.workload,
                "over": ratio.server,
                "metric": ratio.metric,
                **ratio.spread._asdict(),
            }
            for ratio in ratios(report)
        ],
    }
    return orjson.dumps(document).decode()


def _medians(report: OnlineReport, title: str, keys: tuple[str, ...]) -> Table:
    summaries = [summary for cell in report.cells for summary in cell.rounds]
    metrics = [key for key in keys if any(key in summary.values for summary in summaries)]
    with_range = keys == SPEEDS
    shown = table(title, ("workload", "server"), [METRICS[metric] for metric in metrics])
    for number, cell in enumerate(report.cells):
        spreads = [None if cell.error else over_rounds(cell.rounds, m) for m in metrics]
        if not with_range:
            spreads = [s and Spread(s.median, s.median, s.median) for s in spreads]
        if not cell.error and not any(spreads):
            continue  # this table has nothing about such a workload
        values = ["failed" if cell.error else span(s, _number) for s in spreads]
        last = (number + 1) % len(report.targets) == 0
        shown.add_row(cell.workload.name, cell.server, *values, end_section=last)
    return shown


def _ratios(report: OnlineReport) -> Table:
    found = ratios(report)
    metrics = [key for key in RATIOS if any(ratio.metric == key for ratio in found)]
    by_key = {(r.workload, r.server, r.metric): r.spread for r in found}
    title = f"{report.targets[0].name} over the others, ratios (lowest-highest)"
    shown = table(title, ("workload", "server"), [METRICS[metric] for metric in metrics])
    for workload, server in dict.fromkeys((r.workload, r.server) for r in found):
        spreads = [by_key.get((workload, server, metric)) for metric in metrics]
        shown.add_row(workload, server, *(span(spread, "{:.2f}".format) for spread in spreads))
    return shown


def _notes(report: OnlineReport) -> Iterator[str]:
    yield bounds_note(report.bounds)
    for target in report.targets:
        cells = [cell for cell in report.cells if cell.server == target.name]
        summaries = [summary for cell in cells for summary in cell.rounds]
        if any(summary.counted_by == "chunks" for summary in summaries):
            yield f"{target.name} reports no usage: its tokens are counted by chunks of text."
        if short := sum(summary.num_short for summary in summaries):
            total = sum(summary.num_requests for summary in summaries)
            yield f"{target.name} ended {short} of {total} answers before the length asked for."
    for cell in report.cells:
        if cell.error:
            yield f"{cell.server}, {cell.workload.name}: {cell.error}"


def _number(value: float) -> str:
    """Three significant digits, as a person reads them."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _median_values(cell: Cell) -> dict[str, float]:
    if cell.error:
        return {}  # the rounds before the failure stand by themselves
    spreads = {metric: over_rounds(cell.rounds, metric) for metric in METRICS}
    return {key: spread.median for key, spread in spreads.items() if spread}


def _values(summary: Summary) -> dict[str, Any]:
    counts = asdict(summary)
    values: dict[str, float] = counts.pop("values")
    return counts | values

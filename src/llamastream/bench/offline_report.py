"""An offline report for the eye (a table) and for programs (one line of JSON)."""

import os
from typing import Any

import orjson
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llamastream.bench.offline import DecodeRound, OfflineReport
from llamastream.bench.summary import Spread, spread


def render(report: OfflineReport) -> RenderableType:
    options = report.options
    rounds = f"medians of {options.rounds} rounds (lowest-highest)" if options.rounds > 1 else ""
    title = f"In process, {options.prompt_tokens} + {options.output_tokens} tokens"
    table = Table(
        title=f"{title}, {rounds}" if rounds else title,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
    )
    table.add_column("streams")
    titles = (
        "tok/s",
        "decode tok/s",
        "step p50 ms",
        "step p99 ms",
        "outside runner us",
        "of memory",
    )
    for column in titles:
        table.add_column(column, justify="right")
    for streams in report.decode:
        table.add_row(
            str(streams),
            _text(report.decode_spread(streams, "output_tok_s"), "{:,.0f}"),
            _text(report.decode_spread(streams, "decode_tok_s"), "{:,.0f}"),
            _text(report.decode_spread(streams, "step_p50_ms"), "{:.2f}"),
            _text(report.decode_spread(streams, "step_p99_ms"), "{:.2f}"),
            _text(report.decode_spread(streams, "overhead_us"), "{:.0f}"),
            _text(report.decode_spread(streams, "bandwidth_share"), "{:.0%}"),
        )
    parts: list[RenderableType] = [table]
    if report.prefill_tok_s:
        speed = _text(spread(report.prefill_tok_s), "{:,.0f}")
        parts.append(Text(f"Prefill of {options.prefill_tokens} tokens: {speed} tok/s."))
    bandwidth = _text(spread([value / 1e9 for value in report.bandwidths]), "{:.0f}")
    parts.append(Text(f"Memory read with all cores during the run: {bandwidth} GB/s."))
    return Group(*parts)


def to_json(report: OfflineReport) -> str:
    """Everything measured, on one line, every round apart."""
    document: dict[str, Any] = {
        "benchmark": "offline",
        "cpus": os.cpu_count(),
        "options": report.options,
        "memory_bandwidth_bytes_per_s": spread(report.bandwidths)._asdict(),
        "decode": [
            {
                "streams": streams,
                "median": {
                    name: report.decode_spread(streams, name).median for name in DecodeRound._fields
                },
                "rounds": [round_._asdict() for round_ in rounds],
            }
            for streams, rounds in report.decode.items()
        ],
        "prefill_tok_s": report.prefill_tok_s,
    }
    return orjson.dumps(document).decode()


def _text(values: Spread, form: str) -> str:
    median = form.format(values.median)
    if values.low == values.high:
        return median
    return f"{median} ({form.format(values.low)}-{form.format(values.high)})"

"""An offline report for the eye (a table) and for programs (one line of JSON)."""

import os

import orjson
from rich.console import Group, RenderableType
from rich.text import Text

from llamastream.bench.console import bounds_note, span, table
from llamastream.bench.offline import DecodeRound, OfflineReport
from llamastream.bench.summary import spread

# Title and form of each column, by the field of a DecodeRound.
COLUMNS = {
    "output_tok_s": ("tok/s", "{:,.0f}"),
    "decode_tok_s": ("decode tok/s", "{:,.0f}"),
    "step_p50_ms": ("step p50 ms", "{:.2f}"),
    "step_p99_ms": ("step p99 ms", "{:.2f}"),
    "overhead_us": ("outside runner us", "{:.0f}"),
    "memory_share": ("of memory", "{:.0%}"),
    "compute_share": ("of compute", "{:.0%}"),
    "tokens_per_step": ("tokens a step", "{:.2f}"),
}


def render(report: OfflineReport) -> RenderableType:
    settings = report.settings
    title = f"In process, {settings.prompt_tokens} + {settings.output_tokens} tokens"
    if settings.rounds > 1:
        title += f", medians of {settings.rounds} rounds (lowest-highest)"
    shown = table(title, ("streams",), [column for column, _ in COLUMNS.values()])
    for streams in report.decode:
        values = (
            span(report.decode_spread(streams, name), form.format)
            for name, (_, form) in COLUMNS.items()
        )
        shown.add_row(str(streams), *values)
    parts: list[RenderableType] = [shown]
    if report.prefill_tok_s:
        speed = span(spread(report.prefill_tok_s), "{:,.0f}".format)
        share = span(spread(report.prefill_share), "{:.0%}".format)
        parts.append(
            Text(f"Prefill of {settings.prefill_tokens} tokens: {speed} tok/s, {share} of compute.")
        )
    return Group(*parts, Text(bounds_note(report.bounds)))


def to_json(report: OfflineReport) -> str:
    """Everything measured, on one line, every round apart."""
    document = {
        "benchmark": "offline",
        "cpus": os.cpu_count(),
        "options": report.settings.model_dump(),
        "bounds": [bounds._asdict() for bounds in report.bounds],
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
        "prefill_share": report.prefill_share,
    }
    return orjson.dumps(document).decode()

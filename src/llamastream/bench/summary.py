"""From the outcomes of a workload to its numbers, and from rounds to medians and ratios.

Knows no servers. A workload with a failed request has no numbers at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from llamastream.bench.errors import ServerFailed
from llamastream.bench.load import LoadResult, Outcome
from llamastream.bench.openai import Timeline
from llamastream.bench.workload import Workload

QUANTILES = (50, 90, 99)
# Every number that is measured, by its key: how it is called. `output_tok_s` is all output tokens
# over the whole time, prefill and queueing included; `decode_tok_s` counts only the time in which
# all streams of a closed loop were decoding; `prefill_tok_s` is prompt tokens over TTFT, for
# requests that were alone on the server. The percentages are what decoding reached of the machine's
# bounds, known only with the model's weights. ITL is the gap between chunks.
METRICS = {
    "output_tok_s": "tok/s",
    "decode_tok_s": "decode tok/s",
    "prefill_tok_s": "prefill tok/s",
    "memory_percent": "% of memory",
    "compute_percent": "% of compute",
} | {
    f"{name}_ms.p{quantile}": f"{title} p{quantile}"
    for name, title in (
        ("ttft", "TTFT"),
        ("itl", "ITL"),
        ("e2e", "whole"),
        ("background_itl", "others' ITL"),
    )
    for quantile in QUANTILES
}


@dataclass(frozen=True, slots=True)
class Summary:
    """One workload on one server, once. `values` has no entry for what it cannot show.

    `num_short` answers ended before the output length asked for.
    """

    num_requests: int
    num_short: int
    num_prompt_tokens: int
    num_output_tokens: int
    counted_by: Literal["usage", "chunks"]
    duration_s: float
    values: dict[str, float]  # by the keys of METRICS


class Spread(NamedTuple):
    median: float
    low: float
    high: float


def summarize(result: LoadResult, workload: Workload) -> Summary:
    """Raises ServerFailed, saying how many requests failed and how the first did."""
    timelines = _all_succeeded(result.measured)
    _all_succeeded(result.background)
    sent_s = [outcome.sent_s for outcome in result.measured]
    start_s, end_s = min(sent_s), max(t.end_s for t in timelines)
    firsts = [t.token_times_s[0] - sent for t, sent in zip(timelines, sent_s, strict=True)]
    wholes = [t.end_s - sent for t, sent in zip(timelines, sent_s, strict=True)]
    prompt_tokens = [t.num_prompt_tokens or workload.prompt_tokens for t in timelines]
    output_tokens = [t.num_output_tokens for t in timelines]
    values = (
        _percentiles("ttft_ms", firsts)
        | _percentiles("itl_ms", [gap for t in timelines for gap in np.diff(t.token_times_s)])
        | _percentiles("e2e_ms", wholes)
        | _percentiles("background_itl_ms", _background_gaps(result.background, start_s, end_s))
    )
    if workload.output_tokens > 1:  # answers of one token show a prefill
        values["output_tok_s"] = sum(output_tokens) / (end_s - start_s)
    if (speed := _decode_speed(timelines, workload.concurrency)) is not None:
        values["decode_tok_s"] = speed
    if workload.concurrency == 1 and workload.background == 0:
        speeds = [tokens / first for tokens, first in zip(prompt_tokens, firsts, strict=True)]
        values["prefill_tok_s"] = float(np.median(speeds))
    return Summary(
        num_requests=len(timelines),
        num_short=sum(count < workload.output_tokens for count in output_tokens),
        num_prompt_tokens=sum(prompt_tokens),
        num_output_tokens=sum(output_tokens),
        counted_by="usage" if all(t.counted_by == "usage" for t in timelines) else "chunks",
        duration_s=end_s - start_s,
        values=values,
    )


def spread(values: Sequence[float]) -> Spread:
    return Spread(float(np.median(values)), min(values), max(values))


def over_rounds(rounds: Sequence[Summary], metric: str) -> Spread | None:
    """A metric's median and range over the rounds, None if the workload cannot show it."""
    values = [summary.values[metric] for summary in rounds if metric in summary.values]
    return spread(values) if values else None


def _all_succeeded(outcomes: Sequence[Outcome]) -> list[Timeline]:
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    if errors:
        raise ServerFailed(f"{len(errors)} of {len(outcomes)} requests failed: {errors[0]}")
    return [outcome.timeline for outcome in outcomes if outcome.timeline]


def _percentiles(name: str, values_s: Sequence[float]) -> dict[str, float]:
    """By the keys of METRICS, in milliseconds; none of no values."""
    if not values_s:
        return {}
    found_ms = np.percentile(values_s, QUANTILES) * 1e3
    return {f"{name}.p{q}": float(ms) for q, ms in zip(QUANTILES, found_ms, strict=True)}


def _background_gaps(outcomes: Sequence[Outcome], start_s: float, end_s: float) -> list[float]:
    """Gaps between chunks of the background streams that ended within the measured time."""
    gaps: list[float] = []
    for outcome in outcomes:
        times = np.array(outcome.timeline.token_times_s if outcome.timeline else ())
        inside = (times[1:] > start_s) & (times[1:] <= end_s)
        gaps.extend(np.diff(times)[inside])
    return gaps


def _decode_speed(timelines: Sequence[Timeline], concurrency: int | None) -> float | None:
    """Tokens per second while exactly `concurrency` streams were between first and last token.

    None for an open loop, and where that never was the case.
    """
    if concurrency is None:
        return None
    changes = sorted(
        change for t in timelines for change in ((t.token_times_s[0], 1), (t.token_times_s[-1], -1))
    )
    tokens = sorted(
        (time_s, t.num_output_tokens / len(t.token_times_s))
        for t in timelines
        for time_s in t.token_times_s
    )
    times_s = np.array([time_s for time_s, _ in tokens])
    counts = np.concatenate(([0.0], np.cumsum([count for _, count in tokens])))
    active, num_tokens, duration_s = 0, 0.0, 0.0
    for (start_s, change), (end_s, _) in zip(changes, changes[1:], strict=False):
        active += change
        if active == concurrency:
            low, high = np.searchsorted(times_s, [start_s, end_s], side="right")
            num_tokens += counts[high] - counts[low]
            duration_s += end_s - start_s
    return float(num_tokens / duration_s) if duration_s > 0 else None

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


class Percentiles(NamedTuple):
    p50: float
    p90: float
    p99: float


@dataclass(frozen=True, slots=True)
class Summary:
    """One workload on one server, once. What the workload cannot show is None.

    `output_tok_s` is all output tokens over the whole time, prefill and queueing included; answers
    of one token show a prefill, and have none.
    `decode_tok_s` counts only the time in which all streams of a closed loop were decoding.
    `prefill_tok_s` is prompt tokens over TTFT, for requests that were alone on the server.
    `num_short` answers ended before the output length asked for. ITL is the gap between chunks.
    `memory_percent` and `compute_percent` are what decoding reached of the machine's bounds, known
    only with the model's weights.
    """

    num_requests: int
    num_short: int
    num_prompt_tokens: int
    num_output_tokens: int
    counted_by: Literal["usage", "chunks"]
    duration_s: float
    output_tok_s: float | None
    decode_tok_s: float | None
    prefill_tok_s: float | None
    ttft_ms: Percentiles
    itl_ms: Percentiles | None
    e2e_ms: Percentiles
    background_itl_ms: Percentiles | None
    memory_percent: float | None = None
    compute_percent: float | None = None


class Metric(NamedTuple):
    """One number of a Summary: where it stands, and how it is called."""

    key: str
    title: str

    def value(self, summary: Summary) -> float | None:
        """The number, None where the workload cannot show it."""
        name, _, quantile = self.key.partition(".")
        found = getattr(summary, name)
        if found is None:
            return None
        return float(getattr(found, quantile) if quantile else found)


METRICS = (
    Metric("output_tok_s", "tok/s"),
    Metric("decode_tok_s", "decode tok/s"),
    Metric("prefill_tok_s", "prefill tok/s"),
    Metric("memory_percent", "% of memory"),
    Metric("compute_percent", "% of compute"),
) + tuple(
    Metric(f"{name}_ms.{quantile}", f"{title} {quantile}")
    for name, title in (
        ("ttft", "TTFT"),
        ("itl", "ITL"),
        ("e2e", "whole"),
        ("background_itl", "others' ITL"),
    )
    for quantile in Percentiles._fields
)


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
    prompt_tokens = [t.num_prompt_tokens or workload.prompt_tokens for t in timelines]
    output_tokens = [t.num_output_tokens for t in timelines]
    alone = workload.concurrency == 1 and workload.background == 0
    speeds = [tokens / first for tokens, first in zip(prompt_tokens, firsts, strict=True)]
    return Summary(
        num_requests=len(timelines),
        num_short=sum(count < workload.output_tokens for count in output_tokens),
        num_prompt_tokens=sum(prompt_tokens),
        num_output_tokens=sum(output_tokens),
        counted_by="usage" if all(t.counted_by == "usage" for t in timelines) else "chunks",
        duration_s=end_s - start_s,
        output_tok_s=(
            sum(output_tokens) / (end_s - start_s) if workload.output_tokens > 1 else None
        ),
        decode_tok_s=_decode_speed(timelines, workload.concurrency),
        prefill_tok_s=float(np.median(speeds)) if alone else None,
        ttft_ms=_percentiles_ms(firsts),
        itl_ms=_percentiles_or_none([gap for t in timelines for gap in np.diff(t.token_times_s)]),
        e2e_ms=_percentiles_ms([t.end_s - sent for t, sent in zip(timelines, sent_s, strict=True)]),
        background_itl_ms=_percentiles_or_none(_background_gaps(result.background, start_s, end_s)),
    )


def spread(values: Sequence[float]) -> Spread:
    return Spread(float(np.median(values)), min(values), max(values))


def over_rounds(rounds: Sequence[Summary], metric: Metric) -> Spread | None:
    """A metric's median and range over the rounds, None if the workload cannot show it."""
    values = [value for summary in rounds if (value := metric.value(summary)) is not None]
    return spread(values) if values else None


def _all_succeeded(outcomes: Sequence[Outcome]) -> list[Timeline]:
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    if errors:
        raise ServerFailed(f"{len(errors)} of {len(outcomes)} requests failed: {errors[0]}")
    return [outcome.timeline for outcome in outcomes if outcome.timeline]


def _percentiles_ms(values_s: Sequence[float]) -> Percentiles:
    return Percentiles(*(float(ms) for ms in np.percentile(values_s, (50, 90, 99)) * 1e3))


def _percentiles_or_none(values_s: Sequence[float]) -> Percentiles | None:
    return _percentiles_ms(values_s) if values_s else None


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

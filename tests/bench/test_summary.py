"""The numbers: percentiles, speeds, and that a failure leaves none."""

import math

import pytest

from llamastream.bench.errors import ServerFailed
from llamastream.bench.load import LoadResult, Outcome
from llamastream.bench.openai import Timeline
from llamastream.bench.summary import over_rounds, spread, summarize
from llamastream.bench.workload import Workload


def outcome(
    sent_s: float, *times_s: float, tokens: int | None = None, prompt: int | None = 10
) -> Outcome:
    """An answer whose last text is its end; `tokens` None is counted by chunks."""
    counted = len(times_s) if tokens is None else tokens
    by = "chunks" if tokens is None else "usage"
    return Outcome(sent_s, Timeline(times_s, times_s[-1], prompt, counted, by))  # type: ignore[arg-type]


def closed(streams: int, output_tokens: int = 3, background: int = 0) -> Workload:
    return Workload("w", 10, output_tokens, streams, concurrency=streams, background=background)


def test_one_request_gives_its_times() -> None:
    summary = summarize(LoadResult([outcome(5.0, 5.5, 5.6, 5.8)], []), closed(1))
    assert summary.values["ttft_ms.p50"] == pytest.approx(500)
    assert summary.values["e2e_ms.p99"] == pytest.approx(800)
    assert summary.values["output_tok_s"] == pytest.approx(3 / 0.8)
    assert summary.values["decode_tok_s"] == pytest.approx(2 / 0.3)
    assert summary.values["prefill_tok_s"] == pytest.approx(10 / 0.5)
    assert (summary.counted_by, summary.num_short) == ("chunks", 0)


def test_percentiles_interpolate_between_requests() -> None:
    outcomes = [outcome(0.0, first_s, first_s + 1) for first_s in (0.1, 0.2, 0.3, 0.4, 0.5)]
    values = summarize(LoadResult(outcomes, []), closed(5)).values
    assert values["ttft_ms.p50"] == pytest.approx(300)
    assert values["ttft_ms.p90"] == pytest.approx(460)
    assert values["ttft_ms.p99"] == pytest.approx(496)


def test_gaps_are_taken_within_answers_never_between_them() -> None:
    outcomes = [outcome(0.0, 1.0, 1.1, 1.2), outcome(50.0, 51.0, 51.1, 51.4)]
    values = summarize(LoadResult(outcomes, []), closed(1)).values
    assert values["itl_ms.p50"] == pytest.approx(100)
    assert values["itl_ms.p99"] < 301


def test_decode_speed_counts_only_the_time_when_all_streams_decode() -> None:
    first = outcome(0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
    second = outcome(0.0, 3.0, 4.0, 5.0, 6.0, 7.0)
    summary = summarize(LoadResult([first, second], []), closed(2, 5))
    # From 3 s to 5 s each stream received two more tokens.
    assert summary.values["decode_tok_s"] == pytest.approx(4 / 2)
    assert summary.values["output_tok_s"] == pytest.approx(10 / 7)


def test_decode_speed_is_unknown_when_streams_never_decode_together() -> None:
    outcomes = [outcome(0.0, 1.0, 2.0), outcome(0.0, 3.0, 4.0)]
    assert "decode_tok_s" not in summarize(LoadResult(outcomes, []), closed(2)).values


def test_chunks_of_several_tokens_count_by_usage() -> None:
    summary = summarize(LoadResult([outcome(0.0, 1.0, 2.0, tokens=6)], []), closed(1, 6))
    assert summary.values["output_tok_s"] == pytest.approx(3)
    assert summary.values["decode_tok_s"] == pytest.approx(3)
    assert (summary.counted_by, summary.num_output_tokens) == ("usage", 6)


def test_answers_shorter_than_asked_are_counted() -> None:
    summary = summarize(LoadResult([outcome(0.0, 1.0, 2.0)], []), closed(1, 3))
    assert summary.num_short == 1


def test_one_answer_counted_by_chunks_is_said_of_all() -> None:
    outcomes = [outcome(0.0, 1.0, 2.0, tokens=2), outcome(0.0, 1.0, 2.0)]
    assert summarize(LoadResult(outcomes, []), closed(2)).counted_by == "chunks"


def test_answers_of_one_token_have_no_throughput_and_no_gaps() -> None:
    summary = summarize(LoadResult([outcome(0.0, 0.5)], []), closed(1, 1))
    assert not {"output_tok_s", "decode_tok_s", "itl_ms.p50"} & summary.values.keys()
    assert summary.values["prefill_tok_s"] == pytest.approx(20)


def test_prefill_speed_is_only_of_lone_requests() -> None:
    beside = LoadResult([outcome(0.0, 1.0)], [outcome(0.0, 0.5, 1.0)])
    assert "prefill_tok_s" not in summarize(beside, closed(1, 1, background=1)).values
    both = LoadResult([outcome(0.0, 1.0), outcome(0.0, 1.0)], [])
    assert "prefill_tok_s" not in summarize(both, closed(2, 1)).values


def test_prompt_length_asked_for_stands_in_for_a_missing_usage() -> None:
    result = LoadResult([outcome(0.0, 0.5, prompt=None)], [])
    assert summarize(result, closed(1, 1)).num_prompt_tokens == 10


def test_background_gaps_count_only_while_the_measured_requests_ran() -> None:
    background = outcome(0.0, 1.0, 9.0, 10.5, 10.7, 10.9, 30.0)
    cut = Outcome(10.0, None)  # no headers yet when the measurement ended
    result = LoadResult([outcome(10.0, 10.5, 11.0)], [background, cut])
    summary = summarize(result, closed(1, 2, background=2))
    assert summary.values["background_itl_ms.p50"] == pytest.approx(200)
    assert summary.values["background_itl_ms.p99"] < 1501


@pytest.mark.parametrize("place", ["measured", "background"])
def test_one_failed_request_leaves_no_numbers(place: str) -> None:
    good, bad = outcome(0.0, 1.0, 2.0), Outcome(0.0, None, "it broke off")
    result = LoadResult([good, good], [good])._replace(**{place: [good, bad]})
    with pytest.raises(ServerFailed, match="1 of 2 requests failed: it broke off"):
        summarize(result, closed(2))


def test_spread_is_median_and_range() -> None:
    assert spread([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)


def test_metric_over_rounds_skips_what_a_workload_cannot_show() -> None:
    summary = summarize(LoadResult([outcome(0.0, 0.5)], []), closed(1, 1))
    assert over_rounds([summary], "itl_ms.p50") is None
    found = over_rounds([summary], "ttft_ms.p90")
    assert found is not None and math.isclose(found.median, 500)

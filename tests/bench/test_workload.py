"""What is asked: repeatable, spread as a Poisson process, and never found in a cache."""

import pytest

from llamastream.bench.errors import BenchError
from llamastream.bench.workload import Plan, Workload, make_prompts, poisson_arrivals


def test_arrivals_are_the_same_for_the_same_seed_and_others_for_another() -> None:
    assert poisson_arrivals(2.0, 50, seed=1) == poisson_arrivals(2.0, 50, seed=1)
    assert poisson_arrivals(2.0, 50, seed=1) != poisson_arrivals(2.0, 50, seed=2)


def test_arrivals_have_the_rate_and_the_irregularity_of_a_poisson_process() -> None:
    times_s = poisson_arrivals(4.0, 4001, seed=0)
    gaps = [b - a for a, b in zip(times_s, times_s[1:], strict=False)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert mean == pytest.approx(0.25, rel=0.05)
    assert variance == pytest.approx(mean**2, rel=0.15)  # of an exponential distribution


def test_prompts_have_the_length_asked_for_and_differ_from_the_second_word_on() -> None:
    prompts = make_prompts(20, 64, seed="a")
    assert {len(prompt.split()) for prompt in prompts} == {64}
    assert len({tuple(prompt.split()[1:8]) for prompt in prompts}) == 20
    assert prompts == make_prompts(20, 64, seed="a")
    assert not set(prompts) & set(make_prompts(20, 64, seed="b"))


def test_plan_makes_a_cell_of_each_kind() -> None:
    plan = Plan(concurrency=(1, 8), request_rates=(0.5,), beside=(8,), arrivals_beside=(32,))
    cells = {cell.name: cell for cell in plan.workloads()}
    assert list(cells) == [
        "1 stream",
        "8 streams",
        "prefill 512",
        "0.5 requests/s",
        "first token beside 8 streams",
        "512-token prompts at 2/s beside 32 streams",
    ]
    assert cells["1 stream"].num_requests == 4
    assert cells["8 streams"].num_requests == 8
    assert cells["first token beside 8 streams"].background == 8


def test_a_closed_loop_has_a_whole_number_of_waves() -> None:
    (cell,) = Plan(concurrency=(3,), prefill_tokens=0).workloads()
    assert cell.num_requests == 6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt_tokens": 0}, "prompt_tokens must be >= 1. Given: 0"),
        ({"output_tokens": -1}, "output_tokens must be >= 1. Given: -1"),
        ({"concurrency": 0}, "concurrency must be >= 1. Given: 0"),
        ({"concurrency": None, "request_rate": 0.0}, "request_rate must be > 0. Given: 0.0"),
        ({"concurrency": None}, "either a concurrency or a request_rate"),
        ({"request_rate": 1.0}, "either a concurrency or a request_rate"),
    ],
)
def test_bad_numbers_are_refused_by_name(fields: dict[str, float], message: str) -> None:
    good = {"prompt_tokens": 8, "output_tokens": 8, "num_requests": 1, "concurrency": 1}
    with pytest.raises(BenchError, match=message):
        Workload("w", **{**good, **fields})  # type: ignore[arg-type]


def test_an_empty_plan_is_refused() -> None:
    with pytest.raises(BenchError, match="nothing to measure"):
        Plan(concurrency=(), prefill_tokens=0).workloads()

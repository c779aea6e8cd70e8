"""What is asked: repeatable, spread as a Poisson process, and never found in a cache."""

import pytest

from llamastream.bench.errors import BenchError
from llamastream.bench.workload import make_prompts, plan, poisson_arrivals
from llamastream.config import BenchSettings, LoadSettings
from llamastream.errors import ConfigError


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
    load = LoadSettings(request_rates=(0.5,), mixed=True)
    cells = {cell.name: cell for cell in plan(BenchSettings(concurrency=(1, 8)), load)}
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
    (cell,) = plan(BenchSettings(concurrency=(3,), prefill_tokens=0), LoadSettings())
    assert cell.num_requests == 6


@pytest.mark.parametrize("text", ["1,x", "0", "8;9"])
def test_a_bad_number_in_a_list_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match="--concurrency"):
        BenchSettings.load({"concurrency": text}, {})
    assert BenchSettings.load({"concurrency": "1, 8,"}, {}).concurrency == (1, 8)


def test_an_empty_plan_is_refused() -> None:
    with pytest.raises(BenchError, match="nothing to measure"):
        plan(BenchSettings(concurrency=(), prefill_tokens=0), LoadSettings())

"""What the engine accepts, how requests end, and what happens when the runner fails."""

import logging
from dataclasses import replace

import pytest
from driver import make_request, run_all
from fake_runner import FakeRunner, expected_tokens

from llamastream.config import EngineConfig
from llamastream.engine.llm_engine import LLMEngine
from llamastream.errors import (
    ConfigError,
    ContextLengthExceeded,
    EngineDead,
    InternalError,
    InvalidRequest,
    Overloaded,
)
from llamastream.types import EngineState, Failed, Finished, FinishReason, Token


def make_engine(runner: FakeRunner | None = None, **config: object) -> LLMEngine:
    return LLMEngine(runner or FakeRunner(), EngineConfig(**config))  # type: ignore[arg-type]


def test_tokens_are_those_of_the_script_and_counted() -> None:
    request = make_request("a", [1, 2, 3], max_tokens=5)
    engine = make_engine()
    outcome = run_all(engine, [request])["a"]
    assert outcome.token_ids == expected_tokens(request, max_model_len=128, vocab_size=97)
    assert [token.position for token in outcome.tokens] == [0, 1, 2, 3, 4]
    assert outcome.end == Finished("a", FinishReason.LENGTH, 3, 0, 5)


def test_penalties_and_bias_see_prompt_and_output() -> None:
    request = make_request(
        "a", [1, 2, 3], max_tokens=6, presence_penalty=0.5, logit_bias=((4, 1.5), (5, -2.0))
    )
    others = [make_request(str(i), [i], max_tokens=3 + i) for i in range(4)]
    outcomes = run_all(make_engine(), [others[0], request, *others[1:]])
    for each in [request, *others]:
        expected = expected_tokens(each, max_model_len=128, vocab_size=97)
        assert outcomes[each.request_id].token_ids == expected


def test_a_step_says_when_it_is_prepared_and_not_yet_run() -> None:
    runner = FakeRunner()
    engine = make_engine(runner)
    num_run: list[int] = []
    engine.step(lambda: num_run.append(len(runner.step_sizes)))
    assert num_run == []  # idle
    engine.add(make_request("a", [1, 2, 3], max_tokens=2))
    for _ in range(2):
        engine.step(lambda: num_run.append(len(runner.step_sizes)))
    assert num_run == [0, 1]


def test_an_idle_engine_has_no_work_and_steps_to_nothing() -> None:
    engine = make_engine()
    assert not engine.has_work
    assert engine.step() == []


@pytest.mark.parametrize(
    ("changes", "error", "param", "message"),
    [
        ({"prompt_ids": []}, InvalidRequest, "prompt", "at least 1 token"),
        ({"prompt_ids": [1, 97]}, InvalidRequest, "prompt", "< 97 .* 97 at index 1"),
        ({"prompt_ids": [-1]}, InvalidRequest, "prompt", "-1 at index 0"),
        ({"prompt_ids": [2**70]}, InvalidRequest, "prompt", "over 63 bits"),
        ({"output_ids": [1, 99]}, InvalidRequest, "output_ids", "99 at index 1"),
        ({"output_ids": [1] * 6}, InvalidRequest, "output_ids", "<= 5 .* 6"),
        ({"logit_bias": ((97, 1.0),)}, InvalidRequest, "logit_bias", "< 97 .* 97"),
        ({"logit_bias": ((-1, 1.0),)}, InvalidRequest, "logit_bias", "-1"),
        ({"prompt_ids": [1] * 124}, ContextLengthExceeded, "prompt", "128.*129 tokens .124 .* 5"),
        ({"prompt_ids": [1] * 128}, ContextLengthExceeded, "prompt", "128"),
        ({"max_tokens": 2**31 - 1}, ContextLengthExceeded, "prompt", "2147483650"),
        ({"prompt_ids": [1] * 128, "max_tokens": None}, ContextLengthExceeded, "prompt", "128"),
    ],
)
def test_what_can_never_run_is_refused_with_numbers(
    changes: dict[str, object], error: type[InvalidRequest], param: str, message: str
) -> None:
    engine = make_engine()
    fields = {"prompt_ids": [1, 2, 3], "max_tokens": 5, **changes}
    with pytest.raises(error, match=message) as caught:
        engine.add(make_request("a", **fields))  # type: ignore[arg-type]
    assert type(caught.value) is error and caught.value.param == param
    assert not engine.has_work and engine.admission.num_active == 0


def test_a_request_id_in_use_is_refused() -> None:
    engine = make_engine()
    engine.add(make_request("a", [1], max_tokens=1))
    with pytest.raises(InvalidRequest, match="request_id must be new"):
        engine.add(make_request("a", [1], max_tokens=1))
    run_all(engine)
    engine.add(make_request("a", [1], max_tokens=1))


def test_a_cache_smaller_than_the_model_bounds_the_context() -> None:
    engine = make_engine(FakeRunner(num_blocks=5, block_size=4))
    assert engine.status().max_model_len == 20
    with pytest.raises(ContextLengthExceeded, match="is 20 tokens"):
        engine.add(make_request("a", [1] * 15, max_tokens=6))
    assert len(run_all(engine, [make_request("a", [1] * 15, max_tokens=5)])["a"].tokens) == 5


def test_the_option_bounds_the_context() -> None:
    engine = make_engine(max_model_len=10)
    outcome = run_all(engine, [make_request("a", [1] * 4)])["a"]  # max_tokens: what is left
    assert len(outcome.tokens) == 6


def test_more_than_seats_and_queue_hold_is_refused_until_one_ends() -> None:
    engine = make_engine(max_num_seqs=2, max_num_waiting=3)
    for i in range(5):
        engine.add(make_request(str(i), [1], max_tokens=2))
    with pytest.raises(Overloaded, match="3 requests .* 2 running") as caught:
        engine.add(make_request("5", [1], max_tokens=2))
    assert 1 <= caught.value.retry_after_s <= 60
    engine.cancel("4")
    engine.add(make_request("5", [1], max_tokens=2))
    run_all(engine)


def test_a_full_queue_lets_in_a_key_that_has_less_than_its_equal_part() -> None:
    engine = make_engine(max_num_seqs=2, max_num_waiting=6)
    for i in range(8):
        engine.add(make_request(f"a{i}", [1], max_tokens=2, scope="a"))
    for i in range(4):
        engine.add(make_request(f"b{i}", [1], max_tokens=2, scope="b"))
    for i in range(2):
        engine.add(make_request(f"c{i}", [1], max_tokens=2, scope="c"))
    for scope in "abc":
        with pytest.raises(Overloaded):
            engine.add(make_request(f"{scope}9", [1], max_tokens=2, scope=scope))
    run_all(engine)


def test_a_budget_below_the_number_of_sequences_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"max_num_batched_tokens must be >= .*\(32\).* 16"):
        make_engine(max_num_batched_tokens=16)


def test_max_tokens_1_is_one_token() -> None:
    outcome = run_all(make_engine(), [make_request("a", [1, 2], max_tokens=1)])["a"]
    assert len(outcome.tokens) == 1
    assert outcome.end == Finished("a", FinishReason.LENGTH, 2, 0, 1)


def test_a_prompt_that_fills_the_context_but_one_gets_one_token() -> None:
    outcome = run_all(make_engine(), [make_request("a", [1] * 127)])["a"]
    assert len(outcome.tokens) == 1


def test_sequences_that_each_fill_the_cache_run_one_after_another() -> None:
    engine = make_engine(FakeRunner(num_blocks=8, block_size=4))
    requests = [make_request(str(i), [i] * 16, max_tokens=16) for i in range(3)]
    for request_id, outcome in run_all(engine, requests).items():
        expected = expected_tokens(requests[int(request_id)], max_model_len=32, vocab_size=97)
        assert outcome.token_ids == expected


def stop_case(*, at: int, max_tokens: int) -> tuple[list[int], object]:
    """Run a request whose stop token is the one it draws as output `at`."""
    request = make_request("a", [1, 2, 3], max_tokens=20)
    tokens = expected_tokens(request, max_model_len=128, vocab_size=97)
    stop = tokens[at]
    assert stop not in tokens[:at]
    request = make_request("a", [1, 2, 3], max_tokens=max_tokens, stop_token_ids=frozenset({stop}))
    outcome = run_all(make_engine(), [request])["a"]
    return outcome.token_ids, outcome.end


def test_a_stop_token_is_reported_and_ends_the_request() -> None:
    token_ids, end = stop_case(at=4, max_tokens=20)
    assert len(token_ids) == 5 and end == Finished("a", FinishReason.STOP, 3, 0, 5)


def test_a_stop_token_at_max_tokens_counts_as_stop() -> None:
    assert stop_case(at=4, max_tokens=5)[1] == Finished("a", FinishReason.STOP, 3, 0, 5)


@pytest.mark.parametrize(
    ("output_ids", "reason"), [([4, 5], FinishReason.LENGTH), ([9], FinishReason.STOP)]
)
def test_a_resumed_request_that_was_complete_ends_at_once(
    output_ids: list[int], reason: FinishReason
) -> None:
    request = make_request(
        "a", [1], output_ids=output_ids, max_tokens=2, stop_token_ids=frozenset({9})
    )
    outcome = run_all(make_engine(), [request])["a"]
    assert outcome.tokens == []
    assert outcome.end == Finished("a", reason, 1, 0, len(output_ids))


def test_logprobs_come_as_asked_for() -> None:
    requests = [
        make_request("none", [1], max_tokens=1),
        make_request("chosen", [2], max_tokens=1, logprobs=0),
        make_request("two", [3], max_tokens=1, logprobs=2),
        make_request("five", [4], max_tokens=1, logprobs=5),
    ]
    outcomes = run_all(make_engine(), requests)
    tokens = {name: outcome.tokens[0] for name, outcome in outcomes.items()}
    assert (tokens["none"].logprob, tokens["none"].top_logprobs) == (None, ())
    for name, count in {"chosen": 0, "two": 2, "five": 5}.items():
        token_id = tokens[name].token_id
        assert tokens[name].logprob == -token_id
        expected = tuple(((token_id + i) % 97, float(-i)) for i in range(count))
        assert tokens[name].top_logprobs == expected


def test_seeds_are_drawn_when_none_is_given() -> None:
    engine = make_engine()
    requests = [make_request(str(i), [1, 2], seed=None, max_tokens=8) for i in range(2)]
    outcomes = run_all(engine, requests)
    assert outcomes["0"].token_ids != outcomes["1"].token_ids


@pytest.mark.parametrize("num_steps", [0, 1, 3])
def test_cancel_frees_the_blocks_at_once_and_is_reported_once(num_steps: int) -> None:
    engine = make_engine(max_num_batched_tokens=32)
    engine.add(make_request("a", [1] * 50, max_tokens=20))  # two steps of prefill
    events = [event for _ in range(num_steps) for event in engine.step()]
    engine.cancel("a")
    engine.cancel("a")
    engine.cancel("unknown")
    assert engine.status().num_free_blocks == 64
    engine.check_integrity()
    num_output = len(events)
    (end,) = engine.step()
    assert isinstance(end, Finished) and (end.queue_s is None) == (num_steps == 0)
    assert end[:5] == ("a", FinishReason.CANCELLED, 50, 0, num_output)
    assert not engine.has_work


def test_num_cached_tokens_is_what_was_found_when_first_scheduled() -> None:
    engine = make_engine(FakeRunner(num_blocks=8, block_size=4))
    run_all(engine, [make_request("warm", list(range(9)), max_tokens=1)])
    requests = [
        make_request("hit", list(range(9)), max_tokens=16),
        make_request("preempted", [50] * 4, max_tokens=16),
    ]
    outcomes = run_all(engine, requests)
    assert outcomes["hit"].end == Finished("hit", FinishReason.LENGTH, 9, 8, 16)
    assert outcomes["preempted"].end == Finished("preempted", FinishReason.LENGTH, 4, 0, 16)


def test_a_failing_step_fails_every_request_once_and_the_engine_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = make_engine(FakeRunner(failures=[2]), max_num_seqs=2)
    for i in range(3):
        engine.add(make_request(str(i), list(range(9)), max_tokens=9))
    engine.cancel("0")
    with caplog.at_level(logging.ERROR):
        events = [event for _ in range(3) for event in engine.step()]
    ends = [event for event in events if not isinstance(event, Token)]
    assert ends[0] == Finished("0", FinishReason.CANCELLED, 9, 0, 0)
    assert {end.request_id for end in ends[1:]} == {"1", "2"} and len(ends) == 3
    assert all(isinstance(end, Failed) and type(end.error) is InternalError for end in ends[1:])
    assert len(caplog.records) == 1 and caplog.records[0].exc_info is not None
    engine.check_integrity()
    assert engine.status().num_free_blocks == 64
    # The half-written cache must not be found again.
    request = make_request("again", list(range(9)), max_tokens=9)
    outcome = run_all(engine, [request])["again"]
    assert isinstance(outcome.end, Finished) and outcome.end.num_cached_tokens == 0
    assert outcome.token_ids == expected_tokens(request, max_model_len=128, vocab_size=97)


def test_three_failures_in_a_row_are_the_end() -> None:
    engine = make_engine(FakeRunner(failures=[0, 1, 3, 4, 5]))
    request = make_request("a", [1], max_tokens=1)
    for _ in range(2):
        assert isinstance(run_all(engine, [request])["a"].end, Failed)
    assert isinstance(run_all(engine, [request])["a"].end, Finished)  # a good step starts over
    for _ in range(3):
        assert engine.status().state is EngineState.READY
        assert isinstance(run_all(engine, [request])["a"].end, Failed)
    assert engine.status().state is EngineState.DEAD
    with pytest.raises(EngineDead):
        engine.add(replace(request, request_id="late"))


def test_status_counts_running_and_waiting() -> None:
    engine = make_engine(max_num_seqs=2)
    for i in range(5):
        engine.add(make_request(str(i), [1] * 5, max_tokens=5))
    engine.step()
    status = engine.status()
    assert (status.num_running, status.num_waiting) == (2, 3)
    assert (status.num_blocks, status.num_free_blocks) == (64, 60)
    assert (status.max_model_len, status.vocab_size) == (128, 97)


def test_close_closes_the_runner() -> None:
    runner = FakeRunner()
    make_engine(runner).close()
    assert runner.is_closed

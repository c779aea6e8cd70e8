"""Ids that a request expects: drawn none the less, along with its prompt, and none is believed."""

from dataclasses import replace
from random import Random

import pytest
from driver import Outcome, make_request, run_all
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from make_runners import RUNNERS, MakeRunner
from test_block_manager import manager, sequence
from test_llm_engine_properties import (
    VOCAB_SIZE,
    alone,
    check_any_schedule,
    drawn,
    random_engine,
    random_request,
    small_runner,
)
from toy_grammar import ToyGrammar

from llamastream.config import EngineConfig
from llamastream.engine.llm_engine import LLMEngine
from llamastream.types import Event, Finished, GenerationRequest

AT_ONCE = sorted(kind for kind in RUNNERS if "ahead" not in kind)


def guided(rng: Random, request: GenerationRequest, vocab_size: int) -> GenerationRequest:
    if rng.random() < 0.6:
        return request
    return replace(request, grammar=ToyGrammar(vocab_size, seed=rng.randrange(99)))


def expecting(rng: Random, request: GenerationRequest, ids: list[int]) -> GenerationRequest:
    """All that is drawn, or some of it, or something else from some place on."""
    wrong = [*ids, *(rng.randrange(VOCAB_SIZE) for _ in range(3))]
    if rng.random() < 0.5:
        wrong[rng.randrange(len(wrong))] = rng.randrange(VOCAB_SIZE)
    expected = wrong[: rng.randint(0, len(wrong))]
    return replace(request, expected_ids=expected, cache_salt=rng.choice([None, b""]))


# Cancelled, preempted and cut anywhere, beside others; the fixture holds no state.
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rng=st.randoms(use_true_random=True))
def test_no_token_is_what_it_is_because_it_was_expected(
    make_runner: MakeRunner, rng: Random
) -> None:
    vocab_size = small_runner(make_runner, num_blocks=1).vocab_size
    requests = [
        guided(rng, random_request(rng, str(number)), vocab_size)
        for number in range(rng.randint(1, 6))
    ]
    expected = {request.request_id: alone(make_runner, request) for request in requests}
    asked = [expecting(rng, one, expected[one.request_id].token_ids) for one in requests]
    check_any_schedule(random_engine(make_runner, rng), rng, asked, expected)


def counted(engine: LLMEngine, request: GenerationRequest) -> tuple[Outcome, int]:
    """What came of a request, and the steps that it took."""
    engine.add(request)
    outcome, num_steps = Outcome(), 0
    while engine.has_work:
        for event in engine.step():
            outcome.add(event)
        engine.check_integrity()
        num_steps += 1
    return outcome, num_steps


@pytest.mark.parametrize("kind", AT_ONCE)
@pytest.mark.parametrize("penalty", [0.0, 0.4])
def test_what_was_expected_rightly_takes_one_step(kind: str, penalty: float) -> None:
    request = make_request("a", list(range(9)), max_tokens=35, frequency_penalty=penalty)
    expected = alone(RUNNERS[kind], request)
    engine = LLMEngine(small_runner(RUNNERS[kind], num_blocks=4), EngineConfig(speculation="off"))
    outcome, num_steps = counted(engine, replace(request, expected_ids=expected.token_ids))
    assert drawn(outcome) == drawn(expected) and num_steps == 1
    assert engine.status().num_drafted_tokens == 0  # they were no guesses


def test_beside_answers_it_takes_the_turns_of_a_prompt() -> None:
    """No more of it comes with an answer's token than of a prompt would."""
    make_runner = RUNNERS["cpu-int8"]
    request = make_request("a", list(range(9)), max_tokens=60)
    expected = alone(make_runner, request).token_ids
    config = EngineConfig(max_prefill_beside_decode=12, speculation="off")
    runner = make_runner(num_blocks=16, block_size=16, max_model_len=128)
    engine, events = LLMEngine(runner, config), list[Event]()
    engine.add(make_request("other", [1, 2, 3], max_tokens=90))
    engine.step()
    engine.add(replace(request, expected_ids=expected))
    while not any(isinstance(event, Finished) for event in events):
        events += engine.step()
    num_beside = sum(event.request_id == "other" for event in events)
    assert num_beside == -(-(9 + 60 - 1) // (12 - 1))


def test_without_a_salt_nothing_is_taken_from_the_cache_and_nothing_left() -> None:
    make_runner = RUNNERS["cpu-int8"]
    engine = LLMEngine(small_runner(make_runner, num_blocks=8), EngineConfig())
    request = make_request("a", list(range(40)), max_tokens=3)
    apart = replace(request, request_id="apart", cache_salt=None)
    for one, num_cached in ((apart, 0), (request, 0), (request, 32), (apart, 0)):
        end = run_all(engine, [one])[one.request_id].end
        assert isinstance(end, Finished) and end.num_cached_tokens == num_cached


def test_without_a_salt_nothing_is_read_from_the_disk_either() -> None:
    seq, shared = sequence(list(range(12))), sequence(list(range(12)))
    seq.cache_salt = None
    assert manager().hold(seq, lambda _: True, keep_free=0) == {}
    assert len(manager().hold(shared, lambda _: True, keep_free=0)) == 2

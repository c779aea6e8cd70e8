"""The engine's central promise: tokens depend on the request alone, whatever happens around it.

Every test here holds for any runner; see conftest.py.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random

import pytest
from driver import Outcome, make_request, run_all, sort_events
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from make_runners import MakeRunner

from llamastream.config import EngineConfig
from llamastream.engine.llm_engine import LLMEngine
from llamastream.engine.runner import Runner
from llamastream.engine.speculation import Speculation
from llamastream.types import Finished, FinishReason, GenerationRequest, Token

VOCAB_SIZE = 61  # the smallest of the runners'
MAX_MODEL_LEN = 96

# Few beginnings and few salts, so that prefixes are shared often; long enough for whole blocks.
BEGINNINGS = [list(range(33)), list(range(17)), [*range(17), 40, 41, 42], [5] * 9, []]
SALTS = [b"", b"", b"key"]
SCOPES = ["", "", "a", "b"]


def random_request(rng: Random, request_id: str) -> GenerationRequest:
    beginning = rng.choice(BEGINNINGS)
    rest = [rng.randrange(VOCAB_SIZE) for _ in range(rng.choice([1, 1, 2, 5, 9, 14]))]
    return make_request(
        request_id,
        beginning + rest,
        cache_salt=rng.choice(SALTS),
        scope=rng.choice(SCOPES),
        seed=rng.getrandbits(64),
        temperature=rng.choice([0.0, 1.0]),
        top_p=rng.choice([1.0, 0.8]),
        repetition_penalty=rng.choice([1.0, 1.0, 1.3]),
        frequency_penalty=rng.choice([0.0, 0.0, 0.4]),
        logit_bias=rng.choice([(), ((3, 2.0),), ((5, 9.0), (6, 9.0))]),  # the last one repeats
        logprobs=rng.choice([None, None, 0, 3]),
        stop_token_ids=rng.choice([frozenset(), frozenset({3, 4})]),
        max_tokens=rng.choice([1, 20, 40, MAX_MODEL_LEN - len(beginning) - len(rest)]),
    )


def alone(make_runner: MakeRunner, request: GenerationRequest) -> Outcome:
    """The yardstick: one request, one chunk, one token at a time, one thread, no sharing, room."""
    runner = make_runner(num_blocks=8, block_size=16, max_model_len=128, threads=1)
    engine = LLMEngine(runner, EngineConfig(enable_prefix_caching=False, speculation="off"))
    return run_all(engine, [replace(request, request_id="alone")])["alone"]


def small_runner(make_runner: MakeRunner, *, num_blocks: int) -> Runner:
    return make_runner(num_blocks=num_blocks, block_size=16, max_model_len=num_blocks * 16)


def drawn(outcome: Outcome) -> list[tuple[object, ...]]:
    """Tokens without the request's name."""
    return [token[1:] for token in outcome.tokens]


MakeSpeculation = Callable[[EngineConfig], Speculation]


def random_engine(
    make_runner: MakeRunner, rng: Random, make_speculation: MakeSpeculation = Speculation
) -> LLMEngine:
    """Hardly more blocks than one sequence may need, so that others are preempted."""
    block_size = rng.choice(make_runner.block_sizes)
    runner = make_runner(
        num_blocks=-(-MAX_MODEL_LEN // block_size) + rng.randint(0, 2),
        block_size=block_size,
        max_model_len=MAX_MODEL_LEN,
    )
    config = EngineConfig(
        max_num_seqs=rng.randint(2, 6),
        max_num_batched_tokens=rng.choice([6, 7, 16, 64]),
        enable_prefix_caching=rng.random() < 0.8,
        speculation=rng.choice(["auto", "off"]),
    )
    return LLMEngine(runner, config, speculation=make_speculation(config))


# The fixture makes runners but holds no state, so hypothesis may share it between examples.
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rng=st.randoms(use_true_random=True))  # hypothesis' own choices hardly ever fill the cache
def test_any_schedule_gives_the_tokens_of_the_request_alone(
    make_runner: MakeRunner, rng: Random
) -> None:
    requests = [random_request(rng, str(number)) for number in range(rng.randint(2, 9))]
    expected = {request.request_id: alone(make_runner, request) for request in requests}
    check_any_schedule(random_engine(make_runner, rng), rng, requests, expected)


def check_any_schedule(
    engine: LLMEngine,
    rng: Random,
    requests: list[GenerationRequest],
    expected: Mapping[str, Outcome],
) -> None:
    """Requests come, and some are cancelled, in the middle of everything."""
    cancelled: set[str] = set()
    outcomes: dict[str, Outcome] = defaultdict(Outcome)
    for request in requests:
        engine.add(request)
        for _ in range(rng.choice([0, 0, 0, 1, 2, 30])):
            sort_events(engine.step(), outcomes)
            engine.check_integrity()
        if rng.random() < 0.15:
            victim = str(rng.randint(0, int(request.request_id)))  # perhaps ended long ago
            if outcomes[victim].end is None:
                cancelled.add(victim)
            engine.cancel(victim)
            engine.check_integrity()
    run_all(engine, outcomes=outcomes)
    for request_id, outcome in expected.items():
        check_outcome(outcomes[request_id], outcome, is_cancelled=request_id in cancelled)


def check_outcome(outcome: Outcome, expected: Outcome, *, is_cancelled: bool) -> None:
    assert isinstance(outcome.end, Finished) and isinstance(expected.end, Finished)
    if is_cancelled:
        assert outcome.end.reason is FinishReason.CANCELLED
        assert drawn(outcome) == drawn(expected)[: len(outcome.tokens)]
    else:
        assert outcome.end.reason is expected.end.reason
        assert drawn(outcome) == drawn(expected)


@pytest.mark.parametrize("budget", [1, 2, 3, 4, 5, 8, 13, 29, 30, 64])
def test_a_prompt_may_be_cut_into_chunks_anywhere(make_runner: MakeRunner, budget: int) -> None:
    request = make_request("a", list(range(30)), max_tokens=4, logprobs=2)
    runner = small_runner(make_runner, num_blocks=4)
    engine = LLMEngine(
        runner,
        EngineConfig(max_num_seqs=1, max_num_batched_tokens=budget, speculation="off"),
    )
    engine.add(request)
    steps = -int(runner.looks_ahead)  # the first step gives no result yet
    tokens: list[tuple[object, ...]] = []
    while engine.has_work:
        tokens += [event[1:] for event in engine.step() if isinstance(event, Token)]
        steps += 1
    assert steps == -(-30 // budget) + 3
    assert tokens == drawn(alone(make_runner, request))


def test_a_prefix_hit_changes_nothing_but_the_count(make_runner: MakeRunner) -> None:
    engine = LLMEngine(small_runner(make_runner, num_blocks=4), EngineConfig())
    request = make_request("first", list(range(35)), max_tokens=6, logprobs=1)
    first = run_all(engine, [request])["first"]
    second = run_all(engine, [replace(request, request_id="second")])["second"]
    assert drawn(first) == drawn(second)
    assert isinstance(first.end, Finished) and isinstance(second.end, Finished)
    assert (first.end.num_cached_tokens, second.end.num_cached_tokens) == (0, 32)


def test_a_preempted_sequence_resumes_with_the_same_tokens(make_runner: MakeRunner) -> None:
    requests = [
        make_request(str(i), [i, *range(7)], max_tokens=50, temperature=1.0, seed=i)
        for i in range(3)
    ]
    # The cache holds 64 tokens: each sequence alone nearly fills it in the end.
    engine = LLMEngine(
        small_runner(make_runner, num_blocks=4),
        EngineConfig(enable_prefix_caching=False, speculation="off"),
    )
    outcomes: dict[str, Outcome] = defaultdict(Outcome)
    for request in requests:
        engine.add(request)
    num_preemptions = 0
    while engine.has_work:
        before = engine.status().num_waiting
        sort_events(engine.step(), outcomes)
        engine.check_integrity()
        num_preemptions += engine.status().num_waiting > before
    assert num_preemptions > 0
    for request in requests:
        assert drawn(outcomes[request.request_id]) == drawn(alone(make_runner, request))


@pytest.mark.parametrize("num_known", [1, 4, 9])
def test_a_resumed_request_goes_on_where_it_stopped(
    make_runner: MakeRunner, num_known: int
) -> None:
    request = make_request(
        "a", [3, 1, 4, 1, 5], max_tokens=10, temperature=1.0, frequency_penalty=0.5
    )
    whole = alone(make_runner, request)
    engine = LLMEngine(small_runner(make_runner, num_blocks=4), EngineConfig())
    resumed = run_all(engine, [replace(request, output_ids=whole.token_ids[:num_known])])["a"]
    assert drawn(resumed) == drawn(whole)[num_known:]
    assert isinstance(resumed.end, Finished) and resumed.end.num_output_tokens == 10

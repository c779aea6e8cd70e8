"""The engine's central promise: tokens depend on the request alone, whatever happens around it.

Every test here holds for any runner; see conftest.py.
"""

from collections import defaultdict
from dataclasses import replace

import pytest
from conftest import MakeRunner
from driver import Outcome, make_request, run_all, sort_events
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamastream.config import EngineConfig
from llamastream.engine.llm_engine import LLMEngine
from llamastream.messages import Finished, FinishReason, GenerationRequest, Token

VOCAB_SIZE = 61  # the smallest of the runners'
MAX_MODEL_LEN = 48

# The fixture makes runners but holds no state, so hypothesis may share it between examples.
property_settings = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

token_ids = st.integers(0, VOCAB_SIZE - 1)
# Few beginnings and few salts, so that prefixes are shared often.
beginnings = st.sampled_from([[], [5] * 9, list(range(20)), [*range(8), 9, 10, 11, 12]])
prompts = st.tuples(beginnings, st.lists(token_ids, min_size=1, max_size=12)).map(
    lambda parts: parts[0] + parts[1]
)


@st.composite
def requests(draw: st.DrawFn) -> GenerationRequest:
    logprobs = draw(st.sampled_from([None, None, 0, 3]))
    return make_request(
        "",
        draw(prompts),
        cache_salt=draw(st.sampled_from([b"", b"key"])),
        seed=draw(st.integers(0, 3)),
        temperature=draw(st.sampled_from([0.0, 1.0])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.0, 1.3])),
        logit_bias=draw(st.sampled_from([(), ((3, 2.0),)])),
        logprobs=logprobs,
        stop_token_ids=draw(st.sampled_from([frozenset(), frozenset(range(10))])),
        max_tokens=draw(st.integers(1, 14)),
    )


def alone(make_runner: MakeRunner, request: GenerationRequest) -> Outcome:
    """The yardstick: one request, one chunk, no sharing, more room than it needs."""
    runner = make_runner(num_blocks=16, block_size=16)
    engine = LLMEngine(runner, EngineConfig(enable_prefix_caching=False))
    return run_all(engine, [replace(request, request_id="alone")])["alone"]


def drawn(outcome: Outcome) -> list[tuple[object, ...]]:
    """Tokens without the request's name."""
    return [token[1:] for token in outcome.tokens]


@property_settings
@given(data=st.data())
def test_any_schedule_gives_the_tokens_of_the_request_alone(
    make_runner: MakeRunner, data: st.DataObject
) -> None:
    block_size = data.draw(st.sampled_from(make_runner.block_sizes), "block_size")
    config = EngineConfig(
        max_num_seqs=data.draw(st.integers(1, 5), "max_num_seqs"),
        max_num_batched_tokens=data.draw(st.sampled_from([5, 7, 16, 64]), "budget"),
        enable_prefix_caching=data.draw(st.booleans(), "prefix caching"),
    )
    num_blocks = -(-MAX_MODEL_LEN // block_size) + data.draw(st.integers(0, 6), "spare blocks")
    runner = make_runner(num_blocks=num_blocks, block_size=block_size, max_model_len=MAX_MODEL_LEN)
    engine = LLMEngine(runner, config)
    added: dict[str, GenerationRequest] = {}
    cancelled: set[str] = set()
    outcomes: dict[str, Outcome] = defaultdict(Outcome)
    for number in range(data.draw(st.integers(1, 8), "requests")):
        request = replace(data.draw(requests(), "request"), request_id=str(number))
        engine.add(request)
        added[request.request_id] = request
        for _ in range(data.draw(st.integers(0, 6), "steps")):
            sort_events(engine.step(), outcomes)
            engine.check_integrity()
        if data.draw(st.integers(0, 3), "cancel") == 0:
            victim = data.draw(st.sampled_from(sorted(added)), "victim")
            if outcomes[victim].end is None:
                cancelled.add(victim)
            engine.cancel(victim)
            engine.check_integrity()
    for request_id, outcome in run_all(engine).items():
        for event in [*outcome.tokens, outcome.end]:
            if event is not None:
                outcomes[request_id].add(event)
    for request_id, request in added.items():
        outcome = outcomes[request_id]
        expected = alone(make_runner, request)
        assert isinstance(outcome.end, Finished)
        if request_id in cancelled:
            assert outcome.end.reason is FinishReason.CANCELLED
            assert drawn(outcome) == drawn(expected)[: len(outcome.tokens)]
        else:
            assert drawn(outcome) == drawn(expected)
            assert isinstance(expected.end, Finished)
            assert outcome.end.reason is expected.end.reason


@pytest.mark.parametrize("budget", [1, 2, 3, 4, 5, 8, 13, 29, 30, 64])
def test_a_prompt_may_be_cut_into_chunks_anywhere(make_runner: MakeRunner, budget: int) -> None:
    request = make_request("a", list(range(30)), max_tokens=4, logprobs=2)
    engine = LLMEngine(
        make_runner(num_blocks=20),
        EngineConfig(max_num_seqs=1, max_num_batched_tokens=budget),
    )
    engine.add(request)
    steps = 0
    tokens: list[tuple[object, ...]] = []
    while engine.has_work:
        tokens += [event[1:] for event in engine.step() if isinstance(event, Token)]
        steps += 1
    assert steps == -(-30 // budget) + 3
    assert tokens == drawn(alone(make_runner, request))


def test_a_prefix_hit_changes_nothing_but_the_count(make_runner: MakeRunner) -> None:
    engine = LLMEngine(make_runner(num_blocks=20), EngineConfig())
    request = make_request("first", list(range(23)), max_tokens=6, logprobs=1)
    num_cached = 23 // make_runner.block_sizes[0] * make_runner.block_sizes[0]
    first = run_all(engine, [request])["first"]
    second = run_all(engine, [replace(request, request_id="second")])["second"]
    assert drawn(first) == drawn(second)
    assert isinstance(first.end, Finished) and isinstance(second.end, Finished)
    assert (first.end.num_cached_tokens, second.end.num_cached_tokens) == (0, num_cached)


def test_a_preempted_sequence_resumes_with_the_same_tokens(make_runner: MakeRunner) -> None:
    size = make_runner.block_sizes[0]
    requests = [
        make_request(
            str(i), [i, *range(2 * size - 1)], max_tokens=4 * size, temperature=1.0, seed=i
        )
        for i in range(3)
    ]
    # 6 blocks: each sequence alone fills them in the end.
    runner = make_runner(num_blocks=6, max_model_len=6 * size)
    engine = LLMEngine(runner, EngineConfig(enable_prefix_caching=False))
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
    engine = LLMEngine(make_runner(num_blocks=20), EngineConfig())
    resumed = run_all(engine, [replace(request, output_ids=whole.token_ids[:num_known])])["a"]
    assert drawn(resumed) == drawn(whole)[num_known:]
    assert isinstance(resumed.end, Finished) and resumed.end.num_output_tokens == 10

"""Grammars inside the engine: when a mask comes changes no token and delays nobody else."""

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from driver import Outcome, make_request, run_all, sort_events
from fake_runner import FakeRunner, expected_tokens
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from make_runners import MakeRunner
from test_async_engine import collect, running
from test_llm_engine_properties import (
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
from llamastream.engine.speculation import Speculation
from llamastream.errors import InternalError, InvalidRequest
from llamastream.types import (
    Event,
    Failed,
    Finished,
    FinishReason,
    GenerationRequest,
    Grammar,
)

TIMEOUT_S = 10.0  # only a failure takes so long
MODES = {
    "off": {"looks_up": False, "forces": False},
    "lookup": {"looks_up": True, "forces": False},
    "forced": {"looks_up": False, "forces": True},
    "both": {"looks_up": True, "forces": True},
}


class Gate:
    """Holds masks back until it is opened."""

    def __init__(self, *, at: int = 0) -> None:
        """`at`: of answers with so many tokens or more."""
        self._at, self._open, self.reached = at, threading.Event(), threading.Event()

    def __call__(self, ids: Sequence[int]) -> None:
        if len(ids) >= self._at and not self._open.is_set():
            self.reached.set()
            assert self._open.wait(TIMEOUT_S)

    def open(self) -> None:
        self._open.set()


def request_with(grammar: Grammar, request_id: str = "a", **options: object) -> GenerationRequest:
    options = {"max_tokens": 20, "temperature": 1.0} | options
    return make_request(request_id, [1, 2, 3], grammar=grammar, **options)  # type: ignore[arg-type]


def fake_engine(mode: str = "both", **options: object) -> LLMEngine:
    config = EngineConfig(**options)  # type: ignore[arg-type]
    return LLMEngine(FakeRunner(), config, speculation=Speculation(config, **MODES[mode]))


def expected(request: GenerationRequest) -> list[int]:
    return expected_tokens(request, max_model_len=128, vocab_size=97)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rng=st.randoms(use_true_random=True))
def test_any_schedule_gives_the_tokens_that_the_grammar_allows(
    make_runner: MakeRunner, rng: Random
) -> None:
    vocab_size = small_runner(make_runner, num_blocks=1).vocab_size
    requests = [
        replace(
            random_request(rng, str(number)),
            grammar=ToyGrammar(vocab_size, seed=number) if rng.random() < 0.7 else None,
        )
        for number in range(rng.randint(2, 7))
    ]
    expected = {request.request_id: alone(make_runner, request) for request in requests}
    mode = MODES[rng.choice(list(MODES))]
    engine = random_engine(make_runner, rng, lambda config: Speculation(config, **mode))
    check_any_schedule(engine, rng, requests, expected)
    engine.close()
    for request in requests:
        if isinstance(request.grammar, ToyGrammar):
            tokens = expected[request.request_id].token_ids
            for position, token_id in enumerate(tokens):
                assert token_id in request.grammar.allowed(tokens[:position])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_known", [0, 1, 7, 19])
def test_an_answer_goes_on_where_it_stopped(mode: str, num_known: int) -> None:
    request = request_with(ToyGrammar(97))
    tokens = expected(request)
    resumed = replace(request, output_ids=tokens[:num_known])
    engine = fake_engine(mode)
    assert run_all(engine, [resumed])["a"].token_ids == tokens[num_known:]
    engine.close()


def test_forced_tokens_are_drafts_that_are_always_right() -> None:
    request = request_with(ToyGrammar(97, seed=1), max_tokens=60)
    num_steps = {}
    for mode in MODES:
        engine = fake_engine(mode)
        engine.add(request)
        outcomes, num_steps[mode] = defaultdict[str, Outcome](Outcome), 0
        while engine.has_work:
            events = engine.step()
            sort_events(events, outcomes)
            num_steps[mode] += bool(events)
        assert outcomes["a"].token_ids == expected(request)
        status = engine.status()
        if mode == "forced":
            assert status.num_accepted_tokens == status.num_drafted_tokens > 0
        engine.close()
    assert num_steps["forced"] < num_steps["off"] and num_steps["both"] <= num_steps["lookup"]


def test_nobody_waits_for_a_mask_that_is_late() -> None:
    gate = Gate(at=3)
    late, other = (
        request_with(ToyGrammar(97, before_mask=gate)),
        make_request("b", [5], max_tokens=30),
    )
    engine = fake_engine()
    outcomes: dict[str, Outcome] = defaultdict(Outcome)
    for request in (late, other):
        engine.add(request)
    while outcomes["b"].end is None:
        sort_events(engine.step(), outcomes)
        engine.check_integrity()
    assert gate.reached.wait(30) and len(outcomes["a"].tokens) <= 3
    gate.open()
    run_all(engine, outcomes=outcomes)
    assert outcomes["a"].token_ids == expected(late) and outcomes["b"].token_ids == expected(other)
    engine.close()


def test_with_nothing_else_to_do_the_engine_waits_and_a_call_wakes_it() -> None:
    gate = Gate()
    engine = fake_engine()
    engine.add(request_with(ToyGrammar(97, before_mask=gate)))
    engine.step()  # the prompt, but for the token behind which a mask is needed
    stepped: list[list[Event]] = []
    thread = threading.Thread(target=lambda: stepped.append(engine.step()))
    thread.start()
    assert gate.reached.wait(TIMEOUT_S) and not stepped
    engine.masking.wake()
    thread.join(TIMEOUT_S)
    assert stepped == [[]]
    gate.open()
    assert len(run_all(engine)["a"].tokens) == 20
    engine.close()


async def test_new_requests_and_cancels_come_in_while_a_mask_is_late() -> None:
    gate = Gate()
    async with running() as engine:
        engine.submit(request_with(ToyGrammar(97, before_mask=gate)))
        other = make_request("b", [4, 4], max_tokens=9)
        engine.submit(other)
        outcomes = await collect(engine, lambda outcomes: outcomes["b"].end is not None)
        assert outcomes["b"].token_ids == expected(other)
        engine.cancel("a")
        events = [event for outcome in outcomes.values() for event in outcome.tokens]
        outcomes = await collect(
            engine, lambda outcomes: outcomes["a"].end is not None, start=events
        )
        assert isinstance(outcomes["a"].end, Finished)
        assert outcomes["a"].end.reason is FinishReason.CANCELLED
        gate.open()


@pytest.mark.parametrize(
    "problem", [InvalidRequest("too complex"), ZeroDivisionError(), SystemExit()]
)
@pytest.mark.parametrize("at", [0, 4])
def test_a_grammar_that_fails_ends_its_answer_and_no_other(problem: BaseException, at: int) -> None:
    def fail(ids: Sequence[int]) -> None:
        if len(ids) >= at:
            raise problem

    failing = request_with(ToyGrammar(97, before_mask=fail))
    other = request_with(ToyGrammar(97, seed=2), "b")
    engine = fake_engine("off")
    outcomes = run_all(engine, [failing, other])
    end = outcomes["a"].end
    assert isinstance(end, Failed)
    known = isinstance(problem, InvalidRequest)
    assert end.error is problem if known else isinstance(end.error, InternalError)
    assert outcomes["a"].token_ids == expected(replace(failing, grammar=ToyGrammar(97)))[:at]
    assert outcomes["b"].token_ids == expected(other)
    engine.close()


def test_a_preempted_answer_whose_mask_is_late_draws_nothing_without_it() -> None:
    """The cache holds 64 tokens: both cannot stay."""
    gate = Gate(at=24)
    late = replace(request_with(ToyGrammar(97, before_mask=gate), max_tokens=40), scope="late")
    other = make_request("b", [9] * 8, max_tokens=48, scope="other")
    config = EngineConfig(enable_prefix_caching=False)
    engine = LLMEngine(FakeRunner(num_blocks=16, block_size=4, max_model_len=64), config)
    outcomes: dict[str, Outcome] = defaultdict(Outcome)
    for request in (late, other):
        engine.add(request)
    while outcomes["b"].end is None:
        sort_events(engine.step(), outcomes)
        engine.check_integrity()
    assert len(outcomes["a"].tokens) <= 24
    gate.open()
    run_all(engine, outcomes=outcomes)
    wanted = expected_tokens(late, max_model_len=64, vocab_size=97)
    assert outcomes["a"].token_ids == wanted
    engine.close()


@pytest.mark.parametrize("mode", MODES)
def test_tokens_and_logprobs_are_the_same_beside_others(make_runner: MakeRunner, mode: str) -> None:
    grammars = [
        ToyGrammar(small_runner(make_runner, num_blocks=1).vocab_size, seed=k) for k in (0, 1)
    ]
    requests = [
        make_request(
            str(k),
            [k, 7, 8],
            max_tokens=25,
            grammar=grammars[k % 2] if k % 3 else None,
            temperature=float(k % 2),
            logprobs=2,
            frequency_penalty=0.1 * (k % 4),
        )
        for k in range(9)
    ]
    expected = {request.request_id: alone(make_runner, request) for request in requests}
    config = EngineConfig(max_num_seqs=len(requests))
    engine = LLMEngine(
        make_runner(num_blocks=24, block_size=16, max_model_len=96),
        config,
        speculation=Speculation(config, **MODES[mode]),
    )
    outcomes = run_all(engine, requests)
    assert {k: drawn(v) for k, v in outcomes.items()} == {k: drawn(v) for k, v in expected.items()}
    engine.close()

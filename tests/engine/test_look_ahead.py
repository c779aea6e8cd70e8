"""A step is begun before the last one's tokens are known: what that must not change."""

from collections.abc import Callable

import pytest
from ahead_runner import AheadRunner
from driver import make_request, run_all
from fake_runner import FakeRunner, expected_tokens

from llamastream.config import EngineConfig
from llamastream.engine.llm_engine import LLMEngine
from llamastream.engine.runner import ForwardBatch, StepResult
from llamastream.errors import InternalError
from llamastream.types import Failed, Finished, FinishReason, GenerationRequest


class Recorder(AheadRunner):
    """Keeps the order of calls, and the tokens of each step; a result may be scripted to fail."""

    def __init__(self, runner: FakeRunner, *, failing: int | None = None) -> None:
        super().__init__(runner)
        self.calls: list[str] = []
        self.step_sizes = runner.step_sizes
        self._failing = failing
        self._num_steps = 0

    def start(self, batch: ForwardBatch) -> Callable[[], StepResult]:
        take, number = super().start(batch), self._num_steps
        self._num_steps += 1
        self.calls.append(f"start {number}")

        def recorded() -> StepResult:
            self.calls.append(f"take {number}")
            if number == self._failing:
                raise RuntimeError("scripted failure")
            return take()

        return recorded


def make_engine(
    runner: AheadRunner | None = None, *, speculation: str = "off", **config: object
) -> LLMEngine:
    runner = runner or AheadRunner(FakeRunner())
    return LLMEngine(runner, EngineConfig(speculation=speculation, **config))  # type: ignore[arg-type]


def expected(request: GenerationRequest) -> list[int]:
    return expected_tokens(request, max_model_len=128, vocab_size=97)


def stopping(request_id: str, *, at: int) -> GenerationRequest:
    """Ends by the token it draws as output `at`."""
    stop = expected(make_request(request_id, [1, 2, 3], max_tokens=40))[at]
    return make_request(
        request_id, [1, 2, 3], max_tokens=40, stop_token_ids=frozenset({stop}), logprobs=1
    )


def test_the_next_step_is_begun_before_the_result_of_the_last_is_taken() -> None:
    runner = Recorder(FakeRunner())
    request = make_request("a", [1, 2, 3], max_tokens=3, presence_penalty=0.5)
    outcome = run_all(make_engine(runner), [request])["a"]
    assert runner.calls == ["start 0", "start 1", "take 0", "start 2", "take 1", "take 2"]
    assert runner.num_unknown == 2
    assert outcome.token_ids == expected(request)


def test_the_last_token_that_may_be_drawn_is_never_computed() -> None:
    runner = Recorder(FakeRunner())
    requests = [make_request(str(i), [i] * 2, max_tokens=2 + i) for i in range(3)]
    run_all(make_engine(runner), requests)
    assert runner.step_sizes == [6, 3, 2, 1]


def test_what_was_begun_after_a_stop_token_is_dropped() -> None:
    runner = Recorder(FakeRunner())
    stopped, other = stopping("a", at=4), make_request("b", [9], max_tokens=12)
    outcomes = run_all(make_engine(runner), [stopped, other])
    assert outcomes["a"].token_ids == expected(stopped) and len(outcomes["a"].tokens) == 5
    assert outcomes["a"].end == Finished("a", FinishReason.STOP, 3, 0, 5)
    assert outcomes["b"].token_ids == expected(other)
    assert runner.step_sizes == [4, 2, 2, 2, 2, 2, *[1] * 6]  # the sixth row of "a" for nothing


@pytest.mark.parametrize("num_steps", range(1, 5))
def test_a_cancelled_answer_counts_what_was_reported(num_steps: int) -> None:
    engine = make_engine(AheadRunner(FakeRunner(num_blocks=8)))
    engine.add(make_request("a", [1] * 9, max_tokens=20))
    tokens = [event for _ in range(num_steps) for event in engine.step()]
    assert len(tokens) == num_steps - 1
    engine.cancel("a")
    engine.check_integrity()
    assert engine.status().num_free_blocks == 8
    successor = make_request("a", [5] * 9, max_tokens=20)  # takes its name and its blocks
    engine.add(successor)
    (end,) = engine.step()
    assert isinstance(end, Finished)
    assert end[:5] == ("a", FinishReason.CANCELLED, 9, 0, num_steps - 1)
    assert run_all(engine)["a"].token_ids == expected(successor)


def test_the_blocks_of_an_ended_answer_serve_the_next_one() -> None:
    """But not the last token's, though a step that was begun too early has computed that one."""
    engine = make_engine(AheadRunner(FakeRunner(num_blocks=16, block_size=4)))
    stopped = stopping("a", at=4)  # 8 tokens, two blocks, with the stop token
    first = run_all(engine, [stopped])["a"]
    again = make_request("b", [1, 2, 3, *first.token_ids, 7], max_tokens=3)
    outcome = run_all(engine, [again])["b"]
    assert outcome.end == Finished("b", FinishReason.LENGTH, 9, 4, 3)
    assert outcome.token_ids == expected(again)


@pytest.mark.parametrize("fails_at", ["start", "take"])
def test_a_failure_fails_all_and_no_later_answer_sees_it(fails_at: str) -> None:
    inner = FakeRunner(failures=[3] if fails_at == "start" else [])
    runner = Recorder(inner, failing=3 if fails_at == "take" else None)
    engine = make_engine(runner)
    requests = [make_request(str(i), [i] * 9, max_tokens=9) for i in range(3)]
    for outcome in run_all(engine, requests).values():  # nothing follows the end of any
        assert isinstance(outcome.end, Failed) and type(outcome.end.error) is InternalError
        assert len(outcome.tokens) == (2 if fails_at == "start" else 3)
    assert not engine.is_dead
    assert run_all(engine, [requests[0]])["0"].token_ids == expected(requests[0])


def test_where_drafts_are_possible_each_result_is_waited_for() -> None:
    """With more sequences than drafts are made for, steps are begun ahead; with fewer, not."""
    runner = Recorder(FakeRunner())
    engine = make_engine(runner, speculation="auto")
    requests = [make_request(str(i), [i] * 3, max_tokens=3 + 2 * (i > 7)) for i in range(12)]
    outcomes = run_all(engine, requests)
    for request in requests:
        assert outcomes[request.request_id].token_ids == expected(request)
    calls = " ".join(runner.calls)
    assert calls == ("start 0 start 1 take 0 start 2 take 1 start 3 take 2 take 3 start 4 take 4")


def test_with_hardly_a_free_block_results_come_first_and_preempt_as_ever() -> None:
    runner = Recorder(FakeRunner(num_blocks=10, block_size=4))
    engine = make_engine(runner, enable_prefix_caching=False)
    requests = [make_request(str(i), [i] * 4, max_tokens=30) for i in range(3)]
    outcomes = run_all(engine, requests)
    for request in requests:
        assert outcomes[request.request_id].token_ids == expected_tokens(
            request, max_model_len=40, vocab_size=97
        )
    assert sum(runner.step_sizes) > 3 * (4 + 29)  # some were computed twice
    assert runner.num_unknown > 0

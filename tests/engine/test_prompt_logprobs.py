"""Log-probabilities of a prompt's tokens: computed with the prompt, and those of decoding."""

import pytest
from ahead_runner import AheadRunner
from driver import Outcome, make_request, run_all
from fake_runner import FakeRunner
from make_runners import MakeCpu
from paged_steps import random_ids

from llamastream.config import EngineConfig
from llamastream.engine.llm_engine import LLMEngine
from llamastream.errors import InvalidRequest
from llamastream.types import Finished, FinishReason, Token

MAKE = MakeCpu("int8")
PROMPT = random_ids(MAKE.config, 30, seed=1)
WIDTH = 3


def make_engine(*, num_blocks: int = 64, threads: int = 2, **config: object) -> LLMEngine:
    runner = MAKE(
        num_blocks=num_blocks,
        block_size=16,
        max_model_len=min(128, 16 * num_blocks),
        threads=threads,
    )
    return LLMEngine(runner, EngineConfig(**config))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def decoded() -> Outcome:
    """40 tokens drawn one by one."""
    request = make_request("a", PROMPT, max_tokens=40, temperature=1.0, logprobs=WIDTH)
    return run_all(make_engine(speculation="off"), [request])["a"]


def numbers(tokens: list[Token]) -> list[tuple[object, ...]]:
    return [token[2:] for token in tokens]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("budget", [16, 17, 512])
def test_they_are_those_of_decoding_however_the_prompt_is_cut(
    decoded: Outcome, budget: int, threads: int
) -> None:
    engine = make_engine(max_num_batched_tokens=budget, max_num_seqs=8, threads=threads)
    ids = PROMPT + decoded.token_ids
    others = [make_request(str(k), PROMPT[k:], max_tokens=30) for k in range(6)]
    asked = make_request("a", ids, max_tokens=2, prompt_logprobs=WIDTH, logprobs=0)
    outcome = run_all(engine, [*others[:3], asked, *others[3:]])["a"]
    assert [token.token_id for token in outcome.prompt] == ids[1:]
    assert [token.position for token in outcome.prompt] == list(range(1, len(ids)))
    assert numbers(outcome.prompt[len(PROMPT) - 1 :]) == numbers(decoded.tokens)
    assert len(outcome.tokens) == 2 and outcome.tokens[0].logprob is not None


def test_they_outlive_preemption_and_are_told_once(decoded: Outcome) -> None:
    """Blocks for 6 of 16 tokens: whoever comes last gives way again and again."""
    engine = make_engine(num_blocks=6, max_num_batched_tokens=16, max_num_seqs=4)
    ids = PROMPT + decoded.token_ids[:34]
    requests = [
        make_request("first", PROMPT[:20], max_tokens=40),
        make_request("a", ids, max_tokens=3, prompt_logprobs=WIDTH),
    ]
    outcome = run_all(engine, requests)["a"]
    assert [token.token_id for token in outcome.prompt] == ids[1:]
    assert numbers(outcome.prompt[len(PROMPT) - 1 :]) == numbers(decoded.tokens[:34])


def test_no_row_is_taken_from_the_cache_but_all_are_given_to_it() -> None:
    engine = make_engine()
    first, again, plain = (
        run_all(engine, [make_request("a", PROMPT, max_tokens=1, prompt_logprobs=asked)])["a"]
        for asked in (0, 0, None)
    )
    assert numbers(first.prompt) == numbers(again.prompt) and len(first.prompt) == 29
    ends = [outcome.end for outcome in (first, again, plain)]
    assert [end.num_cached_tokens for end in ends if isinstance(end, Finished)] == [0, 0, 16]
    assert not plain.prompt and plain.token_ids == first.token_ids


def test_a_prompt_takes_no_more_steps_than_without() -> None:
    runner = FakeRunner(max_model_len=128)
    engine = LLMEngine(runner, EngineConfig(max_num_batched_tokens=32, max_num_seqs=4))
    run_all(engine, [make_request("a", list(range(90)), max_tokens=1, prompt_logprobs=0)])
    assert runner.step_sizes == [32, 32, 26]


@pytest.mark.parametrize("length", [1, 2, 33, 128])
@pytest.mark.parametrize("prompt_logprobs", [None, 1])
def test_a_prompt_alone_ends_without_a_token(length: int, prompt_logprobs: int | None) -> None:
    """Also one as long as the context."""
    engine = LLMEngine(FakeRunner(), EngineConfig(max_num_batched_tokens=16, max_num_seqs=4))
    ids = [k % 97 for k in range(length)]
    request = make_request("a", ids, max_tokens=0, prompt_logprobs=prompt_logprobs)
    outcome = run_all(engine, [request, make_request("b", [1, 2], max_tokens=40)])["a"]
    assert not outcome.tokens
    assert outcome.end == Finished("a", FinishReason.LENGTH, length, 0, 0)
    expected = ids[1:] if prompt_logprobs is not None else []
    assert [token.token_id for token in outcome.prompt] == expected


def test_cancelled_in_the_middle_of_a_prompt_frees_everything() -> None:
    engine = LLMEngine(FakeRunner(), EngineConfig(max_num_batched_tokens=16, max_num_seqs=4))
    engine.add(make_request("a", list(range(60)), max_tokens=1, prompt_logprobs=0))
    engine.step()
    engine.cancel("a")
    assert isinstance(run_all(engine)["a"].end, Finished)


def test_a_runner_that_looks_ahead_refuses_by_name() -> None:
    engine = LLMEngine(AheadRunner(FakeRunner()), EngineConfig())
    with pytest.raises(InvalidRequest, match="not computed on this device"):
        engine.add(make_request("a", [1, 2], max_tokens=1, prompt_logprobs=0))

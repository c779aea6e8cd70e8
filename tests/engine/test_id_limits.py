"""min_tokens and allowed_token_ids: what they rule out is never drawn, and nothing else changes."""

import pytest
from driver import make_request, run_all
from make_runners import RUNNERS, MakeCpu

from llamastream.config import EngineConfig
from llamastream.engine.id_limits import IdLimits
from llamastream.engine.llm_engine import LLMEngine
from llamastream.errors import InvalidRequest
from llamastream.sampling import SamplingParams
from llamastream.types import Finished, FinishReason

PROMPT = [1, 2, 3, 4] * 5


def make_engine(name: str = "cpu-int8", **config: object) -> LLMEngine:
    runner = RUNNERS[name](num_blocks=64, block_size=16, max_model_len=128)
    return LLMEngine(runner, EngineConfig(**config))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["cpu-int8", "cpu-int8, ahead"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_only_what_is_allowed_is_drawn(name: str, temperature: float) -> None:
    allowed = (5, 7, 40)
    options = {"temperature": temperature, "allowed_token_ids": allowed, "max_tokens": 40}
    alone = run_all(make_engine(name, speculation="off"), [make_request("a", PROMPT, **options)])
    others = [make_request(str(k), [k] * 9, max_tokens=30) for k in range(5)]
    engine = make_engine(name)
    among = run_all(engine, [*others, make_request("a", PROMPT, **options)])["a"]
    assert len(among.tokens) == 40 and set(among.token_ids) <= set(allowed)
    assert among.token_ids == alone["a"].token_ids
    free = run_all(make_engine(name), others)["3"].token_ids
    assert run_all(engine, [others[3]])["3"].token_ids == free


@pytest.mark.parametrize("min_tokens", [1, 5, 20])
def test_an_end_comes_only_behind_the_first_tokens(min_tokens: int) -> None:
    """Half of the vocabulary ends an answer."""
    stops = frozenset(range(0, MakeCpu("int8").config.vocab_size, 2))
    options = {"stop_token_ids": stops, "temperature": 1.0, "max_tokens": 60}
    outcome = run_all(make_engine(), [make_request("a", PROMPT, min_tokens=min_tokens, **options)])[
        "a"
    ]
    assert not stops & set(outcome.token_ids[:min_tokens])
    assert isinstance(outcome.end, Finished) and outcome.end.reason is FinishReason.STOP
    again = make_request(
        "b", PROMPT, min_tokens=min_tokens, output_ids=outcome.token_ids[:-1], **options
    )
    assert run_all(make_engine(), [again])["b"].token_ids == outcome.token_ids[-1:]


def test_bits_beyond_the_vocabulary_are_not_set() -> None:
    limits = IdLimits(SamplingParams(allowed_token_ids=(0, 33)), vocab_size=34)
    constraint = limits.start()
    assert constraint.mask() == bytes([1, 0, 0, 0, 2, 0, 0, 0])
    assert (constraint.num_allowed([33, 0, 1, 0]), constraint.forced()) == (2, [])


def test_what_could_never_go_on_is_refused() -> None:
    request = make_request(
        "a", PROMPT, min_tokens=2, allowed_token_ids=(4,), stop_token_ids=frozenset({4})
    )
    with pytest.raises(InvalidRequest, match="exclude each other"):
        make_engine().add(request)


def test_more_than_may_come_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="min_tokens must be <= max_tokens"):
        SamplingParams(max_tokens=3, min_tokens=4)

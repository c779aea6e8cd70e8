"""Fitting conversations into the context: refused with numbers, or whole oldest turns dropped."""

import pytest
from chat_builders import chat, examples
from hypothesis import given
from hypothesis import strategies as st

from llamastream.errors import ContextLengthExceeded
from llamastream.text import FittedPrompt, PromptBuilder, Tokenizer, check_prompt, fit_context
from llamastream.types import Message


@pytest.fixture(scope="module")
def builder(byte_level: Tokenizer) -> PromptBuilder:
    return PromptBuilder.from_config(byte_level, "chatml")


class Fitter:
    """`fit_context` with one model."""

    def __init__(self, tokenizer: Tokenizer, builder: PromptBuilder) -> None:
        self.tokenizer, self.builder = tokenizer, builder

    def __call__(
        self, messages: list[Message], *, limit: int, max_tokens: int | None = 20, auto: bool = True
    ) -> FittedPrompt:
        return fit_context(
            self.builder,
            self.tokenizer,
            messages,
            truncation="auto" if auto else "disabled",
            max_tokens=max_tokens,
            max_model_len=limit,
        )


@pytest.fixture(scope="module")
def fit(byte_level: Tokenizer, builder: PromptBuilder) -> Fitter:
    return Fitter(byte_level, builder)


def conversation(turns: int, *, system: str | None = "Be brief.") -> list[Message]:
    """`turns` questions, all but the last answered; each turn is recognisable."""
    contents = [f"{'qa'[n % 2]}{n // 2} some words" for n in range(2 * turns - 1)]
    return chat(*contents, system=system)


def test_what_fits_is_built_whole(fit: Fitter, builder: PromptBuilder) -> None:
    messages = conversation(3)
    ids = builder.build(messages)
    assert fit(messages, limit=len(ids) + 20) == FittedPrompt(ids, 0)
    assert fit(messages, limit=len(ids) + 20, auto=False) == FittedPrompt(ids, 0)


def test_one_token_too_many_is_refused_with_the_numbers(
    fit: Fitter, builder: PromptBuilder
) -> None:
    messages = conversation(3)
    count = len(builder.build(messages))
    with pytest.raises(ContextLengthExceeded) as refusal:
        fit(messages, limit=count + 19, auto=False)
    assert f"maximum context length is {count + 19} tokens" in refusal.value.message
    assert f"({count} in the messages, 20 in the completion)" in refusal.value.message


def test_without_max_tokens_one_token_of_answer_must_fit(
    fit: Fitter, builder: PromptBuilder
) -> None:
    messages = conversation(3)
    count = len(builder.build(messages))
    assert fit(messages, limit=count + 1, max_tokens=None, auto=False).num_dropped_turns == 0
    with pytest.raises(ContextLengthExceeded, match=f"messages resulted in {count} tokens"):
        fit(messages, limit=count, max_tokens=None, auto=False)


def test_prompts_that_are_no_conversation_are_checked_alike() -> None:
    check_prompt(90, max_tokens=10, max_model_len=100)
    with pytest.raises(ContextLengthExceeded, match="101 tokens .91 in the messages, 10"):
        check_prompt(91, max_tokens=10, max_model_len=100)


@given(turns=st.integers(2, 30), limit=st.integers(120, 600), max_tokens=st.integers(1, 60))
@examples(200)
def test_whole_oldest_turns_go_and_the_system_prompt_stays(
    byte_level: Tokenizer,
    builder: PromptBuilder,
    fit: Fitter,
    turns: int,
    limit: int,
    max_tokens: int,
) -> None:
    messages = conversation(turns)
    fitted = fit(messages, limit=limit, max_tokens=max_tokens)
    assert len(fitted.ids) + max_tokens <= limit
    kept = [messages[0], *messages[1 + 2 * fitted.num_dropped_turns :]]
    assert fitted.ids == builder.build(kept)
    assert kept[1].role == "user"


@pytest.mark.parametrize(("system", "limit"), [(None, 400), ("Be brief. " * 60, 900)])
def test_dropping_moves_seldom_while_the_conversation_grows(
    fit: Fitter, system: str | None, limit: int
) -> None:
    grown = [conversation(n, system=system) for n in range(1, 60)]
    dropped = [fit(messages, limit=limit).num_dropped_turns for messages in grown]
    assert dropped == sorted(dropped)
    moves = sum(a != b for a, b in zip(dropped, dropped[1:], strict=False))
    assert dropped[-1] > 40
    assert 1 < moves <= dropped[-1] / 4  # several turns go at a time


def test_the_prefix_stays_between_two_moves(fit: Fitter) -> None:
    prompts = [fit(conversation(n), limit=400) for n in range(20, 40)]
    for before, after in zip(prompts, prompts[1:], strict=False):
        if before.num_dropped_turns == after.num_dropped_turns:
            shared = len(before.ids) - 3  # up to where the answer begins
            assert after.ids[:shared] == before.ids[:shared]


def test_without_max_tokens_room_is_kept_for_the_answer(fit: Fitter) -> None:
    fitted = fit(conversation(40), limit=400, max_tokens=None)
    assert len(fitted.ids) <= 300


def test_a_last_turn_that_does_not_fit_is_refused(fit: Fitter) -> None:
    messages = chat("a", "b", "many words " * 200)
    with pytest.raises(ContextLengthExceeded, match="context length is 100 tokens"):
        fit(messages, limit=100)


def test_without_max_tokens_the_last_turn_may_use_the_answers_room(fit: Fitter) -> None:
    messages = chat("a", "b", "x" * 85)
    fitted = fit(messages, limit=110, max_tokens=None)
    assert fitted.num_dropped_turns == 1
    assert 82 < len(fitted.ids) < 110


def test_a_greeting_before_the_first_question_is_a_turn(fit: Fitter) -> None:
    messages = [Message("assistant", "Welcome! " * 8), *conversation(12, system=None)]
    assert fit(messages, limit=200).num_dropped_turns > 1

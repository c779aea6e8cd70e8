"""Fitting a conversation into the model's context, or saying with numbers why it does not fit."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from llamastream.errors import ContextLengthExceeded
from llamastream.text.templates import PromptBuilder
from llamastream.text.tokenizer import Tokenizer
from llamastream.types import PLAIN_PROMPT, Message, PromptOptions

MESSAGE_OVERHEAD = 8  # tokens around one message, about: tags, role, newlines
# Dropping goes on until this share of the room is used, so that it is not needed at the next turn.
KEEP_SHARE = 0.5
ANSWER_SHARE = 0.25  # of the context, kept for an answer whose length nobody limited


class FittedPrompt(NamedTuple):
    ids: list[int]
    num_dropped_turns: int


def check_prompt(
    num_prompt_tokens: int,
    *,
    max_tokens: int | None,
    max_model_len: int,
    param: str = "messages",
) -> None:
    """Raises ContextLengthExceeded unless prompt and answer fit; without `max_tokens` one token of
    answer must. `param` is what the prompt was made from."""
    way_out = ", or ask for truncation: auto" if param == "messages" else ""
    if num_prompt_tokens + (max_tokens or 1) > max_model_len:
        raise ContextLengthExceeded.of(
            num_prompt_tokens, max_tokens, max_model_len, param=param, way_out=way_out
        )


def prompt_room(max_tokens: int | None, max_model_len: int) -> int:
    """Tokens of a prompt that leave as much for the answer as it is sure to want."""
    return max_model_len - (max_tokens or max(1, int(max_model_len * ANSWER_SHARE)))


def fit_context(
    builder: PromptBuilder,
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    truncation: Literal["disabled", "auto"],
    max_tokens: int | None,
    max_model_len: int,
    options: PromptOptions = PLAIN_PROMPT,
) -> FittedPrompt:
    """Build the prompt; with `auto`, without as many of the oldest turns as it takes to fit.

    A turn is a user message with what follows it up to the next. The system prompt and the last
    turn stay, and no message is cut. What is dropped depends on conversation and limits alone, and
    stays the same for many turns as the conversation grows, so that its cached prefix stays valid.
    Raises ContextLengthExceeded if it does not fit even so, with what `builder` raises.
    """
    ids = builder.build(messages, options)
    room = prompt_room(max_tokens, max_model_len)
    system, turns = _split(messages)
    if truncation == "disabled" or len(ids) <= room or len(turns) < 2:
        check_prompt(len(ids), max_tokens=max_tokens, max_model_len=max_model_len)
        return FittedPrompt(ids, 0)
    sizes = [sum(_num_tokens(tokenizer, m) for m in turn) for turn in turns]
    fixed = len(builder.build([*system, Message("user", "")]))
    first = max(1, _first_kept(sizes, room=room - fixed))
    for num_dropped in range(first, len(turns)):
        kept = [message for turn in turns[num_dropped:] for message in turn]
        ids = builder.build([*system, *kept], options)
        if len(ids) <= room:
            break
    check_prompt(len(ids), max_tokens=max_tokens, max_model_len=max_model_len)
    return FittedPrompt(ids, num_dropped)


def _first_kept(sizes: Sequence[int], *, room: int) -> int:
    """Index of the first turn to keep.

    It is found by going through the conversation as it grew, turn by turn: whenever it outgrew the
    room, the oldest turns went until `KEEP_SHARE` of it was used. So it moves seldom, and far.
    """
    first, used = 0, 0
    for last, size in enumerate(sizes):
        used += size
        if used <= room:
            continue
        while first < last and used > room * KEEP_SHARE:
            used -= sizes[first]
            first += 1
    return first


def _split(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """The system prompt, and the turns after it."""
    start = next((i for i, m in enumerate(messages) if m.role != "system"), len(messages))
    turns: list[list[Message]] = []
    for message in messages[start:]:
        if message.role == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    return list(messages[:start]), turns


def _num_tokens(tokenizer: Tokenizer, message: Message) -> int:
    return len(tokenizer.encode(message.content, add_bos=False)) + MESSAGE_OVERHEAD

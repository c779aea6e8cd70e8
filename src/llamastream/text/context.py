"""Fitting a conversation into the model's context, or saying with numbers why it does not fit."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal, NamedTuple

from llamastream.errors import ContextLengthExceeded
from llamastream.text.bounds import CHARS_PER_TOKEN, DoesNotFit, check_room
from llamastream.text.conversation import strings_of
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
    if num_prompt_tokens + (1 if max_tokens is None else max_tokens) > max_model_len:
        raise too_long(num_prompt_tokens, max_tokens, max_model_len, param=param)


def too_long(
    prompt: int | DoesNotFit, max_tokens: int | None, limit: int, *, param: str
) -> ContextLengthExceeded:
    """The refusal of a prompt of so many tokens, or of one whose beginning was enough."""
    num_tokens, is_least = (prompt, False) if isinstance(prompt, int) else (prompt.num_tokens, True)
    way_out = ", or ask for truncation: auto" if param == "messages" else ""
    return ContextLengthExceeded.of(
        num_tokens, max_tokens, limit, param=param, way_out=way_out, is_least=is_least
    )


def prompt_room(max_tokens: int | None, max_model_len: int) -> int:
    """Tokens of a prompt that leave as much for the answer as it is sure to want."""
    if max_tokens is None:
        max_tokens = max(1, int(max_model_len * ANSWER_SHARE))
    return max_model_len - max_tokens


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
    room = prompt_room(max_tokens, max_model_len)
    system, turns = _split(messages)
    may_drop = truncation == "auto" and len(turns) > 1
    try:
        ids = builder.build(messages, options, max_model_len)
    except DoesNotFit as error:
        if not may_drop:
            raise too_long(error, max_tokens, max_model_len, param="messages") from None
    else:
        if not may_drop or len(ids) <= room:
            check_prompt(len(ids), max_tokens=max_tokens, max_model_len=max_model_len)
            return FittedPrompt(ids, 0)
    first = _first_to_try(builder, tokenizer, system, turns, room, options)

    @cache
    def without(num_dropped: int) -> list[int] | None:
        kept = [message for turn in turns[num_dropped:] for message in turn]
        try:
            return builder.build([*system, *kept], options, max_model_len)
        except DoesNotFit as error:
            if num_dropped == len(turns) - 1:
                raise too_long(error, max_tokens, max_model_len, param="messages") from None
            return None

    ids, num_dropped = _longest(without, range(first, len(turns)), room)
    check_prompt(len(ids), max_tokens=max_tokens, max_model_len=max_model_len)
    return FittedPrompt(ids, num_dropped)


def _first_to_try(
    builder: PromptBuilder,
    tokenizer: Tokenizer,
    system: list[Message],
    turns: list[list[Message]],
    room: int,
    options: PromptOptions,
) -> int:
    """Index of the first turn to keep by the sizes of the turns' texts, one at least being dropped.

    Turns so far back that they hardly fit, whatever their text, are left out unread.
    """
    empty = [*system, Message("user", "")]
    fixed = len(builder.build(empty, PromptOptions(tools=options.tools)))
    least = [sum(m.size // CHARS_PER_TOKEN + 1 for m in turn) for turn in turns]
    start = _first_kept(least, room=room - fixed)
    sizes = [sum(_num_tokens(tokenizer, m, room) for m in turn) for turn in turns[start:]]
    return max(1, start + _first_kept(sizes, room=room - fixed))


def _longest(
    without: Callable[[int], list[int] | None], candidates: Sequence[int], room: int
) -> tuple[list[int], int]:
    """The first prompt that fits the room, or else the last, and its candidate.

    Sizes leave out what the template writes, so the first may not do. Each that is made costs as
    much as a prompt, so they are not made one by one.
    """

    def fits(num_dropped: int) -> bool:
        ids = without(num_dropped)
        return ids is not None and len(ids) <= room

    last, index = len(candidates) - 1, 0
    if last and not fits(candidates[0]):
        index = bisect_left(candidates, True, lo=1, hi=last, key=fits)
    ids = without(candidates[index])
    assert ids is not None
    return ids, candidates[index]


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


def _num_tokens(tokenizer: Tokenizer, message: Message, room: int) -> int:
    text = "".join(text for _, text in strings_of(message))
    try:
        check_room(tokenizer, text, room)
    except DoesNotFit as error:
        return error.num_tokens
    return len(tokenizer.encode(text, add_bos=False)) + MESSAGE_OVERHEAD

"""Which items of a stored conversation are read for a prompt: what is sure not to fit stays unread.

Sizes are those of what is stored. A token stands for so many bytes at most; JSON writes a byte of
text with one to six. So a conversation is refused unread only if no prompt of it can fit.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Literal, NamedTuple

from llamastream.errors import ContextLengthExceeded
from llamastream.records import Outline
from llamastream.text import Tokenizer
from llamastream.types import Message

JSON_BYTES = 6  # of one byte of text: \u0000
ITEM_BYTES = 512  # of an item beside its text: its JSON, and what is counted for its row


class Continued(NamedTuple):
    """What a request goes on with, one of the two or nothing, and how it is to be fitted."""

    conversation_id: str | None
    previous_response_id: str | None
    truncation: Literal["disabled", "auto"] = "disabled"
    max_tokens: int | None = None
    after: str | None = None  # an item of the conversation, or ROOT; None: its newest


class History(NamedTuple):
    messages: tuple[Message, ...]
    num_unread_turns: int


class TokenSize:
    """The most bytes of text that one token stands for. Looked for at the first need."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def most_bytes(self) -> int:
        return max(len(self._tokenizer.token_bytes(i)) for i in range(self._tokenizer.num_tokens))


class Window:
    """Chooses the items of one history. `num_unread_turns` is known then."""

    def __init__(self, continued: Continued, size: TokenSize, *, max_model_len: int) -> None:
        self._continued = continued
        self._size = size
        self._max_model_len = max_model_len
        self.num_unread_turns = 0

    def choose(self, outlines: Sequence[Outline]) -> Sequence[int]:
        """All items, where they may fit. Else with `auto` the system messages at the start, and the
        newest turns: a turn is a user's message with what follows it up to the next.

        Raises ContextLengthExceeded.
        """
        sizes = [max(0, outline.num_bytes - ITEM_BYTES) for outline in outlines]
        # Less than this is in no need of a look through the vocabulary.
        if sum(sizes) <= self._max_model_len:
            return range(len(outlines))
        most = self._max_model_len * self._size.most_bytes
        if self._continued.truncation == "disabled":
            if sum(sizes) > most * JSON_BYTES:
                raise self._too_long(sum(sizes))
            return range(len(outlines))
        head = next((k for k, o in enumerate(outlines) if o.role != "system"), len(outlines))
        start = _window_start(sizes, head, most)
        while head < start < len(outlines) and outlines[start].role != "user":
            start += 1
        dropped = outlines[head:start]
        begins_amid = bool(dropped) and dropped[0].role != "user"
        self.num_unread_turns = begins_amid + sum(outline.role == "user" for outline in dropped)
        return [*range(head), *range(start, len(outlines))]

    def _too_long(self, num_bytes: int) -> ContextLengthExceeded:
        least = num_bytes // JSON_BYTES // self._size.most_bytes
        return ContextLengthExceeded.of(
            least,
            self._continued.max_tokens,
            self._max_model_len,
            param="messages",
            way_out=", or ask for truncation: auto",
        )


def _window_start(sizes: Sequence[int], head: int, most: int) -> int:
    """The first item to read behind the first `head`, so that `most` bytes are read at most.

    Found by going through the conversation as it grew: whenever it outgrew that, the oldest items
    went until half of it was left. So the window moves seldom, and the prefix cache stays of use.
    """
    start, used = head, 0
    for last in range(head, len(sizes)):
        used += sizes[last]
        if used <= most:
            continue
        while start <= last and used > most // 2:
            used -= sizes[start]
            start += 1
    return start

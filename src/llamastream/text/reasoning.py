"""What a model thinks before it answers, told from the answer: `<think>...</think>` and text.

Knows no tokens. The invariant: what the pieces add up to depends on the whole text alone, however
it was cut. New lines beside the tags are the tags' own.
"""

from collections.abc import Sequence
from enum import Enum, auto

from llamastream.text.tokenizer import REASONING_TAGS, Tokenizer
from llamastream.types import Message, ReasoningStart

OPEN, CLOSE = REASONING_TAGS
MAX_TAIL = 24  # tokens at a prompt's end in which a tag is looked for, with white space behind it


def reasoning_start(
    tokenizer: Tokenizer, prompt_ids: Sequence[int], continued: Message | None
) -> ReasoningStart | None:
    """Of an answer to this prompt. `continued`: the message that it goes on with, where there is
    one: no reasoning follows text."""
    if continued is not None and continued.text:
        text = continued.text
        return ReasoningStart.OPENED if text.rfind(OPEN) > text.rfind(CLOSE) else None
    tail = tokenizer.decode(list(prompt_ids[-MAX_TAIL:]), skip_special_tokens=False).rstrip()
    if tail.endswith(OPEN):
        return ReasoningStart.OPENED
    return ReasoningStart.CLOSED if tail.endswith(CLOSE) else ReasoningStart.POSSIBLE


class _State(Enum):
    BEGINNING = auto()  # nothing but white space, or a part of the opening tag
    REASONING = auto()
    BEHIND = auto()  # the closing tag, and nothing but new lines
    TEXT = auto()


class ReasoningSplitter:
    """Of one answer."""

    __slots__ = ("_has_reasoned", "_held", "_state")

    def __init__(self, start: ReasoningStart) -> None:
        is_open = start is ReasoningStart.OPENED
        self._state = _State.REASONING if is_open else _State.BEGINNING
        self._has_reasoned = False
        self._held = ""

    @property
    def is_reasoning(self) -> bool:
        return self._state is _State.REASONING

    @property
    def is_over(self) -> bool:
        """Whether all that follows is text."""
        return self._state is _State.TEXT

    def add(self, text: str) -> tuple[str, str]:
        """The reasoning and the text that are sure by now, of which the reasoning comes first."""
        if self._state is _State.TEXT:
            return "", text
        text, self._held, reasoning = self._held + text, "", ""
        if self._state is _State.BEGINNING:
            text = self._begin(text)
        if self._state is _State.REASONING:
            reasoning, text = self._reason(text)
        if self._state is _State.BEHIND:
            text = text.lstrip("\n")
            if text:
                self._state = _State.TEXT
        return reasoning, text

    def finish(self) -> tuple[str, str]:
        """What was held back, when no more comes."""
        held, self._held = self._held, ""
        return (held.rstrip("\n"), "") if self.is_reasoning else ("", held)

    def _begin(self, text: str) -> str:
        said = text.lstrip()
        if said.startswith(OPEN):
            self._state = _State.REASONING
            return said[len(OPEN) :]
        if OPEN.startswith(said):
            self._held = text
            return ""
        self._state = _State.TEXT
        return text

    def _reason(self, text: str) -> tuple[str, str]:
        """Reasoning, and what follows it. Held is what may turn out to stand before the tag."""
        said, tag, behind = text.partition(CLOSE)
        if tag:
            self._state = _State.BEHIND
        else:
            tail = next(k for k in range(len(CLOSE) - 1, -1, -1) if text.endswith(CLOSE[:k]))
            said = text[: len(text) - tail]
        shown = said.rstrip("\n")
        if not tag:
            self._held = text[len(shown) :]
        if not self._has_reasoned:
            shown = shown.lstrip("\n")
            self._has_reasoned = bool(shown)
        return shown, behind

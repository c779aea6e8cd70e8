"""A grammar that begins behind the reasoning: what a model thinks is free, up to its end.

The invariant: reasoning ends with the token of its closing tag and with nothing else, so that the
grammar begins exactly where a reader of the text finds the answer's beginning. As any constraint,
a function of the tokens alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property
from typing import Protocol

import numpy as np

from llamastream.grammar.vocabulary import Mask, Vocabulary
from llamastream.types import Constraint, ReasoningStart, ToolCall

CLOSE = b"</think>"
MAX_NEW_LINES = 2  # tokens of them between the tag and the answer


class Inner(Protocol):
    """A compiled grammar."""

    @property
    def param(self) -> str: ...

    def start(self) -> Constraint: ...

    def warnings(self, text: str, calls: Sequence[ToolCall] = ()) -> tuple[str, ...]: ...


class Tags:
    """The tokens that open and close reasoning, and what may not be drawn in it. What is not an id
    is made at its first use, never on the event loop."""

    def __init__(self, open: int, close: int, vocabulary: Callable[[], Vocabulary]) -> None:
        self.open, self.close = open, close
        self._vocabulary = vocabulary

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return self._vocabulary()

    @cached_property
    def open_ids(self) -> Mask:
        return self.vocabulary.mask_of([self.open])

    @cached_property
    def close_ids(self) -> Mask:
        return self.vocabulary.mask_of([self.close])

    @cached_property
    def refused(self) -> list[Mask]:
        """What would write the closing tag in other tokens, by how many bytes of it are there."""
        texts = ((i, self.vocabulary.token_bytes(i)) for i in range(self.vocabulary.size))
        ends = [(i, raw) for i, raw in texts if b">" in raw and i != self.close]
        return [
            self.vocabulary.mask_of(i for i, raw in ends if CLOSE in CLOSE[:size] + raw)
            for size in range(len(CLOSE))
        ]


@dataclass(frozen=True, slots=True)
class Reasoned:
    """`grammar` None: what follows the reasoning is free. budget: most tokens of reasoning."""

    grammar: Inner | None
    tags: Tags
    begins: ReasoningStart
    budget: int | None = None

    @property
    def param(self) -> str:
        return "reasoning" if self.grammar is None else self.grammar.param

    def start(self) -> "ReasonedConstraint":
        inner = None if self.grammar is None else self.grammar.start()
        state = _State.REASONING if self.begins is ReasoningStart.OPENED else _State.BEGINNING
        return ReasonedConstraint(inner, self.tags, state, self.budget)

    def warnings(self, text: str, calls: Sequence[ToolCall] = ()) -> tuple[str, ...]:
        return () if self.grammar is None else self.grammar.warnings(text, calls)


class _State(Enum):
    BEGINNING = auto()  # the model may open the reasoning, or answer at once
    REASONING = auto()
    BEHIND = auto()  # the closing tag
    ANSWER = auto()


class ReasonedConstraint:
    """See types.Constraint."""

    def __init__(
        self, inner: Constraint | None, tags: Tags, state: _State, budget: int | None
    ) -> None:
        self._inner, self._tags = inner, tags
        self._state = state
        self._budget = budget
        self._tail = b""  # the end of the reasoning, as far as it may begin the tag
        self._num_new_lines = 0

    def append(self, token_ids: Sequence[int]) -> None:
        for place, token_id in enumerate(token_ids):
            if self._state is _State.ANSWER:
                if self._inner is not None:
                    self._inner.append(token_ids[place:])
                return
            self._step(token_id)

    def mask(self) -> bytes:
        vocabulary, tags = self._tags.vocabulary, self._tags
        if self._state is _State.REASONING:
            mask = tags.close_ids
            if not self._is_over_budget:
                mask = mask | self._free & ~tags.refused[len(self._tail)]
            return mask.astype("<u4", copy=False).tobytes()
        if self._inner is None:
            return self._free.astype("<u4", copy=False).tobytes()
        inner = self._inner.mask()
        if self._state is _State.ANSWER:
            return inner
        mask = np.frombuffer(inner, "<u4")
        if self._state is _State.BEGINNING:
            mask = mask | tags.open_ids
        elif self._takes_new_line:
            mask = mask | vocabulary.new_line_ids
        return mask.astype("<u4", copy=False).tobytes()

    def forced(self) -> list[int]:
        if self._state is _State.REASONING:
            return [self._tags.close] if self._is_over_budget else []
        if self._state is not _State.ANSWER or self._inner is None:
            return []
        return self._inner.forced()

    def num_allowed(self, token_ids: Sequence[int]) -> int:
        ahead = self.fork()
        for place, token_id in enumerate(token_ids):
            if ahead._state is _State.ANSWER and ahead._inner is not None:
                return place + ahead._inner.num_allowed(token_ids[place:])
            mask = np.frombuffer(ahead.mask(), "<u4")
            if not mask[token_id // 32] >> (token_id % 32) & 1:
                return place
            ahead.append([token_id])
        return len(token_ids)

    def fork(self) -> "ReasonedConstraint":
        inner = None if self._inner is None else self._inner.fork()
        other = ReasonedConstraint(inner, self._tags, self._state, self._budget)
        other._tail, other._num_new_lines = self._tail, self._num_new_lines
        return other

    @property
    def _free(self) -> Mask:
        """What may be drawn where no grammar holds: with one, text; else all there is."""
        vocabulary = self._tags.vocabulary
        return vocabulary.all_ids if self._inner is None else vocabulary.text_ids

    @property
    def _takes_new_line(self) -> bool:
        return self._state is _State.BEHIND and self._num_new_lines < MAX_NEW_LINES

    @property
    def _is_over_budget(self) -> bool:
        return self._budget is not None and self._budget <= 0

    def _step(self, token_id: int) -> None:
        tags, raw = self._tags, self._tags.vocabulary.token_bytes(token_id)
        if self._state is _State.REASONING:
            if token_id == tags.close:
                self._state = _State.BEHIND
            self._budget = None if self._budget is None else self._budget - 1
            self._tail = _tail(self._tail + raw)
        elif self._state is _State.BEGINNING and token_id == tags.open:
            self._state = _State.REASONING
        elif self._takes_new_line and raw and not raw.strip(b"\n"):
            self._num_new_lines += 1
        else:
            self._state = _State.ANSWER
            if self._inner is not None:
                self._inner.append([token_id])


def _tail(written: bytes) -> bytes:
    """The longest end of it that the closing tag begins with."""
    size = next(k for k in range(len(CLOSE) - 1, -1, -1) if written.endswith(CLOSE[:k]))
    return CLOSE[:size]

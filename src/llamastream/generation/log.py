"""What an answer consists of, made once: text and token of each delta, in order.

A delta is named by its place. Text and ids are kept side by side and not as objects per token, so
that an answer of any length costs little more than its bytes; a `Delta` is made where it is read.
"""

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby

from llamastream.types import (
    Delta,
    FinishReason,
    OtherPart,
    Part,
    Reasoning,
    TokenLogprob,
    ToolCall,
)

NO_TOKEN = -1

# What `Delta(...)` does, in half of its time.
_new_delta: Callable[[tuple[object, ...]], Delta] = partial(tuple.__new__, Delta)


class Log:
    """Grows at its end alone, so that other threads may read what is in it."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._ids = array("q")  # NO_TOKEN for a delta that only ends its choice
        self._choices = bytearray()
        self._logprobs: list[TokenLogprob | None] = []  # empty until a token has one
        self._reasons: dict[int, FinishReason] = {}  # by place
        self._parts: dict[int, tuple[OtherPart, ...]] = {}  # by place
        self._is_plain = True  # so far there is nothing but text and ids

    def __len__(self) -> int:
        return len(self._texts)

    def append(
        self,
        choice: int,
        text: str,
        token_id: int = NO_TOKEN,
        logprob: TokenLogprob | None = None,
        reason: FinishReason | None = None,
        parts: tuple[OtherPart, ...] = (),
    ) -> None:
        if not self._is_plain or token_id < 0 or reason or logprob or parts:
            self._is_plain = False
            self._append_more(logprob, reason, parts)
        self._texts.append(text)
        self._ids.append(token_id)
        self._choices.append(choice)

    def _append_more(
        self,
        logprob: TokenLogprob | None,
        reason: FinishReason | None,
        parts: tuple[OtherPart, ...],
    ) -> None:
        place = len(self._texts)
        if reason is not None:
            self._reasons[place] = reason
        if parts:
            self._parts[place] = parts
        if logprob is not None or self._logprobs:
            self._logprobs += [None] * (place - len(self._logprobs))
            self._logprobs.append(logprob)

    def head(self, length: int) -> "Log":
        """A log of its own, of the first so many."""
        log = Log()
        log._texts, log._ids = self._texts[:length], self._ids[:length]
        log._choices, log._logprobs = self._choices[:length], self._logprobs[:length]
        log._reasons = {k: reason for k, reason in self._reasons.items() if k < length}
        log._is_plain = self._is_plain
        log._parts = {k: part for k, part in self._parts.items() if k < length}
        return log

    def delta(self, number: int) -> Delta:
        choice, text, token_id = self._choices[number], self._texts[number], self._ids[number]
        if self._is_plain:
            return _new_delta((choice, number, text, (token_id,), (), None, ()))
        logprob = self._logprobs[number] if self._logprobs else None
        ids = () if token_id == NO_TOKEN else (token_id,)
        logprobs = () if logprob is None else (logprob,)
        reason, parts = self._reasons.get(number), self._parts.get(number, ())
        return Delta(choice, number, text, ids, logprobs, reason, parts)

    def deltas(self, start: int, end: int) -> list[Delta]:
        return [self.delta(number) for number in range(start, end)]

    def text(self) -> str:
        """All of it, as one choice has it."""
        return "".join(self._texts)

    def parts(self) -> tuple[Part, ...]:
        """What one choice consists of: what was thought, its text, if there is any or nothing else,
        and the rest."""
        others = joined_parts(part for _, found in sorted(self._parts.items()) for part in found)
        return with_text(others, self.text())

    def logprobs(self) -> tuple[TokenLogprob, ...]:
        return tuple(entry for entry in self._logprobs if entry is not None)

    def text_logprobs(self) -> tuple[TokenLogprob, ...]:
        """Of the one choice: without those of what was thought before its text, and of calls."""
        if not (self._parts and self._logprobs):
            return self.logprobs()
        first, end = 0, len(self._texts)
        if self._places(Reasoning):
            first = next((k for k, text in enumerate(self._texts) if text), end)
        if calls := self._places(ToolCall):
            end = calls[0] + bool(self._texts[calls[0]])
        return tuple(entry for entry in self._logprobs[first:end] if entry is not None)

    def _places(self, kind: type[OtherPart]) -> list[int]:
        """Of the parts of a kind."""
        return [k for k, parts in sorted(self._parts.items()) if isinstance(parts[0], kind)]

    def token_ids(self) -> tuple[int, ...]:
        return tuple(token_id for token_id in self._ids if token_id != NO_TOKEN)

    def drawn(self, start: int, end: int) -> tuple[Sequence[int], Sequence[TokenLogprob | None]]:
        """Of the only choice, see `DrawnLog`: a position is a place."""
        return self._ids[start:end], self._logprobs[start:end]

    def joined(self, num_choices: int) -> list[Delta]:
        """One delta per choice, of all that it has so far."""
        own: list[list[int]] = [[] for _ in range(num_choices)]
        for number, choice in enumerate(self._choices):
            own[choice].append(number)
        return [self._join(choice, numbers) for choice, numbers in enumerate(own)]

    def _join(self, choice: int, numbers: list[int]) -> Delta:
        ids = (self._ids[k] for k in numbers)
        entries = (self._logprobs[k] for k in numbers) if self._logprobs else ()
        return Delta(
            choice,
            numbers[-1] if numbers else 0,
            "".join([self._texts[k] for k in numbers]),
            tuple(token_id for token_id in ids if token_id != NO_TOKEN),
            tuple(entry for entry in entries if entry is not None),
            self._reasons.get(numbers[-1]) if numbers else None,
            joined_parts(part for k in numbers for part in self._parts.get(k, ())),
        )


def joined_parts(pieces: Iterable[OtherPart]) -> tuple[OtherPart, ...]:
    """Pieces of the same part, which follow each other, as one."""
    return tuple(_joined(list(group)) for _, group in groupby(pieces, key=_whose))


def with_text(parts: tuple[OtherPart, ...], text: str) -> tuple[Part, ...]:
    """All parts in order: what was thought stands before the text."""
    if parts and not text:
        return parts
    num_before = sum(isinstance(part, Reasoning) for part in parts)
    return (*parts[:num_before], text, *parts[num_before:])


def _whose(piece: OtherPart) -> tuple[type, str]:
    return type(piece), piece.id if isinstance(piece, ToolCall) else ""


def _joined(pieces: list[OtherPart]) -> OtherPart:
    first = pieces[0]
    if isinstance(first, ToolCall):
        arguments = "".join(piece.arguments for piece in pieces if isinstance(piece, ToolCall))
        return replace(first, arguments=arguments)
    return replace(first, text="".join(p.text for p in pieces if isinstance(p, type(first))))

"""What an answer consists of, made once: part and token of each delta, in order.

A delta is named by its place. Parts and ids are kept side by side and not as objects per token, so
that an answer of any length costs little more than its bytes; a `Delta` is made where it is read.
"""

from array import array
from collections.abc import Sequence

from llamastream.types import Delta, FinishReason, Part, TokenLogprob, text_of

NO_TOKEN = -1


class Log:
    """Grows at its end alone, so that other threads may read what is in it."""

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._ids = array("q")  # NO_TOKEN for a delta that only ends its choice
        self._choices = bytearray()
        self._logprobs: list[TokenLogprob | None] = []  # empty until a token has one
        self._reasons: dict[int, FinishReason] = {}  # by place

    def __len__(self) -> int:
        return len(self._parts)

    def append(
        self,
        choice: int,
        part: Part,
        token_id: int = NO_TOKEN,
        logprob: TokenLogprob | None = None,
        reason: FinishReason | None = None,
    ) -> None:
        if reason is not None:
            self._reasons[len(self._parts)] = reason
        if logprob is not None or self._logprobs:
            self._logprobs += [None] * (len(self._parts) - len(self._logprobs))
            self._logprobs.append(logprob)
        self._parts.append(part)
        self._ids.append(token_id)
        self._choices.append(choice)

    def head(self, length: int) -> "Log":
        """A log of its own, of the first so many."""
        log = Log()
        log._parts, log._ids = self._parts[:length], self._ids[:length]
        log._choices, log._logprobs = self._choices[:length], self._logprobs[:length]
        log._reasons = {k: reason for k, reason in self._reasons.items() if k < length}
        return log

    def delta(self, number: int) -> Delta:
        token_id = self._ids[number]
        logprob = self._logprobs[number] if self._logprobs else None
        return Delta(
            self._choices[number],
            number,
            self._parts[number],
            () if token_id == NO_TOKEN else (token_id,),
            () if logprob is None else (logprob,),
            self._reasons.get(number) if self._reasons else None,
        )

    def deltas(self, start: int, end: int) -> list[Delta]:
        return [self.delta(number) for number in range(start, end)]

    def text(self) -> str:
        """All of it, as one choice has it."""
        return text_of(self._parts)

    def logprobs(self) -> tuple[TokenLogprob, ...]:
        return tuple(entry for entry in self._logprobs if entry is not None)

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
            text_of(self._parts[k] for k in numbers),
            tuple(token_id for token_id in ids if token_id != NO_TOKEN),
            tuple(entry for entry in entries if entry is not None),
            self._reasons.get(numbers[-1]) if numbers else None,
        )

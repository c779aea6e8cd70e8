"""What an answer consists of, made once: text and token of each delta, in order.

A delta is named by its place. Text and ids are kept side by side and not as objects per token, so
that an answer of any length costs little more than its bytes; a `Delta` is made where it is read.
"""

from array import array

from llamastream.types import Delta, FinishReason, Token, TokenLogprob

NO_TOKEN = -1


class Log:
    """Grows at its end alone, but for `truncate`."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._ids = array("q")  # NO_TOKEN for a delta that only ends its choice
        self._choices = bytearray()
        self._logprobs: list[TokenLogprob | None] = []  # empty until a token has one
        self._reasons: dict[int, FinishReason] = {}  # by place

    def __len__(self) -> int:
        return len(self._texts)

    def append(
        self,
        choice: int,
        text: str,
        token_id: int = NO_TOKEN,
        logprob: TokenLogprob | None = None,
        reason: FinishReason | None = None,
    ) -> None:
        if reason is not None:
            self._reasons[len(self._texts)] = reason
        if logprob is not None or self._logprobs:
            self._logprobs += [None] * (len(self._texts) - len(self._logprobs))
            self._logprobs.append(logprob)
        self._texts.append(text)
        self._ids.append(token_id)
        self._choices.append(choice)

    def truncate(self, length: int) -> None:
        for places in (self._texts, self._ids, self._choices, self._logprobs):
            del places[length:]
        self._reasons = {k: reason for k, reason in self._reasons.items() if k < length}

    def delta(self, number: int) -> Delta:
        token_id = self._ids[number]
        logprob = self._logprobs[number] if self._logprobs else None
        return Delta(
            self._choices[number],
            number,
            self._texts[number],
            () if token_id == NO_TOKEN else (token_id,),
            () if logprob is None else (logprob,),
            self._reasons.get(number) if self._reasons else None,
        )

    def deltas(self, start: int, end: int) -> list[Delta]:
        return [self.delta(number) for number in range(start, end)]

    def text(self) -> str:
        """All of it, as one choice has it."""
        return "".join(self._texts)

    def logprobs(self) -> tuple[TokenLogprob, ...]:
        return tuple(entry for entry in self._logprobs if entry is not None)

    def token_ids(self) -> tuple[int, ...]:
        return tuple(token_id for token_id in self._ids if token_id != NO_TOKEN)

    def tokens(self, request_id: str, start: int) -> list[Token]:
        """Those of the only choice, from position `start` on, as the engine gave them."""
        return [
            self._token(request_id, number, token_id)
            for number, token_id in enumerate(self._ids[start:], start)
            if token_id != NO_TOKEN
        ]

    def joined(self, num_choices: int) -> list[Delta]:
        """One delta per choice, of all that it has so far."""
        own: list[list[int]] = [[] for _ in range(num_choices)]
        for number, choice in enumerate(self._choices):
            own[choice].append(number)
        return [self._join(choice, numbers) for choice, numbers in enumerate(own)]

    def _token(self, request_id: str, position: int, token_id: int) -> Token:
        entry = self._logprobs[position] if self._logprobs else None
        if entry is None:
            return Token(request_id, position, token_id)
        top = tuple((other.token_id, other.logprob) for other in entry.top)
        return Token(request_id, position, token_id, entry.logprob, top)

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
        )

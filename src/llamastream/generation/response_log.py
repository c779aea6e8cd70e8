"""What everybody reads who follows a stored response: its tokens, and then its end.

A token is here only once it is in the journal, so that event n is the same for each reader, now and
after a restart. Nothing is queued for anybody: a reader that lags reads on from where it is.
"""

import asyncio
from collections.abc import Sequence
from itertools import count

from llamastream.errors import ChatError
from llamastream.generation.choice import Choice, TextRules
from llamastream.generation.waiter import Waiter
from llamastream.store.records import Response, Status
from llamastream.text import Tokenizer
from llamastream.types import Delta, FinishReason, Token, Usage

MAX_READ = 256  # deltas given at a time, which bounds what a slow reader's transport holds
FINISH_REASONS = {
    Status.COMPLETED: FinishReason.STOP,
    Status.INCOMPLETE: FinishReason.LENGTH,
    Status.CANCELLED: FinishReason.CANCELLED,
}


class ResponseLog:
    """Written by `Responses` alone."""

    def __init__(self, record: Response, rules: TextRules, tokens: Sequence[Token] = ()) -> None:
        self.record = record
        self.rules = rules
        self.tokens = list(tokens)
        self.num_public = len(self.tokens)  # what was journalled, and may be shown
        self.num_readers = 0
        self.text: str | None = None  # instead of tokens, which another model drew
        self.error: ChatError | None = None  # nothing more will come here, try again later
        self._waiters: set[Waiter] = set()

    @property
    def is_finished(self) -> bool:
        return self.record.status is not Status.IN_PROGRESS

    def usage(self) -> Usage | None:
        """Token counts of a response that has ended, if they were recorded."""
        result = self.record.result
        return None if result is None else Usage(*result["usage"])

    def read_text_only(self) -> None:
        """For a finished response of another model: its tokens mean nothing to this one."""
        self.tokens, self.num_public = [], 0
        result = self.record.result
        self.text = "" if result is None else result["text"]

    def publish(self, num_public: int) -> None:
        self.num_public = max(self.num_public, num_public)
        self._wake()

    def finish(self, record: Response) -> None:
        self.record = record
        self.num_public = len(self.tokens)
        self._wake()

    def fail(self, error: ChatError) -> None:
        self.error = error
        self._wake()

    async def wait(self, waiter: Waiter | None = None, timeout_s: float | None = None) -> bool:
        """Return True when something has changed, False when the time is over."""
        waiter = waiter or Waiter()
        self._waiters.add(waiter)
        try:
            return await waiter.wait(timeout_s)
        finally:
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            waiter.wake()


class Reader:
    """Follows one response from the token at position `start` on.

    The delta of position n has the sequence number n and that one token. Unless a stop string ended
    the text, a last one without a token says why it ended, perhaps with text that was held back. A
    failed response just ends. What was before `start` is gone through again,
    since the text of a token may depend on it.
    """

    def __init__(self, log: ResponseLog, tokenizer: Tokenizer, *, start: int = 0) -> None:
        self.log = log
        self._start = start
        self._position = 0
        self._choice = Choice(0, tokenizer, log.rules, count().__next__)
        self._text: list[str] = []
        self._is_flushed = False
        self._waiter = Waiter()

    @property
    def record(self) -> Response:
        return self.log.record

    @property
    def exhausted(self) -> bool:
        """True once everything was read, and the response has ended."""
        return self._is_flushed

    @property
    def text(self) -> str:
        """All text so far, from the response's first token on."""
        return "".join(self._text)

    async def read(self, timeout_s: float | None = None) -> list[Delta]:
        """What is there, at most MAX_READ deltas, waiting for at least one.

        Empty when `timeout_s` passed without any, and at the end (see `exhausted`). Raises the
        ChatError that keeps the response from going on here.
        """
        while True:
            while not self._is_read_up:
                if deltas := self._take():
                    return deltas
                await asyncio.sleep(0)  # a long way to `start` must not hold up the others
            if self.log.is_finished:
                return self._flush()
            if self.log.error is not None:
                raise self.log.error
            if not await self.log.wait(self._waiter, timeout_s):
                return []

    @property
    def _is_read_up(self) -> bool:
        return self._position >= self.log.num_public

    def _take(self) -> list[Delta]:
        end = min(self._position + MAX_READ, self.log.num_public)
        deltas = [self._choice.add(token) for token in self.log.tokens[self._position : end]]
        self._text += [delta.text for delta in deltas]
        first = max(self._start - self._position, 0)
        self._position = end
        return deltas[first:]

    def _flush(self) -> list[Delta]:
        """The last delta: text that was held back, and why the response ended."""
        reason = FINISH_REASONS.get(self.record.status)
        if self._is_flushed or reason is None or self._choice.finish_reason is not None:
            self._is_flushed = True
            return []
        self._is_flushed = True
        delta = self._choice.finish(reason)
        if self.log.text is not None:
            delta = delta._replace(text=self.log.text)
        self._text.append(delta.text)
        return [delta]

"""A service whose answer is a script: texts, waits and an error, as the test says."""

import asyncio
from collections.abc import Sequence

from llamastream.errors import ChatError
from llamastream.types import ChatRequest, Delta, FinishReason, Usage

Step = str | asyncio.Event | ChatError | FinishReason
"""One token's text, a condition to wait for, an error, or the end (STOP if the script has none)."""


class ScriptedStream:
    """One document per string; the end is a delta without tokens, as the service makes it."""

    def __init__(self, script: Sequence[Step]) -> None:
        self._script = list(script)
        if not isinstance(self._script[-1:] and self._script[-1], ChatError | FinishReason):
            self._script.append(FinishReason.STOP)
        self._next = 0
        self._sent = 0
        self.closed = asyncio.Event()

    @property
    def exhausted(self) -> bool:
        return self.closed.is_set() or self._next >= len(self._script)

    async def read(self, timeout_s: float | None = None) -> list[Delta]:
        step = self._script[self._next]
        if isinstance(step, asyncio.Event):
            await self._first(step)
            if self.exhausted:
                return []
            self._next += 1
            return await self.read()
        self._next += 1
        if isinstance(step, ChatError):
            raise step
        deltas = [self._delta(step)]
        following = self._script[self._next : self._next + 1]
        if following == [FinishReason.LENGTH]:  # the engine ends in the last token's step
            self._next += 1
            deltas.append(self._delta(FinishReason.LENGTH))
        await asyncio.sleep(0)
        return deltas

    def usage(self) -> Usage:
        return Usage(7, 3, self._sent)

    async def aclose(self) -> None:
        self.closed.set()

    async def _first(self, condition: asyncio.Event) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (condition, self.closed)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _delta(self, step: str | FinishReason) -> Delta:
        number, self._sent = self._sent, self._sent + 1
        if isinstance(step, FinishReason):
            return Delta(0, number, "", (), (), step)
        return Delta(0, number, step, (1000 + number,))


class ScriptedService:
    """Answers every request by the same script, or refuses it by `refusal`."""

    def __init__(self, *script: Step, refusal: ChatError | None = None) -> None:
        self.script = script
        self.refusal = refusal
        self.requests: list[ChatRequest] = []
        self.streams: list[ScriptedStream] = []
        self.opened = asyncio.Event()

    async def open(self, request: ChatRequest) -> ScriptedStream:
        self.requests.append(request)
        if self.refusal is not None:
            raise self.refusal
        stream = ScriptedStream(self.script)
        self.streams.append(stream)
        self.opened.set()
        return stream

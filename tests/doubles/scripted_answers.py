"""Answers that are a script: texts, waits and an error, as the test says."""

import asyncio
from collections.abc import Sequence

from llamastream.errors import ChatError
from llamastream.generation import End, Generation, NewAnswer
from llamastream.generation.choice import TextRules
from llamastream.generation.generation import STATUSES, Details
from llamastream.types import ChatRequest, FinishReason, Usage

Step = str | asyncio.Event | ChatError | FinishReason
"""One token's text, a condition to wait for, an error, or the end (STOP if the script has none)."""

RULES = TextRules((), frozenset(), False, True, False)


class ScriptedAnswer:
    """Plays a script into an answer, one delta per string; the end is a delta without tokens. Its
    own keeper: `closed` is set once its reader has left."""

    def __init__(self, script: Sequence[Step], new: NewAnswer) -> None:
        self._script = list(script)
        if not isinstance(self._script[-1:] and self._script[-1], ChatError | FinishReason):
            self._script.append(FinishReason.STOP)
        details = Details(new.wire, RULES, False, 0, "m", None)
        self.generation = Generation(new.id, details, [], self, created_at=0.0)
        self.closed = asyncio.Event()
        self._playing: asyncio.Task[None] | None = None

    def readers_changed(self, generation: Generation, change: int) -> None:
        if change > 0:
            self._playing = asyncio.create_task(self._play())
        elif self._playing is not None:
            self.closed.set()
            self._playing.cancel()

    def drawn(self, generations: Sequence[Generation]) -> None: ...
    def ended(self, generation: Generation) -> None: ...
    def failed(self, generation: Generation, error: ChatError) -> None: ...

    async def _play(self) -> None:
        log = self.generation.log
        for number, step in enumerate(self._script):
            if isinstance(step, asyncio.Event):
                await step.wait()
            elif isinstance(step, ChatError):
                self.generation.fail(step)
            elif isinstance(step, FinishReason):
                log.append(0, "", reason=step)
                usage = Usage(7, 3, len(log))
                self.generation.finish(End(STATUSES[step], usage, 0.0))
            else:
                log.append(0, step, 1000 + len(log))
                # The engine ends in the last token's step.
                if self._script[number + 1 : number + 2] != [FinishReason.LENGTH]:
                    self.generation.publish(len(log))
                    await asyncio.sleep(0)


class ScriptedAnswers:
    """Answers every request by the same script, or refuses it by `refusal`."""

    def __init__(self, *script: Step, refusal: ChatError | None = None) -> None:
        self.script = script
        self.refusal = refusal
        self.requests: list[ChatRequest] = []
        self.streams: list[ScriptedAnswer] = []
        self.opened = asyncio.Event()

    async def open(self, request: ChatRequest, new: NewAnswer) -> Generation:
        self.requests.append(request)
        if self.refusal is not None:
            raise self.refusal
        answer = ScriptedAnswer(self.script, new)
        self.streams.append(answer)
        self.opened.set()
        return answer.generation

    def is_ready(self) -> bool:
        return True

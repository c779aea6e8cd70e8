"""Responses that wait to go on: left by the last server, or parked when the store failed.

They are given to the engine behind what is journalled of them. One that was found by two starts
without any progress may be what ended those servers: such go on one at a time, after the others.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from llamastream.errors import ChatError, EngineDead, Overloaded
from llamastream.generation.live_response import End, LiveResponse
from llamastream.generation.protocol import Engine
from llamastream.types import FinishReason

logger = logging.getLogger(__name__)

STORE_RETRY_S = 2.0  # how long a parked response waits for the store to come back


class Resuming:
    def __init__(
        self,
        submit: Callable[[LiveResponse], None],
        end: Callable[[LiveResponse, End], None],
    ) -> None:
        """`submit` may raise ChatError; `end` records the end of one that is complete."""
        self._submit = submit
        self._end = end
        self._waiting: deque[LiveResponse] = deque()
        self._suspects: deque[LiveResponse] = deque()

    def add(self, live: LiveResponse, *, is_suspect: bool) -> None:
        """Before `run`."""
        (self._suspects if is_suspect else self._waiting).append(live)

    async def run(self, engine: Engine) -> None:
        """Resume all that were added, once the engine takes requests."""
        try:
            await engine.ready()
        except Exception:
            return  # who started the engine hears of it, and nothing can be resumed
        while self._waiting:
            await self._resume(self._waiting.popleft())
        while self._suspects:
            live = self._suspects.popleft()
            num_tokens = live.log.num_public
            await self._resume(live)
            while live.log.num_public == num_tokens and not live.has_ended:
                await live.log.wait()

    async def resume_parked(self, live: LiveResponse) -> None:
        """Try again when the store may be back."""
        await asyncio.sleep(STORE_RETRY_S)
        while live.is_leaving:
            await live.log.wait()
        await self._resume(live)

    async def _resume(self, live: LiveResponse) -> None:
        if live.is_dropped:
            return
        live.log.error = None
        while not live.has_ended:
            if live.is_stopped:
                self._end(live, End(live.finish_reason or FinishReason.CANCELLED))
                return
            try:
                self._submit(live)
                return
            except Overloaded as error:
                await asyncio.sleep(error.retry_after_s)
            except EngineDead as error:
                live.log.fail(error)
                return
            except ChatError as error:
                self._end(live, End(None, error=error.message))
                return

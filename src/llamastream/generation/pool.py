"""Work that would hold up the event loop, on a few threads that keys share.

Each key has its own queue, and they go on in turns. One thread is always left to the other keys, so
that none waits behind another's long texts. The invariant: as many turns are out as threads work.
"""

import asyncio
import os
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from llamastream.errors import EngineDead, Overloaded

NUM_THREADS = max(2, min(4, os.cpu_count() or 1))
MAX_WAITING = 256  # calls, each of which holds a request's text

Result = TypeVar("Result")


class FairPool:
    """Belongs to one event loop."""

    def __init__(self, name: str, num_threads: int = NUM_THREADS) -> None:
        """num_threads: at least 2."""
        self._threads = ThreadPoolExecutor(num_threads, name)
        self._num_free = num_threads
        self._is_closed = False
        self._running: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def run(self, scope: str, work: Callable[[], Result]) -> Result:
        """What `work` returns or raises, done on a thread when it is the turn of `scope`.

        Raises Overloaded when too much waits already, EngineDead once it is closed. Work that was
        begun is done to its end, also when the caller has left.
        """
        await self._turn(scope)
        self._check_open()  # it may have been closed since the turn was given
        doing = asyncio.get_running_loop().run_in_executor(self._threads, work)
        doing.add_done_callback(lambda done: self._end(scope, done))
        return await asyncio.shield(doing)

    def close(self) -> None:
        """Begin nothing more: who waits is refused."""
        self._is_closed = True
        self._threads.shutdown(wait=False)
        for turn in (turn for turns in self._waiting.values() for turn in turns):
            if not turn.done():
                turn.set_result(None)
        self._waiting.clear()

    def _check_open(self) -> None:
        if self._is_closed:
            raise EngineDead("The server is stopping. Try again in a few seconds.")

    async def _turn(self, scope: str) -> None:
        self._check_open()
        self._check_room(scope)
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(scope, deque()).append(turn)
        self._give_turns()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it has been given meanwhile
                self._take_back(scope)
            raise

    def _check_room(self, scope: str) -> None:
        """A full queue refuses whoever has an equal part of it or more."""
        counts = {key: len(turns) for key, turns in self._waiting.items()}
        counts[scope] = counts.get(scope, 0) + 1
        if sum(counts.values()) > MAX_WAITING < counts[scope] * len(counts):
            raise Overloaded(f"{MAX_WAITING} prompts wait to be read. Try again later.")

    def _give_turns(self) -> None:
        while (scope := self._next()) is not None:
            turns = self._waiting.pop(scope)
            turn = turns.popleft()
            if turns:
                self._waiting[scope] = turns  # behind the others
            if not turn.done():  # else its caller has left
                self._running[scope] += 1
                self._num_free -= 1
                turn.set_result(None)

    def _next(self) -> str | None:
        """The key whose turn it is, if any may begin."""
        for scope in self._waiting:
            if self._num_free > 1 or (self._num_free and not self._running[scope]):
                return scope
        return None

    def _end(self, scope: str, done: asyncio.Future[Result]) -> None:
        if not done.cancelled():
            done.exception()  # the caller's, or nobody's when that has left
        self._take_back(scope)

    def _take_back(self, scope: str) -> None:
        self._num_free += 1
        self._running[scope] -= 1
        if not self._running[scope]:
            del self._running[scope]
        self._give_turns()
